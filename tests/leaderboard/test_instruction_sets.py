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
import json, os, sys
from pathlib import Path

from medgym_offline import cli
from medgym_offline.datasets import catalogue, recipes

for module in (catalogue, recipes):
    module.release_folder = lambda name: Path(os.environ["RELEASE"])
for argv in json.loads(sys.argv[1]):
    try:
        cli.main(argv)
    except SystemExit as ended:
        if ended.code:
            raise
"""


def run(home, *steps):
    """Take steps, which must succeed, on the machine that has this folder and the instructions of its name."""
    home.mkdir(exist_ok=True)
    own = {
        "MINARI_DATASETS_PATH": str(home / "minari"),
        "MEDGYM_CACHE": str(home / "cache"),
        "RELEASE": str(home.parent / "release"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", STEPS, json.dumps(steps)]
    environment = os.environ | SETS[home.name] | own
    ended = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def manifest(home):
    return home / "minari" / DATASET / "data" / "manifest.json"


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Folders by instructions; on each the data were generated, two seeds trained, evaluated and packed."""
    root = tmp_path_factory.mktemp("machines")
    bank = root / "release" / "bank.safetensors"
    bank.parent.mkdir()
    mapped_bank(3).save(bank)
    fields = {"id": DATASET, "description": "Zero.", "bank": bank.name, "behavior": "zero", "episodes": 10}
    write_recipe(bank.parent / "sepsis-two-machines-v0.toml", **fields)
    train = ("train", "bc", "--dataset", DATASET, "--updates", "40", "--seeds", "2", "--output", "bc")
    results = [f"result{n}" for n in (0, 1)]
    how = ("--dataset", DATASET, "--bank", str(bank), "--episodes", "2", "--output")
    evaluate = [("eval", "--policy", f"bc/bc-ind-seed{n}.safetensors", *how, results[n]) for n in (0, 1)]
    submit = ("submit", *results, "--name", "BC", "--output", "submission")
    homes = [root / name for name in SETS]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda home: run(home, ("generate", DATASET), train, *evaluate, submit), homes))
    shutil.copy(manifest(root / "avx2"), bank.parent / "sepsis-two-machines-v0.manifest.json")
    return homes


def test_each_verifies_what_the_other_made(machines):
    one, other = machines
    assert len({json.loads(manifest(home).read_text())["identity"] for home in machines}) == 1
    bank = str(one.parent / "release" / "bank.safetensors")
    check = ("leaderboard", "verify", str(other / "submission"), "--bank", bank)
    said = run(one, ("verify", DATASET), check, (*check, "--retrain", "--no-fresh"))
    assert "identical to the release's rows" in said or "equal to the release's rows" in said
    assert said.count(": accepted") == 2
    assert "trained again: " in said
    run(other, ("leaderboard", "verify", str(one / "submission"), "--bank", bank))
