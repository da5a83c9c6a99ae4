"""The metrics of the benchmark as pure functions of dense arrays.

Arrays have any leading axes (patients, episodes); time is the last axis. Nothing here knows of simulators: `hours` is
the absolute grid on which the arrays were read. :data:`METRICS` lists every metric with its unit and direction, in the
order in which tables show them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DT_QUANTILES",
    "METRICS",
    "Metric",
    "clearance",
    "hold_metrics",
    "hours_above",
    "normalized_score",
    "safe_share",
    "time_mean",
    "treatment_totals",
]

Array = NDArray[np.floating]

DT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the interval between decisions that are reported."""

_LACTATE_FLOOR = 0.1  # mmol/L, below what a blood gas analyser reports; keeps the relative clearance finite


@dataclass(frozen=True)
class Metric:
    """One metric: its key, what it is called in tables, unit, format, and which direction is better (0: neither)."""

    name: str
    label: str
    unit: str
    better: int
    digits: int
    definition: str


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("sofa_all", "SOFA (all)", "points", -1, 3, "mean surrogate SOFA over hours 0..96"),
        Metric("sofa_96h", "SOFA (96 h)", "points", -1, 3, "surrogate SOFA at 96 h"),
        Metric("safe_hourly", "Safe", "%", 1, 1, "share of hours after hour 20 with lactate < 4 mmol/L"),
        Metric("safe_dense", "Safe, 0.25 h grid", "%", 1, 1, "the same on the 0.25 h grid"),
        Metric("return", "Return", "", 1, 2, "undiscounted sum of rewards"),
        Metric("normalized_score", "Normalised score", "", 1, 1, "100 (return - random) / (expert - random)"),
        Metric("lactate_mean", "Lactate", "mmol/L", -1, 2, "mean over hours 0..96"),
        Metric("lactate_clearance_6h", "Clearance at 6 h", "%", 1, 1, "100 (l(0) - l(6)) / l(0)"),
        Metric("hours_lactate_above_2", "Lactate above 2", "h", -1, 1, "time above 2 mmol/L, 0.25 h grid"),
        Metric("hours_lactate_above_4", "Lactate above 4", "h", -1, 1, "time above 4 mmol/L, 0.25 h grid"),
        Metric("cost_mean", "Cost per decision", "", -1, 3, "mean safety cost of a decision"),
        Metric("vasopressor_total", "Vasopressor", "mg/kg", 0, 2, "norepinephrine equivalents given in 96 h"),
        Metric("fluids_total", "Fluids", "L", 0, 1, "fluids given in 96 h"),
        Metric("decisions_used", "Decisions", "", 0, 1, "decisions made in 96 h"),
        Metric("first_hold", "First hold", "h", 0, 1, "length of the first interval"),
        Metric("last_hold", "Last hold", "h", 0, 1, "length of the last interval"),
        *(
            Metric(
                f"dt_q{100 * q:02.0f}", f"Interval, {100 * q:.0f} % quantile", "h", 0, 2, "quantile of the intervals"
            )
            for q in DT_QUANTILES
        ),
        Metric("support_distance", "Support distance", "SD", -1, 2, "mean distance to the behaviour data (eq. 16)"),
        Metric(
            "support_percentile",
            "Support percentile",
            "%",
            -1,
            1,
            "mean percentile among the behaviour's own; 50 is its own",
        ),
        Metric("support_states", "Support, states alone", "SD", -1, 2, "the same distance over observations alone"),
        Metric("support_actions", "Support, actions alone", "SD", -1, 2, "the same distance over actions alone"),
        Metric("support_outside", "Outside support", "%", -1, 1, "share beyond the behaviour's own 95th percentile"),
    )
}
"""Every metric that an evaluation can hold, in table order."""


def time_mean(values: Array) -> Array:
    """Plain mean over the grid points of the last axis (hours 0..96 count alike, both ends included)."""
    return values.mean(axis=-1)


def safe_share(lactate: Array, hours: Array, after: float = 20.0, threshold: float = 4.0) -> Array:
    """Percentage of grid points with hour > `after` at which lactate < `threshold` (mmol/L).

    Args:
        lactate: (..., T) mmol/L.
        hours: (T,) grid.

    Returns:
        (...) in 0..100.
    """
    late = hours > after + 1e-9
    return 100.0 * (lactate[..., late] < threshold).mean(axis=-1)


def hours_above(lactate: Array, hours: Array, threshold: float = 4.0) -> Array:
    """Hours with lactate > `threshold`: trapezoidal integral of the indicator on the grid, at most the horizon.

    Args:
        lactate: (..., T) mmol/L.
        hours: (T,) grid.
    """
    above = (lactate > threshold).astype(float)
    return (np.diff(hours) * (above[..., 1:] + above[..., :-1]) / 2.0).sum(-1)  # numpy before 2.0 has no trapezoid


def clearance(lactate: Array, hours: Array, at: float = 6.0) -> Array:
    """Lactate clearance 100 (l(0) - l(at)) / l(0), per cent; negative where lactate rose.

    Args:
        lactate: (..., T) mmol/L.
        hours: (T,) grid that contains 0 and `at`.
    """
    start = lactate[..., int(np.argmin(np.abs(hours)))]
    later = lactate[..., int(np.argmin(np.abs(hours - at)))]
    return 100.0 * (start - later) / np.maximum(start, _LACTATE_FLOOR)


def treatment_totals(vasopressor: Array, fluids: Array, dt: Array) -> tuple[Array, Array]:
    """Amounts given, exactly, from the holds.

    Args:
        vasopressor: (..., K) mcg/kg/min in force during each decision.
        fluids: (..., K) mL/h.
        dt: (..., K) hours; 0 for decisions not made.

    Returns:
        (vasopressor mg/kg, fluids L), each (...).
    """
    return (vasopressor * dt).sum(axis=-1) * 60.0 / 1000.0, (fluids * dt).sum(axis=-1) / 1000.0


def hold_metrics(dt: Array, valid: NDArray[np.bool_]) -> dict[str, Array]:
    """Decisions used, first and last hold, and quantiles of the intervals.

    Args:
        dt: (P, B, K) hours.
        valid: (P, B, K) bool; the valid decisions of an episode come first.

    Returns:
        `decisions_used`, `first_hold`, `last_hold` of shape (P, B), and `dt_q05` ... `dt_q95` of shape (P,): the
        quantiles are over all decisions of a patient, so an episode with many short holds weighs more.
    """
    count = valid.sum(axis=-1)
    last = np.take_along_axis(dt, np.maximum(count - 1, 0)[..., None], axis=-1)[..., 0]
    quantiles = np.nanquantile(np.where(valid, dt, np.nan).reshape(len(dt), -1), DT_QUANTILES, axis=-1)
    result: dict[str, Array] = {"decisions_used": count.astype(float), "first_hold": dt[..., 0], "last_hold": last}
    return result | {f"dt_q{100 * q:02.0f}": row for q, row in zip(DT_QUANTILES, quantiles)}


def normalized_score(returns: Array, random: Array | float, expert: Array | float) -> Array:
    """100 (return - random) / (expert - random); NaN where the two references coincide."""
    gap = np.asarray(expert, dtype=float) - random
    return 100.0 * (returns - random) / np.where(np.abs(gap) > 1e-12, gap, np.nan)
