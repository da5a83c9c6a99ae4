"""Behavior policies: recipe, files, provenance; the same bits on every engine and after a kill; early policies."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from medgym_offline.errors import MedGymError, PolicyError, UnknownNameError
from medgym_offline.online import config, load_behavior, train_behavior, train_behavior_files
from medgym_offline.online.behavior import BehaviorRun
from medgym_offline.online.config import RELEASE, SCOPES, BehaviorRecipe, behavior_path, load_recipe
from medgym_offline.online.jobs import EngineOptions
from tests.helpers import refused
from tests.leaderboard.workshop import run

QUICK = {"updates": 4, "episodes": 4, "hidden": 8, "value_warmup": 1, "radius": 0.1}
RECIPE = BehaviorRecipe(decisions=4, shard=1, early_updates=4, early_episodes=4, settings=dict.fromkeys(SCOPES, QUICK))
OBSERVED = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bank(tiny_bank):
    return tiny_bank.select([0, 1])


@pytest.fixture(scope="module")
def local(bank):
    """Everything that ships with a bank, trained in this process without a folder."""
    run = BehaviorRun(bank, RECIPE, progress=False)
    run.train(RELEASE)
    return run


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "TOML"),
        ("sed = 1", "did you mean 'seed'"),
        ("shard = 0", "'shard' is 0"),
        ("algorithm = 'trpo-lagg'", "did you mean 'trpo-lag'"),
        ("[settings.inds]\nupdates = 1", "inds"),
        ("[settings.ind]\nupdate = 1", "did you mean 'updates'"),
        ("[settings.ind]\nradius = -1", "radius"),
        ("[settings.ind]\nradius = 'wide'", "'wide', expected a number"),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "behaviors.toml"
    file.write_text(text)
    refused(MedGymError, rf"behaviors\.toml.*{message}", lambda: load_recipe(file))
    refused(MedGymError, r"none\.toml", lambda: load_recipe(tmp_path / "none.toml"))


def test_wrong_choices(tiny_bank, tmp_path, monkeypatch):
    refused(UnknownNameError, "trained scope", lambda: train_behavior(tiny_bank, "fixed", "ind-medium", recipe=RECIPE))
    with pytest.raises(MedGymError, match="cannot fill 96 h"):
        train_behavior(tiny_bank, "fixed", "dr", recipe=dataclasses.replace(RECIPE, decisions=2))
    refused(MedGymError, "unknown device 'gpu'", lambda: EngineOptions(device="gpu"))
    monkeypatch.setattr(config, "release_folder", lambda name: tmp_path)
    refused(PolicyError, "medgym-offline behavior train --bank sepsis-v9", lambda: load_behavior("sepsis-v9"))
    refused(UnknownNameError, "did you mean 'ind'", lambda: load_behavior("sepsis-v0", scope="indi"))
    refused(UnknownNameError, "timing", lambda: behavior_path("sepsis-v0", timing="adaptiv"))


# -- training ----------------------------------------------------------------------------------------------------------


def test_files_of_worker_processes_hold_the_same_bits_and_say_what_they_are(local, tmp_path, monkeypatch):
    bank, pairs = local.bank, [(scope, "adaptive") for scope in ("ind", "pop", "dr")]
    monkeypatch.setattr(config, "release_folder", lambda name: tmp_path)
    given = {"recipe": RECIPE, "checkpoints": tmp_path / "run", "options": EngineOptions("process", workers=2)}
    files = train_behavior_files(bank, pairs, tmp_path / "behaviors", False, **given)
    assert [f.name for f in files] == [f"{bank.name}-{scope}-adaptive.safetensors" for scope, _ in pairs]
    for scope, timing in pairs:
        found, wanted = load_behavior(bank.name, scope, timing), local.results[scope, timing].policy
        assert found.patients == wanted.patients == (bank.patients if scope == "ind" else None)
        assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in found.state_dict().items())
        assert found.decisions == 4
        assert found.provenance["recipe_hash"] == RECIPE.content_hash
        assert found.provenance["bank_hash"] == bank.content_hash
        assert bool(found.provenance["training"]["fine_tune_from"]) == (scope == "ind")
    assert load_behavior(bank.name).act(OBSERVED).shape == (2, 5, 4)
    with pytest.raises(MedGymError, match=r"another recipe \(recipe.seed: 0 -> 1\)"):
        changed = dataclasses.replace(RECIPE, seed=1)
        train_behavior(bank, "adaptive", "ind", recipe=changed, checkpoints=tmp_path / "run", progress=False)


def test_everything_that_ships_is_trained_and_early_policies_say_how_far_they_are(local):
    assert {*local.results, *local.early} >= set(RELEASE)
    assert ("ind-scratch", "adaptive") not in local.results  # only as far as ind-medium needs
    medium = local.early["ind-medium", "adaptive"]
    assert medium.provenance["taken_from"] == "ind-scratch"
    replays = [local.early[f"dr-replay-{n}", "adaptive"] for n in (25, 50, 75)]
    for policy, patients, shares in ((medium, local.bank.patients, len(local.bank)), (replays[0], None, 1)):
        assert (policy.patients, len(policy.provenance["share"])) == (patients, shares)
    updates = [policy.provenance["update"][0] for policy in replays]
    assert updates == sorted(updates)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_whole_stack_trains_on_a_gpu(local, bank):
    run = BehaviorRun(bank, RECIPE, options=EngineOptions(device="cuda"), progress=False)
    run.train([("ind", "adaptive"), ("ind-medium", "adaptive"), ("dr-replay-50", "adaptive")])
    ours, theirs = local.results["dr", "adaptive"].log, run.results["dr", "adaptive"].log
    assert torch.allclose(ours["return"][0], theirs["return"][0], rtol=1e-3)
    refused(MedGymError, "engine 'local'", lambda: EngineOptions("process", device="cuda"))


# -- the command -------------------------------------------------------------------------------------------------------

PATIENCE = 300
"""Seconds that a busy machine may take for what takes a few."""
SETTINGS = "decisions = 4\nshard = 2\npatience = 1000\n[settings.ind-scratch]\nupdates = 60\nepisodes = 4\nhidden = 8\n"


def test_a_killed_run_ends_with_the_same_bits(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "recipe.toml").write_text(SETTINGS)

    def words(folder):
        paths = {"--bank": "bank.safetensors", "--recipe": "recipe.toml", "--output": folder}
        options = [word for option, path in paths.items() for word in (option, str(tmp_path / path))]
        return ["behavior", "train", "--scope", "ind-scratch", *options]

    command = [sys.executable, "-c", "from medgym_offline.cli import main; main()", *words("killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed/checkpoints" / bank.name / "checkpoints/ind-scratch-adaptive-000.state.safetensors"
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    name = f"{bank.name}-ind-scratch-adaptive.safetensors"
    assert not (tmp_path / "killed" / name).exists()
    with safe_open(checkpoint, "pt") as stream:
        assert 0 < int(stream.metadata()["update"]) < 60
    for folder in ("killed", "whole"):
        done = run(*words(folder))
        assert done.code == 0, done.err
    whole, again = (load_file(tmp_path / folder / name) for folder in ("whole", "killed"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
