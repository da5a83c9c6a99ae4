"""Recipes and rows: what a wrong one names, and what a selection holds."""

import dataclasses

import numpy as np
import pytest

from medgym_offline.datasets import COLUMNS, list_recipes, read_recipe
from medgym_offline.errors import DatasetError

GOOD = 'id = "medgym/x-v0"\ndescription = "d"\nbank = "sepsis-v0"\nbehavior = "zero"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = ", "not a TOML recipe"),
        ('description = "d"\n', "'id' is missing"),
        (GOOD + "episodess = 3\n", "did you mean 'episodes'"),
        (GOOD + "episodes = 0\n", "'episodes' is 0; it should be greater than or equal to 1"),
        (GOOD + 'timing = "adaptiv"\n', "did you mean 'adaptive'"),
        (GOOD + 'world = "treu"\n', "did you mean 'true'"),
        (GOOD.replace("x-v0", "x"), "namespace/name-vN"),
    ],
)
def test_a_wrong_recipe_names_its_field(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_files_named_by_a_recipe_lie_beside_it(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(GOOD.replace('"zero"', '"policy.safetensors"').replace('"sepsis-v0"', '"bank.safetensors"'))
    recipe = read_recipe(path)
    assert (recipe.behavior, recipe.bank) == (str(tmp_path / "policy.safetensors"), str(tmp_path / "bank.safetensors"))


@pytest.mark.parametrize(
    ("before", "after"), [('behaviors = ["ind"', 'behaviors = ["idn"'), ("policy.mixed", "policy.mxied")]
)
def test_a_core_that_names_no_behavior_is_refused(before, after, tmp_path, monkeypatch):
    from medgym_offline.datasets import recipes

    text = (recipes.release_folder("datasets") / "core.toml").read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "core.toml").write_text(text.replace(before, after), encoding="utf-8")
    monkeypatch.setattr(recipes, "release_folder", lambda name: tmp_path)
    with pytest.raises(DatasetError, match=r"data\.sepsis.*behavior '(idn|mxied)'.*did you mean"):
        list_recipes()


def test_select_by_patient_is_the_rows_of_that_patient(rows):
    part = rows.select(patients=["prior/2"])
    assert part.present.tolist() == [2]
    assert part.present_ids == ("prior/2",)
    assert part.patients == rows.patients
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(part, name), getattr(rows, name)[rows.patient == 2])


def test_masks_slices_and_row_numbers_agree(rows):
    mask = rows.dt > np.median(rows.dt)
    by_mask, by_number = rows.select(mask), rows.select(np.flatnonzero(mask))
    np.testing.assert_array_equal(by_mask.actions, by_number.actions)
    np.testing.assert_array_equal(rows.select(slice(3, 9)).time, rows.time[3:9])
    both = rows.select(mask, patients=[1])
    np.testing.assert_array_equal(both.time, rows.time[mask & (rows.patient == 1)])
    both = rows.select(slice(0, 20), patients=[0])
    np.testing.assert_array_equal(both.time, rows.time[:20][rows.patient[:20] == 0])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rewards", lambda a: a.astype(np.float64), "rewards is float64"),
        ("observations", lambda a: a[:, 0], "observations has shape"),
        ("dt", lambda a: a[:-1], "dt has shape"),
        ("actions", lambda a: a[:, :3].copy(), "adaptive timing needs 4"),
        ("costs", lambda a: np.where(np.arange(len(a)) == 2, np.nan, a).astype(np.float32), "not finite at row 2"),
        ("patient", lambda a: a + np.int32(4), "patient numbers exceed"),
    ],
)
def test_validate_names_the_column(rows, column, value, message):
    rows.validate()
    with pytest.raises(DatasetError, match=message):
        dataclasses.replace(rows, **{column: value(getattr(rows, column))}).validate()
