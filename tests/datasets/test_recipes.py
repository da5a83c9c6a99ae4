from __future__ import annotations

from pathlib import Path

import pytest

from medgym_offline.datasets import list_recipes, read_recipe
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
def test_a_wrong_recipe_names_its_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_files_named_by_a_recipe_lie_beside_it(tmp_path: Path) -> None:
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
