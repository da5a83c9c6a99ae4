"""The metrics of the benchmark as pure functions of dense arrays.

Arrays have any leading axes (patients, episodes); time is the last axis. Nothing here knows of simulators: `hours` is
the absolute grid on which the arrays were read. :data:`METRICS` lists every metric with its unit and direction, in the
order in which tables show them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medgym_offline.diseases.base import Disease, Metric

__all__ = ["METRICS", "interval_metrics", "metrics_of", "normalized_score", "safe_share"]

Array = NDArray[np.floating]

DT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the interval between decisions that are reported."""

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("severity_mean", "Severity", "points", -1, 3, "mean severity over the episode"),
        Metric("severity_end", "Severity at the end", "points", -1, 3, "severity at the horizon"),
        Metric("safe_hourly", "Safe", "%", 1, 1, "share of times on the grid, once treatment can work, that are safe"),
        Metric("safe_path", "Safe, fine grid", "%", 1, 1, "the same on the fine grid"),
        Metric("return", "Return", "", 1, 2, "undiscounted sum of rewards"),
        Metric("normalized_score", "Normalized score", "", 1, 1, "100 (return - random) / (expert - random)"),
        Metric("cost_mean", "Cost per decision", "", -1, 3, "mean safety cost of a decision"),
        Metric("decisions_used", "Decisions", "", 0, 1, "decisions made in an episode"),
        Metric("first_interval", "First interval", "", 0, 1, "length of the first interval"),
        Metric("last_interval", "Last interval", "", 0, 1, "length of the last interval"),
        *(
            Metric(f"dt_q{100 * q:02.0f}", f"Interval, {100 * q:.0f} % quantile", "", 0, 2, "quantile of the intervals")
            for q in DT_QUANTILES
        ),
        Metric("support_distance", "Support distance", "SD", -1, 2, "mean distance to the behavior data (eq. 16)"),
        Metric("support_percentile", "Support percentile", "%", -1, 1, "mean percentile among the behavior's own (50)"),
        Metric("support_states", "Support, states alone", "SD", -1, 2, "the same distance over observations alone"),
        Metric("support_actions", "Support, actions alone", "SD", -1, 2, "the same distance over actions alone"),
        Metric("support_outside", "Outside support", "%", -1, 1, "share beyond the behavior's own 95th percentile"),
    )
}
"""The metrics that every disease has, in table order; each disease adds its own (:func:`metrics_of`)."""


def metrics_of(disease: Disease) -> dict[str, Metric]:
    """Every metric that an evaluation of a disease can hold, in table order, with the disease's names and units."""
    severity, cost, process = disease.severity, disease.cost, disease.process
    side = "below" if cost.side == "above" else "above"
    safe = f"{cost.component} {side} {cost.limit:g} {disease.components[disease.monitored].unit}"
    label, end, settled = severity.label, *(f"{t:g} {process.unit}" for t in (process.horizon, process.settled))
    told = {
        "severity_mean": (label, severity.unit, f"mean {label} over 0..{end}"),
        "severity_end": (f"{label}, {end}", severity.unit, f"{label} at {end}"),
        "safe_hourly": ("Safe", "%", f"share of times after {settled} with {safe}"),
        "safe_path": (f"Safe, {process.fine:g} {process.unit} grid", "%", "the same on the fine grid"),
    }
    found = {}
    for name, metric in METRICS.items():
        label, unit_, definition = told.get(name, (metric.label, metric.unit, metric.definition))
        timed = "interval" in name or name.startswith("dt_")
        found[name] = replace(metric, label=label, unit=process.unit if timed else unit_, definition=definition)
        if name == "normalized_score":
            found |= {own.name: own for own in disease.metrics}
    return found


def safe_share(unsafe: NDArray[np.bool_], times: Array, after: float) -> Array:
    """Percentage of grid points later than `after` that are not `unsafe`.

    Args:
        unsafe: (..., T) bool.
        times: (T,) grid.

    Returns:
        (...) in 0..100.
    """
    late = times > after + 1e-9
    return 100.0 * (~unsafe[..., late]).mean(axis=-1)


def interval_metrics(dt: Array, valid: NDArray[np.bool_]) -> dict[str, Array]:
    """Decisions used, first and last interval, and quantiles of the intervals.

    Args:
        dt: (P, B, K).
        valid: (P, B, K) bool; the valid decisions of an episode come first.

    Returns:
        `decisions_used`, `first_interval`, `last_interval` of shape (P, B), and `dt_q05` ... `dt_q95` of shape (P,):
        the quantiles are over all decisions of a patient, so an episode with many short intervals weighs more.
    """
    count = valid.sum(axis=-1)
    last = np.take_along_axis(dt, np.maximum(count - 1, 0)[..., None], axis=-1)[..., 0]
    quantiles = np.nanquantile(np.where(valid, dt, np.nan).reshape(len(dt), -1), DT_QUANTILES, axis=-1)
    result = {"decisions_used": count.astype(float), "first_interval": dt[..., 0], "last_interval": last}
    return result | {f"dt_q{100 * q:02.0f}": row for q, row in zip(DT_QUANTILES, quantiles)}


def normalized_score(returns: Array, random: Array | float, expert: Array | float) -> Array:
    """100 (return - random) / (expert - random); NaN where the two references coincide."""
    gap = np.asarray(expert, dtype=float) - random
    return 100.0 * (returns - random) / np.where(np.abs(gap) > 1e-12, gap, np.nan)
