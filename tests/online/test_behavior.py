"""Behaviour policies: recipe, provenance, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError, PolicyError, UnknownNameError
from medgym_offline.online import behavior
from medgym_offline.online.behavior import behavior_path, load_behavior, train_behavior, train_behavior_files
from medgym_offline.online.recipe import SCOPES, BehaviorRecipe, load_recipe
from medgym_offline.policies import load_policy
from medgym_offline.simulators import SimulatorBank

QUICK = {"updates": 2, "episodes": 2, "hidden": 8}
RECIPE = BehaviorRecipe(decisions=4, settings=dict.fromkeys(SCOPES, QUICK))


def test_files_round_trip_with_provenance(
    tiny_bank: SimulatorBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tiny_bank.select([0, 1])
    files = train_behavior_files(bank, ["fixed", "adaptive"], ["ind", "pop", "dr"], tmp_path, False, recipe=RECIPE)
    assert {f.name for f in files} == {
        f"{bank.name}-{scope}-{timing}.safetensors"
        for scope in ("ind", "pop", "dr")
        for timing in ("fixed", "adaptive")
    }
    monkeypatch.setattr(behavior, "release_folder", lambda name: tmp_path.parent / name)
    (tmp_path.parent / "generation").mkdir(exist_ok=True)
    (tmp_path.parent / "generation" / "behaviors").symlink_to(tmp_path)
    ind = load_behavior(bank.name, "ind", "adaptive")
    assert ind.patients == bank.patients
    assert ind.decisions == 4
    assert ind.provenance["recipe_hash"] == RECIPE.content_hash
    assert ind.provenance["bank_hash"] == bank.content_hash
    assert ind.provenance["training"]["fine_tune_from"]
    assert load_behavior(bank.name, "dr", "fixed").patients is None
    x = np.random.default_rng(0).normal(size=(2, 3, 9)).astype(np.float32)
    assert ind.act(x).shape == (2, 3, 4)


def test_ind_trains_dr_first_and_equals_starting_from_it(tiny_bank: SimulatorBank) -> None:
    bank = tiny_bank.select([0, 1])
    whole = train_behavior(bank, "fixed", "ind", recipe=RECIPE, progress=False)
    dr = train_behavior(bank, "fixed", "dr", recipe=RECIPE, progress=False)
    second = train_behavior(bank, "fixed", "ind", recipe=RECIPE, initial=dr.actor, progress=False)
    assert torch.equal(whole.state.actor, second.state.actor)


def test_missing_and_unknown_behaviours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behavior, "release_folder", lambda name: tmp_path)
    with pytest.raises(PolicyError, match="medgym-offline behavior train --bank sepsis-v9"):
        load_behavior("sepsis-v9")
    with pytest.raises(UnknownNameError, match="did you mean 'ind'"):
        load_behavior("sepsis-v0", scope="indi")
    with pytest.raises(UnknownNameError, match="timing"):
        behavior_path("sepsis-v0", timing="adaptiv")


def test_the_release_recipe_is_valid() -> None:
    recipe = load_recipe()
    assert recipe.config("dr").shared
    assert recipe.config("ind").reset_std == 0.35
    assert recipe.config("ind").value_warmup >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "not a TOML recipe"),
        ("sed = 1", "did you mean 'seed'"),
        ("[settings.inds]\nupdates = 1", "did you mean"),
        ("[settings.ind]\nupdate = 1", "did you mean 'updates'"),
        ("[settings.ind]\nradius = -1", "radius"),
        ("[settings.ind]\nradius = 'wide'", "wrong type"),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "behaviors.toml"
    file.write_text(text)
    with pytest.raises(MedGymError, match=message) as error:
        load_recipe(file)
    assert "behaviors.toml" in str(error.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(MedGymError, match="cannot read"):
        load_recipe(tmp_path / "none.toml")


def test_saved_policy_is_the_trained_one(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    bank = tiny_bank.select([0])
    (file,) = train_behavior_files(bank, ["fixed"], ["ind-scratch"], tmp_path, False, recipe=RECIPE)
    trained = train_behavior(bank, "fixed", "ind-scratch", recipe=RECIPE, progress=False).actor
    x = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_policy(file).act(x), trained.act(x))
