"""The commands: every help, the order of the chain, machine-readable output."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.workshop import DATASET, PATIENTS, Workshop, run

COMMANDS = (
    "demo",
    "list",
    "info",
    "download",
    "verify",
    "generate",
    "train",
    "eval",
    "ope",
    "report",
    "submit",
    "leaderboard add",
    "leaderboard verify",
    "leaderboard build",
    "cohort build",
    "cohort card",
    "simulators fit",
    "simulators info",
    "simulators audit",
    "behavior train",
    "behavior train-all",
    "publish",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.code == 0
    assert f"Example: medgym-offline {command}" in " ".join(done.out.replace("│", " ").split())


def test_wrong_usage_exits_with_2() -> None:
    for argv in (["eval"], ["eval", "--policy"], ["no-such-command"], ["eval", "--policy", "zero", "--episodes", "x"]):
        done = run(*argv)
        assert done.code == 2, argv
        assert "Traceback" not in done.err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    import medgym_offline.datasets

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(medgym_offline.datasets, "list_datasets", interrupted)
    done = run("list")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_list_and_info_speak_json(shop: Workshop) -> None:
    listed = {info["id"]: info for info in json.loads(run("list", "--json").out)}
    assert listed[DATASET]["episodes"] == 4 * PATIENTS
    assert "medgym/sepsis-ind-v0" in listed
    info = json.loads(run("info", DATASET, "--json").out)
    assert info == listed[DATASET]
    assert DATASET in run("list").out
    assert info["identity"] in run("info", DATASET).out


def test_options_mean_the_same_in_every_command() -> None:
    """A parameter of one name is spelled alike wherever it appears, and every option says what it does."""
    from typer.main import get_command

    from medgym_offline.cli import app

    def leaves(command: Any) -> Iterator[Any]:
        for child in getattr(command, "commands", {}).values():
            yield from leaves(child)
        if not hasattr(command, "commands"):
            yield command

    forms: dict[str, set[tuple[str, ...]]] = {}
    for command in leaves(get_command(app)):
        for option in command.params:
            if option.param_type_name == "option":
                forms.setdefault(option.name, set()).add((*option.opts, *option.secondary_opts))
                assert option.help, (command.name, option.name)
    assert forms["output"] == {("--output", "-o")}
    assert {name for name, spelled in forms.items() if len(spelled) > 1} == set()


def test_train_leaves_policies_and_logs_and_names_the_next_command(shop: Workshop) -> None:
    for seed in (0, 1):
        assert shop.policy(seed).is_file()
        with open(shop.policy(seed).with_suffix(".csv"), newline="") as stream:
            assert int(float(list(csv.DictReader(stream))[-1]["update"])) == 5
    done = run("train", "dqn", "--dataset", DATASET, "--updates", "2", "--patients", "2", "--output", "runs/two")
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("next: medgym-offline ")]
    # The printed command is a command: it names the patients that the policy knows, and runs.
    argv = line.removeprefix("next: medgym-offline ").split()
    assert run(*argv[:-1], "runs/told", "--bank", shop.bank, "--episodes", "1").code == 0


def test_eval_prints_the_json_of_the_file_with_every_patient(shop: Workshop) -> None:
    argv = shop.evaluate("--policy", "zero", "--patients", "2", "--worlds", "own,crossfit", "--seed", "5")
    done = run(*argv, "--json", "--output", "out")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [world["world"] for world in result["worlds"]] == ["own", "crossfit"]
    assert [world.pop("per_patient")["patient"] for world in result["worlds"]] == [["prior/0", "prior/1"]] * 2
    written = json.loads(Path("out/result.json").read_text())
    assert written.pop("table")["file"] == "result.parquet"
    assert result == written
    assert result["protocol"]["seed"] == 5
    page = Path("out/report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
