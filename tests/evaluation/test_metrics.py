"""Metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgym_offline.diseases.base import Course
from medgym_offline.diseases.registry import disease
from medgym_offline.evaluation import metrics

HOURS = np.arange(97.0)
FINE = np.arange(385) * 0.25


def test_safe_share_counts_times_after_twenty() -> None:
    # Unsafe through hour 39: of the 76 hours 21..96, 19 are unsafe and 57 safe.
    assert metrics.safe_share(HOURS < 40, HOURS, 20.0) == pytest.approx(100 * 57 / 76)
    # Trouble up to and including hour 20 does not count.
    assert metrics.safe_share(HOURS <= 20, HOURS, 20.0) == 100.0


def test_fine_grid_sees_an_excursion_between_hours() -> None:
    unsafe = (FINE > 50) & (FINE < 51)  # three quarter hours
    assert metrics.safe_share(unsafe[::4], HOURS, 20.0) == 100.0
    assert metrics.safe_share(unsafe, FINE, 20.0) == pytest.approx(100 * (304 - 3) / 304)


def course(lactate: np.ndarray, doses: np.ndarray, dt: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of sepsis itself, from lactate (385,) and doses (K, 3) in physical units."""
    sepsis = disease("sepsis")
    scales = sepsis.default_scales()
    physical = np.array([[97.0, 90.0, 1.0, 14.0, 1500.0, 0.0, 0.0, 1.0]]).repeat(385, 0)
    physical[:, 5] = lactate
    states = torch.from_numpy(scales.normalize(sepsis, physical))
    given = torch.from_numpy(scales.normalize_treatment(sepsis, doses))
    read = Course(sepsis, scales, FINE, 4, states, given, dt)
    return {metric.name: metric.compute(read) for metric in sepsis.metrics}


def test_metrics_of_sepsis() -> None:
    doses, dt = np.array([[21.0, 0.1, 500.0], [21.0, 0.0, 100.0], [21.0, 0.5, 900.0]]), np.array([10.0, 86.0, 0.0])
    # Above 4 at 10.25 .. 12.75: trapezoid from 10 to 13 with half cells at both ends.
    found = course(np.where((FINE > 10) & (FINE < 13), 5.0, 1.0), doses, dt)
    assert found["hours_lactate_above_4"] == pytest.approx(2.75)
    # 0.1 mcg/kg/min for 10 h is 60 mcg/kg; 500 mL/h for 10 h is 5 L; the last decision was not made.
    assert found["vasopressor_total"] == pytest.approx(0.06)
    assert found["fluids_total"] == pytest.approx(5.0 + 8.6)
    falling = course(4.0 - FINE / 32.0, doses, dt)
    assert falling["lactate_mean"] == pytest.approx(4.0 - 48 / 32)
    assert falling["lactate_clearance_6h"] == pytest.approx(100 * 6 / 32 / 4)


def test_interval_metrics() -> None:
    dt = np.array([[[10.0, 20.0, 66.0, 0.0], [96.0, 0.0, 0.0, 0.0]]])
    found = metrics.interval_metrics(dt, dt > 0)
    assert found["decisions_used"].tolist() == [[3.0, 1.0]]
    assert found["first_interval"].tolist() == [[10.0, 96.0]]
    assert found["last_interval"].tolist() == [[66.0, 96.0]]
    # Quantiles of (10, 20, 66, 96), linear interpolation.
    assert found["dt_q50"][0] == pytest.approx(43.0)
    assert found["dt_q25"][0] == pytest.approx(17.5)
    assert found["dt_q95"][0] == pytest.approx(66 + 0.85 * 30)


def test_normalized_score() -> None:
    score = metrics.normalized_score(np.array([-80.0, -30.0, -55.0]), -80.0, -30.0)
    assert score.tolist() == [0.0, 100.0, 50.0]
    assert np.isnan(metrics.normalized_score(np.array([1.0]), 2.0, 2.0)).all()
