"""Recipes parse, recorded scores are read, intervals are what they say, and the reference table tells scores apart."""

import numpy as np
import polars as pl
import pytest

from experiments import ceilings, offline, online, pooling
from experiments.common import HERE, Row, Scores, read_scores, tidy_rows
from experiments.reference.table import HERE as REFERENCE
from experiments.reference.table import TableRecipe, against, arrays, normalized
from experiments.reference.transformer import NAME as TRANSFORMER
from medgym_offline import MedGymError
from medgym_offline.datasets import list_recipes
from medgym_offline.datasets.trust import release_manifest
from medgym_offline.offline import ALGORITHMS
from medgym_offline.third_party import BASELINES
from tests.helpers import refused

KINDS = {
    "online": online.OnlineRecipe,
    "offline": offline.OfflineRecipe,
    "ablation": offline.OfflineRecipe,
    "ceilings": ceilings.CeilingsRecipe,
    "pooling": pooling.PoolingRecipe,
}
RECIPES = sorted(path.stem for path in HERE.glob("*.toml"))
RECORDED = sorted(path.stem for path in (HERE / "results").glob("*.parquet"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses(name):
    kind = KINDS[name.partition("-")[0]]
    assert kind.load(name).name == name
    assert kind.load(HERE / f"{name}.toml") == kind.load(name)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_scores_are_read(name):
    assert read_scores(HERE / "results" / f"{name}.parquet").height


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patients = -1", "patients: .*greater than or equal to 0"),
        ("color = 3", "color: Extra inputs"),
        ('algorithms = ["magic"]', "algorithms.0: Input should be 'bc'"),
        ("settings = {magic = 1}", "magic"),
        ("=", "not a TOML recipe"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_file_and_entry(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    refused(MedGymError, said, lambda: offline.OfflineRecipe.load(path))
    refused(MedGymError, "cannot read the recipe", lambda: offline.OfflineRecipe.load(tmp_path / "none.toml"))


A, B = Row("a", "ind", "fixed", 5), Row("b", "ind", "fixed", 5)


def _scores(a, b):
    """Scores (seeds, patients) of two methods."""
    parts = []
    for row, values in ((A, a), (B, b)):
        for seed, line in enumerate(values):
            parts.append(tidy_rows("bank", row, seed, "own", "severity_mean", {str(i): v for i, v in enumerate(line)}))
    return Scores(pl.concat(parts))


def test_estimates_agree_with_the_normal_theory():
    rng = np.random.default_rng(0)
    b = rng.normal(5.0, 1.0, (1, 200))
    a = b - rng.normal(0.5, 1.0, (1, 200))
    scores = _scores(a, b)
    mean, gain = scores.mean(A, "own", "severity_mean"), scores.gain(A, B, "own")
    half = 1.96 * a.std() / np.sqrt(200)
    assert mean == pytest.approx((a.mean(), a.mean() - half, a.mean() + half), abs=0.1 * half)
    assert gain["percent"][0] == pytest.approx(100 * (b.mean() - a.mean()) / b.mean())
    assert gain["wins"][0] == pytest.approx(100 * (a < b).mean())
    value, low, high = gain["difference"]
    assert value == pytest.approx((a - b).mean())
    assert low < value < high < 0 < gain["percent"][1]
    back = scores.gain(B, A, "own")
    assert back["wins"][0] == pytest.approx(100 - gain["wins"][0])
    assert back["difference"][0] == pytest.approx(-value)


DATASET = "medgym/diabetes-medium-v0"
RECIPE = TableRecipe.load(REFERENCE / "table.toml")


@pytest.mark.parametrize("name", sorted(RECIPE.part))
def test_parts_name_datasets_learners_and_settings_that_exist(name):
    part = RECIPE.part[name]
    assert set(part.datasets) <= set(list_recipes())
    assert {RECIPE.config(learner, part)[0] for learner in part.learners} <= {*ALGORITHMS, *BASELINES, TRANSFORMER}


@pytest.fixture(scope="module")
def scores():
    """Two learners, three seeds and twelve patients: `good` has 1 point less harm than the behavior, `bad` 0.001 more.

    Returns are such that `good` is halfway between the random policy and the expert.
    """
    rng = np.random.default_rng(0)
    patients = [f"p{i:02d}" for i in range(12)]
    manifest = release_manifest(DATASET)
    known = manifest["references"]["returns"]
    base = rng.normal(10.0, 2.0, len(patients))
    rows = []
    for method, shift, seeds in (("behavior", 0.0, 1), ("good", -1.0, 3), ("bad", 0.001, 3)):
        for seed in range(seeds):
            noise = rng.normal(0.0, 0.1, len(patients))
            for patient, value in zip(patients, base + shift + noise):
                rows.append((DATASET, method, seed, patient, "severity_mean", value))
                rows.append((DATASET, method, seed, patient, "return", (known["random"] + known["expert"]) / 2))
    columns = ["dataset", "method", "seed", "patient", "metric", "value"]
    return arrays(pl.DataFrame(rows, schema=columns, orient="row"))


def test_a_learner_is_marked_where_it_is_told_from_the_behavior(scores):
    assert against(scores, DATASET, ("good", "bad")) == {"good": " +"}


def test_normalized_scores_are_those_of_the_manifest(scores):
    np.testing.assert_allclose(normalized(scores, DATASET, "good"), [50.0] * 3)
