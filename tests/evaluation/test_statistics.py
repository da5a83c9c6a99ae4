from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import (
    iqm,
    mean_intervals,
    paired_difference,
    probability_of_improvement,
    summarize,
    worst_decile,
)


def interval_of(scores: np.ndarray, bootstrap: Bootstrap | None = None) -> tuple[float, float]:
    return summarize(scores, bootstrap).mean_interval


def test_iqm_is_the_trimmed_mean() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 8, 100):  # SciPy trims whole observations, so n has to be a multiple of four
        values = rng.normal(size=(3, n))
        np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=-1))
    # Five values: weights 0, 3/4, 1, 3/4, 0 of the sorted ones, over 2.5.
    assert iqm(np.array([100.0, 1.0, 3.0, 2.0, -50.0])) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)


def test_worst_decile_follows_the_direction() -> None:
    values = np.arange(20.0)
    assert worst_decile(values, better=-1) == pytest.approx(18.5)
    assert worst_decile(values, better=1) == pytest.approx(0.5)
    assert worst_decile(np.array([3.0, 4.0]), better=-1) == 4.0


def test_many_columns_at_once_equal_one_by_one() -> None:
    columns = np.random.default_rng(2).normal(size=(3, 11))
    together = mean_intervals(columns)
    for row, interval in zip(columns, together):
        np.testing.assert_allclose(interval, interval_of(row), rtol=1e-9)


def test_seeds_are_resampled_within_patients() -> None:
    """Patients all alike, seeds not: the interval is as wide as the spread over seeds makes it, not zero."""
    seeds = np.random.default_rng(3).normal(size=(6, 1)) + np.zeros((1, 40))
    low, high = interval_of(seeds)
    assert high - low > 0
    # Seeds are redrawn for every patient, so 40 patients average much of the spread away.
    assert high - low == pytest.approx(2 * 1.96 * seeds[:, 0].std() / np.sqrt(6 * 40), rel=0.15)
    alike = interval_of(np.full((6, 40), 2.5))
    assert alike == pytest.approx((2.5, 2.5))


def test_coverage_of_the_mean() -> None:
    """About 95 % of 200 intervals contain the true mean (binomial: 0.89 is four standard errors below)."""
    rng = np.random.default_rng(5)
    settings = Bootstrap(resamples=400)
    inside = [low <= 0 <= high for low, high in mean_intervals(rng.normal(size=(200, 60)), settings)]
    assert np.mean(inside) > 0.89


def test_paired_interval_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(7)
    base = rng.normal(5, 2, 80)
    better = base - 0.3 + rng.normal(0, 0.2, 80)
    found = paired_difference(better, base)
    assert found.difference == pytest.approx((better - base).mean())
    assert found.difference_interval[1] < 0
    assert found.difference_interval[1] - found.difference_interval[0] < 0.2
    assert found.percent == pytest.approx(100 * (base.mean() - better.mean()) / base.mean())
    assert found.percent_interval[0] > 0
    assert found.share == pytest.approx((better < base).mean())
    mirrored = paired_difference(base, better)
    assert mirrored.share == pytest.approx(1 - found.share)
    # Larger is better: the same numbers, the other verdict.
    assert paired_difference(better, base, better=1).share == pytest.approx(1 - found.share)


def test_probability_of_improvement_is_mann_whitney() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, (5, 3)), rng.normal(0.5, 1, (4, 3))
    expected = np.mean([stats.mannwhitneyu(b[:, p], a[:, p]).statistic / 20 for p in range(3)])
    assert probability_of_improvement(a, b, better=-1) == pytest.approx(expected)
    assert probability_of_improvement(a, a) == pytest.approx(0.5)


def test_interval_of_the_probability_of_improvement() -> None:
    """With one run each it is the interval of the share; with more it narrows and holds the estimate."""
    g = np.random.default_rng(1)
    a, b = g.normal(0.0, 1.0, (4, 60)), g.normal(0.4, 1.0, (3, 60))
    one = paired_difference(a[:1], b[:1])
    assert one.probability_interval == pytest.approx(one.share_interval, abs=0.02)
    many = paired_difference(a, b)
    low, high = many.probability_interval
    assert low < many.probability < high
    assert high - low < one.probability_interval[1] - one.probability_interval[0]
    swapped = paired_difference(b, a)
    assert swapped.probability_interval == pytest.approx((1 - high, 1 - low), abs=0.01)
    assert paired_difference(a - 100, b).probability_interval == (1.0, 1.0)
