"""Two kinds of processor, as two sets of instructions: each accepts what the other made, and neither what was changed.

Every step runs in a process of its own, whose torch and MKL see only the instructions named.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers import mapped_bank, write_recipe

SETS = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
}
DATASET = "medgym/sepsis-two-machines-v0"

# The release of the test: its recipe, and the manifest as the first machine wrote it.
STEPS = """
import contextlib, io, json, os, sys
from pathlib import Path

from medgym_offline import cli
from medgym_offline.datasets import catalogue, recipes

release = Path(os.environ["RELEASE"])
for module in (catalogue, recipes):
    module.release_folder = lambda name: release
done = []
for argv in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(argv)
        except SystemExit as ended:
            code = ended.code or 0
    done.append({"argv": argv, "code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(done))
"""


class Machine:
    """A place with its own datasets, cache and instructions."""

    def __init__(self, root, instructions):
        self.home, self.instructions, self.release = root / instructions, instructions, root / "release"
        self.home.mkdir(parents=True, exist_ok=True)

    def run(self, *steps):
        own = {
            "MINARI_DATASETS_PATH": str(self.home / "minari"),
            "MEDGYM_CACHE": str(self.home / "cache"),
            "RELEASE": str(self.release),
        }
        environment = {**os.environ, **SETS[self.instructions], **own, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STEPS, json.dumps(steps)]
        ended = subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])


def good(steps):
    for step in steps:
        assert step["code"] == 0, step


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Each has generated the data, trained two seeds, evaluated and packed them."""
    root = tmp_path_factory.mktemp("machines")
    bank = root / "release" / "bank.safetensors"
    bank.parent.mkdir()
    mapped_bank(3).save(bank)
    fields = {"id": DATASET, "description": "Zero.", "bank": bank.name, "behavior": "zero", "episodes": 10}
    write_recipe(bank.parent / "sepsis-two-machines-v0.toml", **fields)
    found = {name: Machine(root, name) for name in SETS}
    train = ("train", "bc", "--dataset", DATASET, "--updates", "40", "--seeds", "2", "--output", "bc")
    results = [f"result{n}" for n in (0, 1)]
    how = ("--dataset", DATASET, "--bank", str(bank), "--episodes", "2", "--output")
    evaluate = [("eval", "--policy", f"bc/bc-ind-seed{n}.safetensors", *how, results[n]) for n in (0, 1)]
    submit = ("submit", *results, "--name", "BC", "--output", "submission")

    steps = (("generate", DATASET), train, *evaluate, submit)
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda machine: machine.run(*steps), found.values()):
            good(done)
    made = found["avx2"].home / "minari" / DATASET / "data" / "manifest.json"
    shutil.copy(made, bank.parent / "sepsis-two-machines-v0.manifest.json")
    return found


def manifest(machine):
    return json.loads((machine.home / "minari" / DATASET / "data" / "manifest.json").read_text())


def test_each_verifies_what_the_other_made(machines):
    one, other = machines["default"], machines["avx2"]
    assert manifest(one)["identity"] == manifest(other)["identity"]
    bank = str(one.release / "bank.safetensors")
    check = ("leaderboard", "verify", str(other.home / "submission"), "--bank", bank)
    checked, entry, again = one.run(("verify", DATASET), check, (*check, "--retrain", "--no-fresh"))
    good([checked, entry, again])
    assert "identical to the release's rows" in checked["out"] or "equal to the release's rows" in checked["out"]
    assert "accepted" in entry["out"]
    assert "trained again: " in again["out"]
    good(other.run(("leaderboard", "verify", str(one.home / "submission"), "--bank", bank)))
