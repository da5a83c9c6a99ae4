"""`medgym-offline ope`, from a recipe file to its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medgym_offline.datasets import generate
from medgym_offline.simulators import SimulatorBank
from tests.leaderboard.workshop import run

RECIPE = """
id = "medgym/{name}"
description = "Test."
bank = "bank.safetensors"
behavior = "{behavior}"
episodes = 4
perturbation = {perturbation}
"""


@pytest.fixture
def dataset(tiny_bank: SimulatorBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    tiny_bank.save("bank.safetensors")
    for name, behavior, perturbation in (("mix-v0", "zero + random", 0.05), ("still-v0", "zero", 0.0)):
        path = Path(f"{name}.toml")
        path.write_text(RECIPE.format(name=name, behavior=behavior, perturbation=perturbation))
        generate(path, progress=False)
    return "medgym/mix-v0"


def test_tables_file_and_json(dataset: str) -> None:
    argv = ("ope", "--dataset", dataset, "--policy", "random", "--policy", "zero", "--episodes", "3", "--updates", "50")
    done = run(*argv, "--output", "out")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "4 patients x 4 logged episodes" in text
    assert "regret@1" in text
    assert "warning: effective sample size below 10 episodes" in text
    value = json.loads(Path("out/ope.json").read_text())
    assert value["policies"] == ["random", "zero"]
    assert [p["name"] for p in value["info"]["behavior"]["parts"]] == ["zero", "random"]
    again = run(*argv, "--json", "--patients", "2")
    found = json.loads(again.out)
    assert found["patients"] == value["patients"][:2]
    # A patient's numbers do not depend on who else is there, to float32 rounding.
    for name, estimates in found["estimates"].items():
        np.testing.assert_allclose(estimates, np.array(value["estimates"][name])[:, :2], rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(found["truth"]["own"], np.array(value["truth"]["own"])[:, :2], rtol=1e-4)
