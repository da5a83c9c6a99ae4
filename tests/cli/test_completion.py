"""Shell completion, as the shell asks for it, and the speed of what it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medgym_offline.commands import completion
from tests.leaderboard.workshop import DATASET, Workshop

PROGRAM = Path(sys.executable).with_name("medgym-offline")


def complete(*words: str) -> list[str]:
    """What Tab offers in bash after `medgym-offline words`, the last of which is being typed."""
    asked = {
        "_MEDGYM_OFFLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("medgym-offline", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([PROGRAM], capture_output=True, text=True, env=os.environ | asked, check=False, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_options_and_values_are_completed(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(shop.minari))
    assert complete("info", "medgym/sepsis-ind-v") == ["medgym/sepsis-ind-v0"]
    assert complete("train", "gcql", "--dataset", "medgym/work") == [DATASET]  # one that is only on this machine
    assert complete("eval", "--worlds", "own,c") == ["own,crossfit"]


def test_names_are_those_of_the_library() -> None:
    from medgym_offline.offline import ALGORITHMS
    from medgym_offline.online.config import ALGORITHMS as ONLINE
    from medgym_offline.online.recipe import BEHAVIORS, SCOPES
    from medgym_offline.policies.builtin import BUILTIN_POLICIES
    from medgym_offline.simulators.files import list_banks
    from medgym_offline.third_party import BASELINES

    assert set(completion.ALGORITHMS) == set(ALGORITHMS) | set(BASELINES)
    assert set(completion.ONLINE_ALGORITHMS) == set(ONLINE)
    assert set(completion.BEHAVIORS) == {*BEHAVIORS, *SCOPES}
    assert set(completion.POLICIES) == {*BUILTIN_POLICIES, "behavior"} - {"constant"}  # a constant needs its numbers
    assert completion.bank_names() == list_banks()


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_the_script_for_bash_works_there() -> None:
    lines = (
        'eval "$(medgym-offline --show-completion)"',  # finds out by itself that the shell is bash
        "name=$(complete -p medgym-offline | sed 's/.*-F \\([^ ]*\\).*/\\1/')",
        "COMP_WORDS=(medgym-offline leaderboard ver) COMP_CWORD=2",
        '"$name" medgym-offline && echo "offers ${COMPREPLY[*]}"',
    )
    env = os.environ | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/bash", "-c", "\n".join(lines)], capture_output=True, text=True, env=env, check=False)
    assert "offers verify" in done.stdout, done.stderr
