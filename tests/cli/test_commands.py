"""The commands: every help, the chain, machine-readable output, and one line for what a user gets wrong."""

import csv
import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.main import get_command

from medgym_offline.cli import app
from medgym_offline.datasets import catalogue
from tests.leaderboard.workshop import DATASET, PATIENTS, refused, run


def commands(group, before=""):
    """Names of the commands of a group and of the groups in it, with the commands."""
    for word, command in group.commands.items():
        inside = hasattr(command, "commands")
        yield from commands(command, f"{before}{word} ") if inside else [(before + word, command)]


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command):
    done = run(*command.split(), "--help")
    assert done.code == 0
    assert f"Example: medgym-offline {command}" in " ".join(done.out.replace("│", " ").split())


def test_wrong_usage_exits_with_2():
    for words in ("eval", "eval --policy", "no-such-command", "eval --policy zero --episodes x"):
        done = run(*words.split())
        assert (done.code, "Traceback" in done.err) == (2, False), words


def test_an_interrupt_exits_with_130(monkeypatch):
    monkeypatch.setattr(catalogue, "list_datasets", Mock(side_effect=KeyboardInterrupt))
    assert run("list") == (130, "", "interrupted\n")


def test_list_and_info_speak_json(shop):
    listed = {info["id"]: info for info in json.loads(run("list", "--json").out)}
    info = listed[DATASET]
    assert (info["episodes"], "medgym/sepsis-ind-v0" in listed) == (4 * PATIENTS, True)
    assert json.loads(run("info", DATASET, "--json").out) == info
    assert DATASET in run("list").out
    assert info["identity"] in run("info", DATASET).out


def test_options_mean_the_same_in_every_command():
    """A parameter of one name is spelled alike wherever it appears, and every option says what it does."""
    forms = {"output": ("--output", "-o")}
    for words, command in COMMANDS.items():
        for option in (p for p in command.params if p.param_type_name == "option"):
            spelled = (*option.opts, *option.secondary_opts)
            assert forms.setdefault(option.name, spelled) == spelled, words
            assert option.help, (words, option.name)


def test_train_leaves_policies_and_logs_and_names_the_next_command(shop):
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


def test_eval_prints_the_json_of_the_file_with_every_patient(shop):
    argv = shop.evaluate("--policy", "zero", "--patients", "2", "--worlds", "own,crossfit", "--seed", "5")
    done = run(*argv, "--json", "--output", "out")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    told = [(world["world"], world.pop("per_patient")["patient"]) for world in result["worlds"]]
    assert told == [("own", ["prior/0", "prior/1"]), ("crossfit", ["prior/0", "prior/1"])]
    written = json.loads(Path("out/result.json").read_text())
    assert (written.pop("table")["file"], written["protocol"]["seed"]) == ("result.parquet", 5)
    assert result == written
    assert Path("out/report.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_without_d3rlpy_one_line_says_how_to_install_it(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    line = refused("train", "d3rlpy-iql", "--dataset", DATASET, "--output", "runs/iql")
    assert "d3rlpy-iql needs d3rlpy" in line
    assert line.endswith('pip install "medgym-offline[d3rlpy]"')


def test_what_a_user_gets_wrong_is_one_line_that_helps(shop, tmp_path):
    zero = shop.evaluate("--policy", "zero")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "file").write_text("in the way")
    wrong = [
        ((*zero, "--patients", "prior/00"), "prior/0"),
        ((*zero, "--worlds", "heldout"), "crossfit"),
        ((*zero, "--patients", "1", "--output", tmp_path / "file" / "out"), "file"),
        *(((command, "medgym/sepsis-in-v0"), "medgym/sepsis-ind-v0") for command in ("info", "verify", "generate")),
        (("download", "medgym/sepsis-in-v0"), "medgym/sepsis-ind-v0"),
        (("train", "cql", "--dataset", "medgym/workshp-v0", "--output", "x"), DATASET),
        (("train", "gccql", "--dataset", DATASET, "--output", "x"), "gcql"),
        (("train", "cql", "--dataset", DATASET, "--scope", "idn", "--output", "x"), "ind"),
        (("train", "cql", "--dataset", DATASET, "--device", "cpuu", "--output", "x"), "cpu, cuda"),
        (("simulators", "info", "no-such-bank"), "no-such-bank"),
        (("report", tmp_path / "other.json", "--output", "r.html"), "other.json"),
        (("report", "absent.json", "--output", "r.html"), "absent.json"),
    ]
    for argv, words in wrong:
        assert words in refused(*argv), argv
