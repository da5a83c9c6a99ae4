"""Behaviour training over engines: the same bits everywhere and after a kill; early policies; the report."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError, UnknownNameError
from medgym_offline.online.behavior import RELEASE, train_behavior, train_behavior_files
from medgym_offline.online.recipe import SCOPES, BehaviorRecipe
from medgym_offline.online.report import interval_table, training_report
from medgym_offline.online.runs import BehaviorRun, EngineOptions
from medgym_offline.policies import load_policy
from medgym_offline.policies.actor import StackedActor
from medgym_offline.simulators import SimulatorBank

QUICK = {"updates": 4, "episodes": 4, "hidden": 8, "value_warmup": 1, "radius": 0.1}
RECIPE = BehaviorRecipe(decisions=4, shard=1, early_updates=4, early_episodes=4, settings=dict.fromkeys(SCOPES, QUICK))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def equal(a: Path, b: Path) -> bool:
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture(scope="module")
def bank(tiny_bank: SimulatorBank) -> SimulatorBank:
    return tiny_bank.select([0, 1])


@pytest.fixture(scope="module")
def local(bank: SimulatorBank) -> BehaviorRun:
    """Everything that ships with a bank, trained in this process without a folder."""
    run = BehaviorRun(bank, RECIPE, progress=False)
    run.train(RELEASE)
    return run


def test_worker_processes_give_the_same_bits_and_files_hold_them(bank: SimulatorBank, tmp_path: Path) -> None:
    (file,) = train_behavior_files(
        bank,
        output=tmp_path,
        progress=False,
        recipe=RECIPE,
        checkpoints=tmp_path / "run",
        options=EngineOptions("process", workers=2),
        wanted=[("ind-scratch", "adaptive")],
    )
    wanted = train_behavior(bank, "adaptive", "ind-scratch", recipe=RECIPE, progress=False).actor.state_dict()
    found = load_policy(file)
    assert isinstance(found, StackedActor)
    assert all(torch.equal(found.state_dict()[name], wanted[name]) for name in wanted)


def test_a_patient_trains_alike_in_a_block_of_another_size(bank: SimulatorBank) -> None:
    one = train_behavior(bank, "adaptive", "ind-scratch", recipe=RECIPE, progress=False)
    other = train_behavior(bank, "adaptive", "ind-scratch", recipe=replace(RECIPE, shard=2), progress=False)
    assert torch.allclose(one.log["return"], other.log["return"], rtol=1e-3, atol=1e-3)
    assert one.actor.patients == bank.patients


def test_everything_that_ships_is_trained_and_early_policies_say_how_far_they_are(local: BehaviorRun) -> None:
    assert {*local.results, *local.early} >= set(RELEASE)
    assert ("ind-scratch", "adaptive") not in local.results  # only as far as ind-medium needs
    medium = local.early["ind-medium", "adaptive"]
    assert medium.patients == local.bank.patients
    assert len(medium.provenance["share"]) == len(local.bank)
    assert medium.provenance["taken_from"] == "ind-scratch"
    replay = local.early["dr-replay-25", "adaptive"]
    assert replay.patients is None
    assert len(replay.provenance["share"]) == 1
    updates = [local.early[f"dr-replay-{n}", "adaptive"].provenance["update"][0] for n in (25, 50, 75)]
    assert updates == sorted(updates)


def test_early_policies_are_the_same_in_float16(local: BehaviorRun, tmp_path: Path) -> None:
    from medgym_offline.policies import save_policy

    medium = local.early["ind-medium", "adaptive"]
    back = load_policy(save_policy(medium, tmp_path / "m.safetensors", torch.float16))
    x = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back.act(x), medium.act(x))
    assert tensors(tmp_path / "m.safetensors")["layers.0.weight"].dtype == torch.float16


def test_half_stores_the_same_training_rounded(bank: SimulatorBank, tmp_path: Path) -> None:
    whole, half = (
        train_behavior_files(bank, ["fixed"], ["dr"], tmp_path / str(half), False, recipe=RECIPE, half=half)[0]
        for half in (False, True)
    )
    for name, value in tensors(whole).items():
        assert value.dtype == torch.float32
        assert torch.equal(tensors(half)[name], value.to(torch.float16)), name
    assert half.stat().st_size < whole.stat().st_size
    x = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_policy(half).act(x), load_policy(whole).act(x), rtol=0, atol=2e-3)


def test_a_folder_of_another_recipe_is_refused(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    bank = tiny_bank.select([0])
    train_behavior(bank, "fixed", "ind-scratch", recipe=RECIPE, checkpoints=tmp_path, progress=False)
    with pytest.raises(MedGymError, match=r"another recipe \(recipe.seed: 0 -> 1\)"):
        train_behavior(
            bank, "fixed", "ind-scratch", recipe=replace(RECIPE, seed=1), checkpoints=tmp_path, progress=False
        )


def test_wrong_choices(tiny_bank: SimulatorBank) -> None:
    with pytest.raises(UnknownNameError, match="trained scope"):
        train_behavior(tiny_bank, "fixed", "ind-medium", recipe=RECIPE)
    with pytest.raises(MedGymError, match="cannot fill 96 h"):
        train_behavior(tiny_bank, "fixed", "dr", recipe=replace(RECIPE, decisions=2))
    with pytest.raises(MedGymError, match="shard is 0"):
        replace(RECIPE, shard=0)
    with pytest.raises(MedGymError, match="unknown device 'gpu'"):
        EngineOptions(device="gpu").check()


def test_without_a_gpu_cuda_is_refused_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MedGymError, match=r"'cuda' is not available here .*use --device cpu"):
        EngineOptions(device="cuda").check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_whole_stack_trains_on_a_gpu(local: BehaviorRun, bank: SimulatorBank) -> None:
    run = BehaviorRun(bank, RECIPE, options=EngineOptions(device="cuda"), progress=False)
    run.train([("ind", "adaptive"), ("ind-medium", "adaptive"), ("dr-replay-50", "adaptive")])
    ours, theirs = local.results["dr", "adaptive"].log, run.results["dr", "adaptive"].log
    assert torch.allclose(ours["return"][0], theirs["return"][0], rtol=1e-3)
    with pytest.raises(MedGymError, match="engine 'local'"):
        EngineOptions("process", device="cuda").check()


def test_the_report_shows_curves_and_quantiles_of_intervals(local: BehaviorRun) -> None:
    shown = BehaviorRun(local.bank, RECIPE, progress=False)
    shown.results = {name: local.results[name] for name in (("dr", "adaptive"), ("dr", "fixed"))}
    shown.early = local.early
    page = training_report(shown)
    assert page.count("<svg") == 2 * 6
    assert "http" not in page  # self-contained
    for title in ("Return per episode", "Cost per decision", "Lagrange multiplier", "KL of the update", "Last hold"):
        assert title in page
    table = interval_table(local, local.results["dr", "adaptive"].actor, "adaptive")
    for quantiles in table.values():
        assert quantiles == sorted(quantiles)
    assert table["every hold"][0] >= 0.5
    assert table["every hold"][-1] <= 36.0
    assert table["decisions used"][-1] <= 4
    fixed = interval_table(local, local.results["dr", "fixed"].actor, "fixed")
    assert np.allclose([fixed["every hold"], fixed["last hold"]], 24.0)
    assert re.search(r"<td>last hold</td><td>24\.00</td>", page)


PATIENCE = 300
"""Seconds that a busy machine may take for what takes a few."""
SETTINGS = """
decisions = 4
shard = 2
[settings.ind-scratch]
updates = 60
episodes = 4
hidden = 8
"""


def test_a_killed_run_ends_with_the_same_bits(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    tiny_bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "recipe.toml").write_text(SETTINGS)

    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from medgym_offline.cli import main; main()", "behavior", "train"]
        command += [
            "--patients",
            "2",
            "--bank",
            str(tmp_path / "bank.safetensors"),
            "--recipe",
            str(tmp_path / "recipe.toml"),
        ]
        command += ["--scope", "ind-scratch", "--patience", "1000", "--output", str(tmp_path / folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    killed = start("killed")
    checkpoint = (
        tmp_path / "killed/checkpoints" / tiny_bank.name / "checkpoints/ind-scratch-adaptive-000.state.safetensors"
    )
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    name = f"{tiny_bank.name}-ind-scratch-adaptive.safetensors"
    assert not (tmp_path / "killed" / name).exists()
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as stream:
        assert 0 < int(stream.metadata()["update"]) < 60
    for folder in ("killed", "whole"):
        assert start(folder).wait(PATIENCE) == 0
    assert equal(tmp_path / "whole" / name, tmp_path / "killed" / name)
