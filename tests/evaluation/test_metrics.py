"""Metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medgym_offline.evaluation import metrics

HOURS = np.arange(97.0)
FINE = np.arange(385) * 0.25


def test_safe_share_counts_hours_after_twenty() -> None:
    # Unsafe through hour 39: of the 76 hours 21..96, 19 are unsafe and 57 safe.
    lactate = np.where(HOURS < 40, 5.0, 3.0)
    assert metrics.safe_share(lactate, HOURS) == pytest.approx(100 * 57 / 76)
    # Exactly 4 is not below 4.
    assert metrics.safe_share(np.full(97, 4.0), HOURS) == 0.0
    # Trouble up to and including hour 20 does not count.
    assert metrics.safe_share(np.where(HOURS <= 20, 9.0, 1.0), HOURS) == 100.0


def test_fine_grid_sees_an_excursion_between_hours() -> None:
    lactate = np.where((FINE > 50) & (FINE < 51), 6.0, 1.0)  # three quarter hours
    assert metrics.safe_share(lactate[::4], HOURS) == 100.0
    assert metrics.safe_share(lactate, FINE) == pytest.approx(100 * (304 - 3) / 304)


def test_hours_above_integrates_the_indicator() -> None:
    assert metrics.hours_above(np.full(385, 5.0), FINE) == pytest.approx(96.0)
    assert metrics.hours_above(np.full(385, 4.0), FINE) == 0.0
    # Above at 10.25 .. 12.75: trapezoid from 10 to 13 with half cells at both ends.
    assert metrics.hours_above(np.where((FINE > 10) & (FINE < 13), 5.0, 1.0), FINE) == pytest.approx(2.75)


def test_time_mean_and_clearance() -> None:
    lactate = 4.0 - HOURS / 12.0
    assert metrics.time_mean(lactate) == pytest.approx(4.0 - 48 / 12)
    assert metrics.clearance(lactate, HOURS) == pytest.approx(12.5)
    assert metrics.clearance(np.full(97, 2.0) + (HOURS == 6), HOURS) == pytest.approx(-50.0)


def test_treatment_totals() -> None:
    # 0.1 mcg/kg/min for 10 h is 60 mcg/kg; 500 mL/h for 10 h is 5 L; the last decision was not made.
    vasopressor, fluids = metrics.treatment_totals(
        np.array([0.1, 0.0, 9.9]), np.array([500.0, 100.0, 9.9]), np.array([10.0, 86.0, 0.0])
    )
    assert vasopressor == pytest.approx(0.06)
    assert fluids == pytest.approx(5.0 + 8.6)


def test_hold_metrics() -> None:
    dt = np.array([[[10.0, 20.0, 66.0, 0.0], [96.0, 0.0, 0.0, 0.0]]])
    found = metrics.hold_metrics(dt, dt > 0)
    assert found["decisions_used"].tolist() == [[3.0, 1.0]]
    assert found["first_hold"].tolist() == [[10.0, 96.0]]
    assert found["last_hold"].tolist() == [[66.0, 96.0]]
    # Quantiles of (10, 20, 66, 96), linear interpolation.
    assert found["dt_q50"][0] == pytest.approx(43.0)
    assert found["dt_q25"][0] == pytest.approx(17.5)
    assert found["dt_q95"][0] == pytest.approx(66 + 0.85 * 30)


def test_normalized_score() -> None:
    score = metrics.normalized_score(np.array([-80.0, -30.0, -55.0]), -80.0, -30.0)
    assert score.tolist() == [0.0, 100.0, 50.0]
    assert np.isnan(metrics.normalized_score(np.array([1.0]), 2.0, 2.0)).all()


def test_leading_axes_are_kept() -> None:
    lactate = np.random.default_rng(0).uniform(0, 8, (3, 5, 385))
    alone = np.array([[metrics.hours_above(lactate[p, b], FINE) for b in range(5)] for p in range(3)])
    assert np.array_equal(metrics.hours_above(lactate, FINE), alone)
