"""Severity, cost and metrics of a glucose path; NumPy arrays and torch tensors alike.

Paths are (..., T + 1) values at ticks, both ends included; integrals are trapezoids, so those of two intervals that
follow one another add up to that of both.
"""

from __future__ import annotations

from medgym_offline.diseases.diabetes.people import TICK
from medgym_offline.diseases.scales import Array, namespace

__all__ = ["CAP", "LOW", "VERY_LOW", "below", "consensus", "integral", "risk"]

LOW, VERY_LOW, HIGH, VERY_HIGH = 70.0, 54.0, 180.0, 250.0
"""Limits of the international consensus, mg/dL (Battelino et al., Diabetes Care 42:1593, 2019)."""
CAP = 60.0
"""Risk at which a reward, not a metric, is cut: reached below 30 and above 413 mg/dL (chosen: one lethal hour must not
outweigh a day)."""
FLOOR, CEILING = 10.0, 600.0
"""Glucose is clamped to these before the risk, mg/dL; the model has no counter-regulation and can reach 0."""


def _symmetric(glucose: Array) -> Array:
    xp = namespace(glucose)
    return 1.509 * (xp.log(xp.clip(glucose, FLOOR, CEILING)) ** 1.084 - 5.381)


def risk(glucose: Array) -> Array:
    """Risk of glucose in mg/dL, 0 at 112.5 (Kovatchev et al., Diabetes Care 20:1655, 1997): 10 f^2, elementwise.

    f = 1.509 (log(glucose)^1.084 - 5.381), of glucose clamped to 10..600 mg/dL.
    """
    return 10.0 * _symmetric(glucose) ** 2


def below(glucose: Array, limit: float) -> Array:
    """1 where glucose is below `limit`, else 0: a cost, and per hour its rate."""
    return (glucose < limit) + 0.0 * glucose


def integral(values: Array, tick: float = TICK / 60.0) -> Array:
    """Trapezoids of (..., T + 1) values at ticks of `tick` hours: (...)."""
    return tick * (0.5 * (values[..., 1:] + values[..., :-1])).sum(-1)


def _mean(values: Array) -> Array:
    return integral(values) / (TICK / 60.0 * (values.shape[-1] - 1))


def consensus(path: Array) -> dict[str, Array]:
    """Metrics of the international consensus (Battelino et al., 2019) of paths (..., T + 1), mg/dL, each (...).

    Returns:
        time_in_range (70..180 mg/dL; goal above 70 %), time_below_70 (below 4 %), time_below_54 (below 1 %),
        time_above_180 (below 25 %) and time_above_250 (below 5 %), per cent of time; glucose_mean, mg/dL;
        glucose_cv, the coefficient of variation (at most 36 %); lbgi and hbgi, the mean risks of low and of high
        glucose, whose sum is the mean risk.
    """
    xp = namespace(path)

    def share(where: Array) -> Array:
        return 100.0 * _mean(where + 0.0 * path)

    average, f = _mean(path), _symmetric(path)
    return {
        "time_in_range": share((path >= LOW) & (path <= HIGH)),
        "time_below_70": share(path < LOW),
        "time_below_54": share(path < VERY_LOW),
        "time_above_180": share(path > HIGH),
        "time_above_250": share(path > VERY_HIGH),
        "glucose_mean": average,
        "glucose_cv": 100.0 * _mean((path - average[..., None]) ** 2) ** 0.5 / average,
        "lbgi": _mean(10.0 * xp.clip(f, None, 0.0) ** 2),
        "hbgi": _mean(10.0 * xp.clip(f, 0.0, None) ** 2),
    }
