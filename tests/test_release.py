"""What ships: banks, behaviors and manifests agree with each other and with their recipes, and keep their promises."""

import functools
import json

import numpy as np
import pytest
import torch

from medgym_offline import evaluate, load_simulators
from medgym_offline.datasets import list_datasets, list_recipes
from medgym_offline.files import release_folder
from medgym_offline.online import load_behavior
from medgym_offline.online.behavior import RELEASE
from medgym_offline.simulators.audit import audit
from medgym_offline.simulators.build import read_recipe
from medgym_offline.simulators.checks import map_checks


@pytest.fixture(scope="module")
def bank():
    return load_simulators("sepsis-v0")


@pytest.mark.parametrize("name", ["sepsis-v0", "sepsis-plain-v0", "sepsis-twin-v0"])
def test_banks_are_of_their_recipes_and_name_their_source(name):
    bank = load_simulators(name)
    recipe = read_recipe(release_folder("generation") / f"{name}.toml")
    assert bank.metadata["recipe_hash"] == recipe.hash
    assert bank.physics == recipe.physics
    assert len(bank) == recipe.patients == len(set(bank.metadata["cohort"]["subjects"]))
    assert ("synthetic" if "twin" in name else "ODbL") in bank.metadata["license"]
    assert bank.worlds[:2] == ("own", "crossfit")
    assert (release_folder("generation") / "banks" / f"{name}.safetensors").stat().st_size < 10e6
    claimed = bank.content_hash
    bank.known_hash = None
    assert bank.content_hash == claimed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sepsis-v0", "sepsis-twin-v0"])
def test_banks_pass_every_hard_check_of_their_audit(name, tmp_path):
    found = audit(load_simulators(name), tmp_path, show=False)["hard_checks"]
    assert (len(found), [c["check"] for c in found if not c["passed"]]) == (12, [])


def test_solution_map_is_exact_at_zero_and_within_its_stated_errors(bank):
    some = bank.select(range(0, 110, 5))
    x, u = some.initial_state().unsqueeze(1), torch.full((len(some), 1, 3), 0.4)
    assert torch.equal(some.flow(x, u, torch.zeros(len(some), 1)), x)
    errors = map_checks(some, rows=4)
    for hours, median, p99 in (("0.5", 0.01, 0.06), ("6.0", 0.02, 0.1), ("24.0", 0.03, 0.2), ("36.0", 0.03, 0.25)):
        for kind in ("error", "composition"):
            assert (np.array(errors[kind][hours][:2]) < (median, p99)).all()


@pytest.mark.parametrize("name", ["sepsis-v0", "sepsis-twin-v0"])
def test_every_behavior_of_the_release_ships_and_was_trained_on_its_bank(name):
    bank = load_simulators(name)
    # A world's name is part of the hash, and one was called otherwise once.
    known = {bank.content_hash, bank.metadata.get("content_hash_before_renaming")}
    for scope, timing in RELEASE:
        assert load_behavior(name, scope, timing).provenance["bank_hash"] in known


@pytest.mark.parametrize("timing", ["adaptive", "fixed"])
def test_behaviors_beat_random_and_zero_for_almost_every_patient(bank, timing):
    options = {"timing": timing, "bank": bank.select(range(0, 110, 10)), "episodes": 6, "worlds": ("own",)}
    behavior, *others = (evaluate(n, **options).per_patient["return"] for n in ("behavior", "random", "zero"))
    for other in others:
        assert (behavior > other).mean() >= 0.9


def test_manifests_belong_to_these_artefacts(bank):
    described = [d for d in list_datasets() if d.sha256]
    assert {"medgym/sepsis-ind-v0", "medgym/sepsis-ind-fixed-v0"} <= {d.id for d in described}
    paths = {p.name.removesuffix(".manifest.json"): p for p in release_folder("datasets").glob("*.manifest.json")}
    assert set(paths) == {name.rpartition("/")[2] for name in list_recipes()}
    hash_of = functools.cache(lambda name: load_simulators(name).content_hash)
    for path in paths.values():
        text = path.read_text(encoding="utf-8")
        assert hash_of(json.loads(text)["recipe"]["bank"]) in text, path.name
    for dataset in described:
        if dataset.id.startswith("medgym/sepsis-ind"):
            returns = dataset.reference_returns
            assert returns["random"] < returns["behavior"] <= returns["expert"] + 1e-6
            assert dataset.episodes == 110 * 100
