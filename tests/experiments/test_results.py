"""Recipes parse; the recorded tables are those of the recorded scores; intervals are what they say."""

import re

import numpy as np
import polars as pl
import pytest

from experiments import ceilings, offline, online, pooling
from experiments.common import HERE, Row, Scores, read_scores, tidy_rows
from medgym_offline import MedGymError

KINDS = {
    "online": (online.OnlineRecipe, online.markdown),
    "offline": (offline.OfflineRecipe, offline.markdown),
    "ablation": (offline.OfflineRecipe, offline.markdown),
    "ceilings": (ceilings.CeilingsRecipe, ceilings.markdown),
    "pooling": (pooling.PoolingRecipe, pooling.markdown),
}
RECIPES = sorted(path.stem for path in HERE.glob("*.toml"))
RECORDED = sorted(path.stem for path in (HERE / "results").glob("*.parquet"))


def _kind(name):
    return KINDS[name.partition("-")[0]]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses(name):
    recipe = _kind(name)[0].load(name)
    assert recipe.name == name
    assert _kind(name)[0].load(HERE / f"{name}.toml") == recipe


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
    with pytest.raises(MedGymError, match=said) as found:
        offline.OfflineRecipe.load(path)
    assert "\n" not in str(found.value)
    with pytest.raises(MedGymError, match="cannot read the recipe"):
        offline.OfflineRecipe.load(tmp_path / "none.toml")


def _points(text):
    """Markdown without what the bootstrap decides: intervals."""
    return re.sub(r" \([-+.\d]+ to [-+.\d]+\)", "", text)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_tables_are_those_of_the_recorded_scores(name):
    kind, markdown = _kind(name)
    path = HERE / "results" / f"{name}.parquet"
    found = markdown(kind.load(name), Scores(read_scores(path), 20))
    assert _points(found) == _points(path.with_suffix(".md").read_text(encoding="utf-8"))


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
    assert (mean.value, mean.low, mean.high) == pytest.approx(
        (a.mean(), a.mean() - half, a.mean() + half), abs=0.1 * half
    )
    assert gain.percent.value == pytest.approx(100 * (b.mean() - a.mean()) / b.mean())
    assert gain.wins.value == pytest.approx(100 * (a < b).mean())
    assert gain.difference.value == pytest.approx((a - b).mean())
    assert gain.difference.low < gain.difference.value < gain.difference.high < 0 < gain.percent.low
    back = scores.gain(B, A, "own")
    assert back.wins.value == pytest.approx(100 - gain.wins.value)
    assert back.difference.value == pytest.approx(-gain.difference.value)
