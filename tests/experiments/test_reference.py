"""The reference table: every setting exists; scores, and who is told from whom, on numbers whose answer is known."""

import numpy as np
import polars as pl
import pytest

from experiments.reference.table import HERE, Scored, TableRecipe, against
from medgym_offline.datasets import list_recipes
from medgym_offline.datasets.trust import release_manifest
from medgym_offline.offline import ALGORITHMS
from medgym_offline.third_party import BASELINES

DATASET = "medgym/diabetes-medium-v0"
RECIPE = TableRecipe.load(HERE / "table.toml")


@pytest.mark.parametrize("name", sorted(RECIPE.part))
def test_parts_name_datasets_learners_and_settings_that_exist(name):
    part = RECIPE.part[name]
    assert set(part.datasets) <= set(list_recipes())
    assert {RECIPE.config(learner, part)[0] for learner in part.learners} <= {*ALGORITHMS, *BASELINES}


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
    return Scored(pl.DataFrame(rows, schema=columns, orient="row"))


def test_a_learner_is_marked_where_it_is_told_from_the_behavior(scores):
    assert against(scores, DATASET, ("good", "bad")) == {"good": " +"}


def test_normalized_scores_are_those_of_the_manifest(scores):
    np.testing.assert_allclose(scores.normalized(DATASET, "good"), [50.0] * 3)
