"""Recipes, and their generation: the same bytes however it is cut, interrupted or run; nothing left behind."""

import dataclasses
from functools import partial
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest

from medgym_offline.datasets import generate, list_recipes, load_dataset, read_recipe, recipes, shards, verify
from medgym_offline.datasets.behaviors import resolve_behavior
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.shards import reference_returns
from medgym_offline.envs import ProcessConfig, draw_noise, episode_seeds
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import cache_folder, sha256_file
from medgym_offline.policies import StackedActor, save_policy
from medgym_offline.stack import StackedMLP
from tests.helpers import refused


def test_a_part_has_the_rows_of_the_whole(recipe, rows, tmp_path):
    some = {"patients": ["prior/3", 1], "episodes": 2, "output_id": "medgym/part-v0"}
    found = load_dataset(generate(recipe, root=tmp_path, progress=False, **some).id, root=tmp_path, progress=False)
    assert found.patients == rows.patients
    wanted = rows.select(np.isin(rows.episode, [3, 4, 9, 10]))
    np.testing.assert_array_equal(found.patient, wanted.patient)
    for name in ("observations", "actions", "rewards", "dt", "monitored"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.identity != rows.identity


def test_actions_are_perturbed_as_in_equation_15(recipe, made_zero, root, tiny_bank):
    """a <- clip(a + 0.05 e): the zero policy's action is -1, the noise the episode's own."""
    rows = load_dataset(made_zero.id, root=root, progress=False)
    seeds = episode_seeds(recipe.seed, f"dataset:{made_zero.id}", tiny_bank.patients, 3)
    noise = draw_noise(seeds, tiny_bank, ProcessConfig(timing="fixed", decisions=8)).action.reshape(-1, 3).numpy()
    np.testing.assert_allclose(rows.actions, np.clip(-1.0 + 0.05 * noise, -1.0, 1.0), atol=1e-6)
    assert rows.action_dim == 3
    assert rows.dt == pytest.approx(12.0)


WRONG = [
    ({"behavior": "randon"}, "did you mean 'random'"),
    ({"behavior": "/nowhere/policy.pt"}, "no such policy file"),
    ({"behavior": "ind"}, "no behavior policy"),
    ({"behavior": "zero + randon"}, "did you mean 'random'"),
    ({"world": "true"}, "world"),
    ({"bank": "sepsis-v9"}, "simulator bank"),
    ({"decisions": 2}, "cannot fill 96 h"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_recipes_leave_nothing_behind(recipe, tmp_path, change, message):
    wrong = dataclasses.replace(recipe, **change)
    refused(MedGymError, message, lambda: generate(wrong, root=tmp_path, progress=False))
    assert not any(tmp_path.rglob("*.hdf5"))


def test_replacing_a_dataset_changes_it_whole(recipe, copy):
    old = load_dataset(recipe.id, root=copy, progress=False).identity
    made = generate(dataclasses.replace(recipe, seed=8), root=copy, progress=False)
    new = load_dataset(recipe.id, root=copy, progress=False)
    assert new.identity == made.manifest["identity"] != old
    assert len([p for p in (copy / recipe.id).iterdir() if p.name.startswith("flat-")]) == 1


def test_a_policy_file_of_each_patient_as_behavior(recipe, tiny_bank, tmp_path):
    """Policies in another order than the bank's, some patients only: each acts for its own patient."""
    ids, path = tuple(reversed(tiny_bank.patients)), tmp_path / "behavior.safetensors"
    actor = StackedActor(StackedMLP(4, (9, 8, 4), seeds=[3, 4, 5, 6]), ids, decisions=20)
    save_policy(actor, path)
    own = dataclasses.replace(recipe, behavior=str(path), perturbation=0.0, episodes=2)
    made = generate(own, root=tmp_path, patients=[0, 2], output_id="medgym/actor-v0", progress=False)
    rows = load_dataset(made.id, root=tmp_path, progress=False)
    for patient in (0, 2):
        one = rows.select(patients=[patient])
        wanted = actor.select([tiny_bank.patients[patient]]).act(one.observations[None])[0]
        np.testing.assert_allclose(one.actions, wanted, atol=1e-5)
    assert made.manifest["behavior"]["sha256"] == sha256_file(path)
    assert verify(made.id, root=tmp_path, replay=2, progress=False).ok
    assert made.manifest["references"]["expert"] == "behavior.safetensors-adaptive"
    fixed = dataclasses.replace(own, timing="fixed")
    refused(DatasetError, "made for adaptive timing", lambda: generate(fixed, root=tmp_path, progress=False))
    # Another policy under the same name is noticed.
    save_policy(StackedActor(StackedMLP(4, (9, 8, 4), seeds=[7, 8, 9, 10]), ids, decisions=20), path)
    assert [c.name for c in verify(made.id, root=tmp_path, replay=2, progress=False).faults] == ["behavior"]


def test_policies_without_a_digest_share_no_score(recipe, tiny_bank):
    """Nor do two that have one; the cache of scores is by digest."""
    returns = []
    for name in ("zero", "max"):
        behavior = resolve_behavior(name, tiny_bank, recipe.timing, recipe.decisions)
        for digest in (behavior.digest, ""):
            acting = dataclasses.replace(behavior, digest=digest)
            returns.append(reference_returns(recipe, tiny_bank, [0], acting, False)["returns"]["behavior"])
    assert returns[0] == returns[1] != returns[2] == returns[3]


def work():
    return sorted(path for path in (cache_folder() / "generate").rglob("*") if path.is_file())


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_run_goes_on(recipe, made, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(shards, "SHARD", 1)
    play = Mock(wraps=shards.play_shard, side_effect=[DEFAULT, DEFAULT, DEFAULT, KeyboardInterrupt])
    monkeypatch.setattr(shards, "play_shard", play)
    with pytest.raises(KeyboardInterrupt):
        generate(recipe, root=tmp_path, progress=False)
    done = [path for path in work() if path.name.startswith("p")]
    assert len(done) == 3
    assert not any(tmp_path.rglob("*.hdf5"))
    if damaged:
        done[1].write_bytes(done[1].read_bytes()[:-20])
    play.configure_mock(side_effect=None, call_count=0)
    again = generate(recipe, root=tmp_path, progress=False)
    assert play.call_count == 1 + damaged
    assert sha256_file(again.path / DATA_FILE) == sha256_file(made.path / DATA_FILE)
    assert again.manifest == made.manifest
    assert work() == []


def test_made_again_by_two_processes_it_is_the_same_to_the_byte(recipe, made, tmp_path):
    again = generate(recipe, root=tmp_path, progress=False, workers=2)
    assert again.manifest == made.manifest
    for name in (DATA_FILE, "data/metadata.json", "data/manifest.json"):
        assert sha256_file(again.path / name) == sha256_file(made.path / name)


def test_one_process_at_a_time(recipe, tmp_path):
    make = partial(generate, recipe, root=tmp_path, progress=False)
    with shards.work_folder(tmp_path / recipe.id):
        refused(DatasetError, "another process is generating this dataset", make)
    assert make().episodes == 12


GOOD = 'id = "medgym/x-v0"\ndescription = "d"\nbank = "sepsis-v0"\nbehavior = "zero"\n'


TEXTS = [
    ("id = ", "not a TOML recipe"),
    ('description = "d"\n', "'id' is missing"),
    (GOOD + "episodess = 3\n", "did you mean 'episodes'"),
    (GOOD + "episodes = 0\n", "'episodes' is 0; it should be greater than or equal to 1"),
    (GOOD + 'timing = "adaptiv"\n', "did you mean 'adaptive'"),
    (GOOD + 'world = "treu"\n', "did you mean 'true'"),
    (GOOD.replace("x-v0", "x"), "namespace/name-vN"),
]


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_a_wrong_recipe_names_its_field(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text)
    refused(DatasetError, message, lambda: read_recipe(path))


def test_files_named_by_a_recipe_lie_beside_it(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(GOOD.replace('"zero"', '"policy.safetensors"').replace('"sepsis-v0"', '"bank.safetensors"'))
    recipe = read_recipe(path)
    assert [recipe.behavior, recipe.bank] == [str(tmp_path / f"{name}.safetensors") for name in ("policy", "bank")]


MISSPELT = [('behaviors = ["ind"', 'behaviors = ["idn"'), ("change.mixed", "change.mxied")]


@pytest.mark.parametrize(("before", "after"), MISSPELT)
def test_a_core_that_names_no_behavior_is_refused(before, after, tmp_path, monkeypatch):
    text = (recipes.release_folder("datasets") / "core.toml").read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "core.toml").write_text(text.replace(before, after), encoding="utf-8")
    monkeypatch.setattr(recipes, "release_folder", lambda name: tmp_path)
    refused(DatasetError, r"data\.sepsis.*behavior '(idn|mxied)'.*did you mean", list_recipes)


def test_masks_slices_and_row_numbers_agree(rows):
    mask = rows.dt > np.median(rows.dt)
    by_mask, by_number = rows.select(mask), rows.select(np.flatnonzero(mask))
    np.testing.assert_array_equal(by_mask.actions, by_number.actions)
    np.testing.assert_array_equal(rows.select(slice(3, 9)).time, rows.time[3:9])
    np.testing.assert_array_equal(rows.select(mask, patients=[1]).time, rows.time[mask & (rows.patient == 1)])
    some = rows.select(slice(0, 20), patients=[0])
    np.testing.assert_array_equal(some.time, rows.time[:20][rows.patient[:20] == 0])


COLUMNS = [
    ("rewards", lambda a: a.astype(np.float64), "rewards is float64"),
    ("observations", lambda a: a[:, 0], "observations has shape"),
    ("dt", lambda a: a[:-1], "dt has shape"),
    ("actions", lambda a: a[:, :3].copy(), "adaptive timing needs 4"),
    ("costs", lambda a: np.where(np.arange(len(a)) == 2, np.nan, a).astype(np.float32), "not finite at row 2"),
    ("patient", lambda a: a + np.int32(4), "patient numbers exceed"),
]


@pytest.mark.parametrize(("column", "value", "message"), COLUMNS)
def test_validate_names_the_column(rows, column, value, message):
    rows.validate()
    with pytest.raises(DatasetError, match=message):
        dataclasses.replace(rows, **{column: value(getattr(rows, column))}).validate()
