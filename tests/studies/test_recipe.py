"""Recipes of studies: what they refuse, and what they hand on to training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medgym_offline.errors import MedGymError
from medgym_offline.files import release_folder
from medgym_offline.online.config import ALGORITHMS
from medgym_offline.simulators import SimulatorBank
from medgym_offline.studies.entries import wanted_entries
from medgym_offline.studies.recipe import StudyRecipe, load_study_recipe, spread


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("settings = 3", "settings is 3"),
        ("settings.pop = 3", "settings.pop is 3"),
        ('safe_limit = "x"', "safe_limit is 'x'"),
        ("safe_limit = -1.0", "safe_limit is -1.0"),
        ("safe_limit = nan", "safe_limit is nan"),
        ("algorithms = []", "algorithms is"),
        ('algorithms = "trpo"', "algorithms is 'trpo'"),
        ('algorithms = ["trpo", "trpo"]', "without repetition"),
        ('algorithms = ["trop"]', "did you mean 'trpo'"),
        ('patients = "6"', "patients is '6'"),
        ("patients = true", "patients is True"),
        ("patients = 1.5", "patients is 1.5"),
        ("patients = -1", "patients is -1"),
        ("episodes = 0", "episodes is 0"),
        ("episodes = 5\ncase_episodes = 6", "case_episodes is 6"),
        ("budget_decisions = 5", "budget_decisions is 5"),
        ("budget_decisions = [2]", "decisions"),
        ("case_percentiles = [120.0]", "case_percentiles is"),
        ("timings = []", "timings is"),
        ('individual = "pop"', "individual scope"),
        ('backend = "euler"', "backend"),
        ("[settings.popp]", "'popp'"),
        ("[settings.pop]\nupdats = 3", "'updats'"),
        ('[settings.pop]\nupdates = "x"', "wrong type"),
        ("[settings.pop]\nupdates = 1.5", "updates is 1.5"),
        ("[algorithm_settings.trpo.popp]", "'popp'"),
        ("patient = 3", "did you mean 'patients'"),
        ("extends = 3", "extends is 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_entry(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(MedGymError) as raised:
        load_study_recipe(file)
    assert named in str(raised.value)
    assert "study.toml" in str(raised.value)


def test_a_recipe_takes_what_it_leaves_out_from_the_one_it_extends(tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text("episodes = 7\ncase_episodes = 5\n[settings.pop]\nupdates = 3\nepisodes = 2")
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\ncase_episodes = 4\n[settings.pop]\nupdates = 9')
    recipe = load_study_recipe(child)
    assert (recipe.name, recipe.episodes, recipe.case_episodes) == ("child", 7, 4)
    assert recipe.settings == {"pop": {"updates": 9}}
    grandchild = tmp_path / "grandchild.toml"
    grandchild.write_text('extends = "child.toml"')
    with pytest.raises(MedGymError, match="extends another recipe itself"):
        load_study_recipe(grandchild)
    grandchild.write_text('extends = "study-onlin"')
    with pytest.raises(MedGymError, match=r"extends of .*grandchild\.toml.*did you mean 'study-online'"):
        load_study_recipe(grandchild)


def test_an_unknown_recipe_suggests_those_that_ship() -> None:
    with pytest.raises(MedGymError, match="study-online-quick"):
        load_study_recipe("study-online-quik")


def test_shipped_recipes_are_valid_and_hold_every_algorithm_there_is() -> None:
    files = sorted(release_folder("evaluation").glob("study-online*.toml"))
    assert {"study-online", "study-online-quick"} <= {f.stem for f in files}
    for file in files:
        recipe = load_study_recipe(file.stem)
        assert recipe.algorithms == ALGORITHMS
        assert recipe.budget_decisions == (5, 10, 15, 20)


def test_the_table_has_one_row_per_algorithm_scope_and_timing(tiny_bank: SimulatorBank) -> None:
    recipe = StudyRecipe("x", every=2)
    sets = recipe.sets(tiny_bank)
    entries = wanted_entries(recipe, sets)
    table = [e for e in entries if e.group == "table"]
    assert len(table) == 4 * len(recipe.algorithms)
    assert len({e.key for e in entries}) == len(entries)
    assert {e.patients for e in table} == {sets.table}
    assert sets.table == tiny_bank.patients[::2]
    assert {(e.scope, e.timing) for e in entries if e.group == "release"} == {
        (s, t) for s in ("ind", "dr", "pop") for t in ("adaptive", "fixed")
    }
    # Every K with both timings, once, whichever group holds it.
    budgets = [e for e in entries if (e.algorithm, e.scope) == (recipe.budget_algorithm, recipe.budget_scope)]
    budgets = [e for e in budgets if e.group != "release"]
    assert sorted((e.decisions, e.timing) for e in budgets) == sorted(
        (k, t) for k in (5, 10, 15, 20) for t in ("adaptive", "fixed")
    )


def test_settings_reach_training_the_special_ones_last() -> None:
    recipe = StudyRecipe(
        "x",
        safe_limit=0.3,
        seed=4,
        settings={"pop": {"updates": 7, "episodes": 3}},
        algorithm_settings={"trpo": {"pop": {"updates": 9}}},
    )
    trpo, lagrangian = (recipe.training(a, 5, 2).config("pop") for a in ("trpo", "trpo-lag"))
    assert (trpo.updates, lagrangian.updates) == (9, 7)
    assert (trpo.episodes, trpo.seed, lagrangian.cost_limit) == (3, 6, 0.3)
    assert recipe.training("trpo", 5).decisions == 5


def test_the_hash_changes_with_the_recipe() -> None:
    recipe = StudyRecipe("x")
    assert recipe.content_hash == StudyRecipe("x").content_hash
    assert recipe.content_hash != replace(recipe, episodes=49).content_hash


@pytest.mark.parametrize(("count", "wanted"), [(0, "abcde"), (9, "abcde"), (2, "ac"), (1, "a")])
def test_patients_are_evenly_spread(count: int, wanted: str) -> None:
    assert spread("abcde", count) == tuple(wanted)


def test_more_patients_than_the_bank_has_is_refused(tiny_bank: SimulatorBank) -> None:
    with pytest.raises(MedGymError, match="patients is 5"):
        StudyRecipe("x", patients=5).sets(tiny_bank)
