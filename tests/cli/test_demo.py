"""The demo and the examples, on a small bank."""

import json
import os
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

from medgym_offline.commands.demo import run_demo
from medgym_offline.leaderboard.board import read_board
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.files import save_policy
from medgym_offline.stack import StackedMLP
from tests.helpers import mapped_bank, write_recipe
from tests.leaderboard.workshop import DATASET, run

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demo_runs_the_whole_chain(tmp_path, capsys, monkeypatch):
    bank, folder = mapped_bank(3), tmp_path / "demo"
    bank.save(tmp_path / "bank.safetensors")
    actor = StackedActor(StackedMLP(3, (9, 8, 4), seeds=[1, 2, 3]), bank.patients, 20)
    save_policy(actor, tmp_path / "behavior.safetensors")
    fields = {"id": "medgym/small-v0", "description": "Small.", "bank": "bank.safetensors"}
    recipe = write_recipe(tmp_path / "r.toml", **fields, behavior="behavior.safetensors", episodes=4)
    before = os.environ["MINARI_DATASETS_PATH"]

    evaluations = run_demo(folder, patients=2, recipe=recipe, updates=3, episodes=1)

    learned = {f"{algorithm}-{scope}" for algorithm in ("dqn", "cql", "gcql") for scope in ("ind", "pop")}
    assert set(evaluations) == {"behavior", "clinician", "random", "zero"} | learned
    assert {e.name for e in read_board(folder / "leaderboard.json")} == set(evaluations)
    assert {path.parent.name for path in folder.glob("submissions/*/entry.json")} == set(evaluations)
    assert (folder / "report.html").stat().st_size > 10_000
    result = json.loads((folder / "results" / "gcql-pop" / "result.json").read_text())
    assert ([w["world"] for w in result["worlds"]], result["policy"]["scope"]) == (["own", "crossfit"], "pop")
    assert result["dataset"]["reference_returns"], "of the demo's own dataset"
    said, _, suggested = capsys.readouterr().out.partition("a policy of yours")
    assert "What to do next" in said
    told = subprocess.run(shlex.split(suggested), capture_output=True, text=True, check=True).stdout
    assert "evaluate(" in told, "what is suggested works wherever the package is"
    assert os.environ["MINARI_DATASETS_PATH"] == before
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    submission = folder / "submissions" / "gcql-ind"
    again = run("leaderboard", "verify", submission, "--bank", tmp_path / "bank.safetensors", "--no-fresh")
    assert again.code == 0, again.out


SAYS = {
    "load_dataset": "episodes end at hour {96.0}",
    "train_and_evaluate": "Ind over Pop, crossfit world",
    "own_policy_torch": "two patients: surrogate SOFA",
    "gymnasium_loop": "returns of eight random episodes",
    "history_policy": "by hand: an episode's return is -",
}


@pytest.mark.parametrize("script", SAYS)
def test_examples_are_short_and_run(shop, script, monkeypatch, capsys):
    path = EXAMPLES / f"{script}.py"
    assert len(path.read_text().splitlines()) <= 60
    arguments = {"load_dataset": [DATASET], "gymnasium_loop": [str(shop.bank)]}
    monkeypatch.setattr("sys.argv", [str(path), *arguments.get(script, [DATASET, str(shop.bank), "3", "1"])])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[script] in capsys.readouterr().out
