"""Recipes parse, tables are those of the recorded scores, intervals and marks are what they say."""

import numpy as np
import polars as pl
import pytest

from experiments import ceilings, offline, online, pooling
from experiments.common import HERE, Row, Scores, read_scores, tidy_rows
from experiments.people import study
from experiments.reference import table
from experiments.reference.transformer import NAME as TRANSFORMER
from medgym_offline import MedGymError
from medgym_offline.datasets import list_recipes
from medgym_offline.datasets.catalogue import release_manifest
from medgym_offline.offline import ALGORITHMS
from medgym_offline.third_party import BASELINES
from tests.helpers import refused

KINDS = {"online": (online, online.OnlineRecipe), "offline": (offline, offline.OfflineRecipe)}
KINDS |= {"pooling": (pooling, pooling.PoolingRecipe), "ceilings": (ceilings, ceilings.CeilingsRecipe)}
KINDS["ablation"] = KINDS["offline"]


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.toml")))
def test_every_recipe_parses_and_its_table_is_that_of_the_recorded_scores(name):
    module, kind = KINDS[name.partition("-")[0]]
    recipe = kind.load(name)
    page = HERE / "results" / f"{name}.md"
    scores = read_scores(page.with_suffix(".parquet")) if page.exists() else []
    if 0 < len(scores) < 30_000:  # the others take many seconds of bootstrap
        assert module.markdown(recipe, Scores(scores)) == page.read_text()


def test_the_tables_of_parts_are_those_of_the_recorded_scores():
    tuning, people = (
        table.TableRecipe.load(table.HERE / "tuning.toml"),
        study.StudyRecipe.load(study.HERE / "study.toml"),
    )
    assert table.tables(tuning) == (table.HERE / "tuning.md").read_text()
    assert study.tables(people) == (study.HERE / "results.md").read_text()


WRONG = [
    ("patients = -1", "patients: .*greater than or equal to 0"),
    ("color = 3", "color: Extra inputs"),
    ('algorithms = ["magic"]', "algorithms.0: Input should be 'bc'"),
    ("settings = {magic = 1}", "magic"),
    ("=", "not a TOML recipe"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_wrong_recipe_is_one_line_that_names_file_and_entry(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    refused(MedGymError, said, lambda: offline.OfflineRecipe.load(path))


def test_estimates_agree_with_the_normal_theory():
    rng = np.random.default_rng(0)
    b = rng.normal(5.0, 1.0, 200)
    values = {Row("a", "ind", "fixed", 5): b - rng.normal(0.5, 1.0, 200), Row("b", "ind", "fixed", 5): b}
    metric = {row: {(str(i), "severity_mean"): value for i, value in enumerate(of)} for row, of in values.items()}
    parts = [tidy_rows("bank", row, 0, "own", of) for row, of in metric.items()]
    scores, (one, other), a = Scores(pl.concat(parts)), values, next(iter(values.values()))
    half = 1.96 * a.std() / np.sqrt(200)
    mean = scores.mean(one, "own", "severity_mean")
    assert mean == pytest.approx((a.mean(), a.mean() - half, a.mean() + half), abs=0.1 * half)
    gain, back = scores.gain(one, other, "own"), scores.gain(other, one, "own")
    assert gain["percent"][0] == pytest.approx(100 * (b.mean() - a.mean()) / b.mean())
    assert gain["wins"][0] == pytest.approx(100 * (a < b).mean()) == pytest.approx(100 - back["wins"][0])
    value, low, high = gain["difference"]
    assert value == pytest.approx((a - b).mean()) == pytest.approx(-back["difference"][0])
    assert low < value < high < 0 < gain["percent"][1]


@pytest.mark.parametrize("name", sorted((RECIPE := table.TableRecipe.load(table.HERE / "table.toml")).part))
def test_parts_name_datasets_learners_and_settings_that_exist(name):
    part = RECIPE.part[name]
    assert set(part.datasets) <= set(list_recipes())
    assert {RECIPE.config(learner, part)[0] for learner in part.learners} <= {*ALGORITHMS, *BASELINES, TRANSFORMER}


def test_a_learner_is_normalized_by_the_manifest_and_marked_where_it_is_told_from_the_behavior():
    """`good` has 1 point less harm than the behavior, `bad` 0.001 more; returns are halfway from random to expert."""
    rng, dataset, rows = np.random.default_rng(0), "medgym/diabetes-medium-v0", []
    returns = release_manifest(dataset)["references"]["returns"]
    base, halfway = rng.normal(10.0, 2.0, 12), (returns["random"] + returns["expert"]) / 2
    for method, shift, seeds in (("behavior", 0.0, 1), ("good", -1.0, 3), ("bad", 0.001, 3)):
        for seed in range(seeds):
            for patient, value in enumerate(base + shift + rng.normal(0.0, 0.1, 12)):
                rows.append((dataset, method, seed, f"{patient:02}", "severity_mean", value))
                rows.append((dataset, method, seed, f"{patient:02}", "return", halfway))
    columns = ["dataset", "method", "seed", "patient", "metric", "value"]
    scores = table.arrays(pl.DataFrame(rows, schema=columns, orient="row"))
    assert table.against(scores, dataset, ("good", "bad")) == {"good": " +"}
    np.testing.assert_allclose(scores[dataset, "good", "score"], [50.0] * 3)


HALF = ("random", "expert")
