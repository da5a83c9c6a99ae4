"""Numbers of an entry against those of its re-execution, each with the difference that is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = [
    "FRESH_METRICS",
    "Row",
    "curve_rows",
    "fresh_rows",
    "interval_rows",
    "missing_numbers",
    "rows_of",
    "tolerance",
    "training_rows",
]

FRESH_METRICS = ("severity_mean", "severity_end", "safe_hourly", "return", "lactate_mean")
"""Metrics that must also hold on evaluation seeds nobody has seen."""

RELATIVE = 0.0005
_ABSOLUTE = {"%": 0.05, "h": 0.02}
_FLOOR = 0.0005
_PARTS = {"_iqm": 0.5, "_worst_decile": 0.1}  # share of the patients that a run's statistic rests on
_LEVEL = 1e-4  # chance that an honest entry fails a comparison that allows for noise


@dataclass(frozen=True)
class Row:
    """One compared number.

    Attributes:
        check: "mean" (of all runs), "interval", "curve", "run N" or "fresh seeds run N"; with "trained again, " before
            it where :func:`training_rows` has widened the tolerance.
        world, metric: Which number.
        claimed, found: As submitted, and as re-executed.
        tolerance: Largest accepted |claimed - found|.
    """

    check: str
    world: str
    metric: str
    claimed: float
    found: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the two agree (never for a number that is not finite)."""
        return bool(abs(self.claimed - self.found) <= self.tolerance)


def tolerance(metric: str, value: float) -> float:
    """Largest accepted difference on the same seeds: 0.05 % of the value, plus 0.05 points of a percentage, 0.02 h, or
    0.0005 of anything else.

    Measured between instruction sets (`docs/reproduce.md`): at most a tenth of it. What moves most is a count, such as
    the share of decisions outside the support, when one number crosses a threshold.
    """
    from medgym_offline.evaluation.metrics import METRICS

    unit = METRICS[metric].unit if metric in METRICS else ""
    return RELATIVE * abs(value) + _ABSOLUTE.get(unit, _FLOOR)


def _flat(values: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {(world, metric): number for world, metrics in values.items() for metric, number in metrics.items()}


def missing_numbers(pairs: list[tuple[str, Any, Any]]) -> Iterator[str]:
    """A line for each number that only one side of (check, claimed, found) has."""
    for check, claimed, found in pairs:
        a, b = _flat(claimed), _flat(found)
        yield from (
            f"{w} {m} ({check}): claimed, but the re-execution has no such number"
            for w, m in sorted(a.keys() - b.keys())
        )
        yield from (f"{w} {m} ({check}): missing in the entry" for w, m in sorted(b.keys() - a.keys()))


def rows_of(check: str, claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    """The numbers that both have: world -> metric -> number."""
    a, b = _flat(claimed), _flat(found)
    for world, metric in [key for key in b if key in a]:
        value = b[world, metric]
        yield Row(check, world, metric, a[world, metric], value, tolerance(metric.removesuffix("_iqm"), value))


def interval_rows(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    """Both ends of every interval; one that is missing agrees nowhere."""
    for world, metrics in found.items():
        for metric, interval in metrics.items():
            stated = claimed.get(world, {}).get(metric, [float("nan")] * 2)
            for a, b in zip(stated, interval):
                yield Row("interval", world, metric, a, b, tolerance(metric, b))


def curve_rows(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    """The curves an entry's page draws, point by point; a curve of other hours or length agrees nowhere."""
    for world, curves in found.items():
        stated = claimed.get(world, {})
        same = stated.get("hours") == curves["hours"] and all(
            len(stated[name]) == len(curves[name]) for name in ("sofa", "lactate")
        )
        for name, metric in (("sofa", "severity_mean"), ("lactate", "lactate_mean")):
            for n, b in enumerate(curves[name]):
                yield Row("curve", world, metric, stated[name][n] if same else float("nan"), b, tolerance(metric, b))


def fresh_rows(first: Sequence[Evaluation], other: Sequence[Evaluation]) -> Iterator[Row]:
    """First evaluations against those on other seeds: the mean difference must be within the noise of the episodes.

    That noise is the spread over patients of the difference, pooled over the runs; the level is shared among all
    numbers compared, so that it holds for the entry as a whole.
    """
    patients = len(first[0].per_patient["patient"])
    if patients < 2:
        return  # the noise of one patient cannot be told from its difference
    worlds = list(first[0].worlds)
    factor = _factor(len(first) * len(worlds) * len(FRESH_METRICS), patients - 1)
    for world in worlds:
        for metric in FRESH_METRICS:
            a, b = (_scores(side, world, metric) for side in (first, other))
            error = float(np.sqrt((a - b).var(axis=1, ddof=1).mean() / patients))
            for n, (x, y) in enumerate(zip(a.mean(axis=1), b.mean(axis=1)), 1):
                allowed = tolerance(metric, float(y)) + factor * error
                yield Row(f"fresh seeds run {n}", world, metric, float(x), float(y), allowed)


def training_rows(rows: Sequence[Row], again: Sequence[Evaluation]) -> list[Row]:
    """`rows` with room for the noise of training: for policies trained again where sums end in other bits.

    Training magnifies such bits until a patient's policy is, at worst, that of another training seed. A run's mean over
    patients with a learner each may so differ by the spread between seeds, sqrt(2 s^2 / patients), s^2 being the
    variance between the seeds of `again` within a patient. The interquartile mean rests on half of the patients, the
    worst decile on a tenth; an interval's end and one hour of a curve get twice the room of a mean over all hours. The
    level is shared among all rows.

    Args:
        rows: Claimed numbers against those of `again`, from the functions above.
        again: The runs trained again; at least two, of learners that are independent of each other.
    """
    patients = len(again[0].per_patient["patient"])
    factor = _factor(len(rows), patients * (len(again) - 1))
    errors: dict[tuple[str, str], float] = {}

    def error(world: str, metric: str) -> float:
        if (world, metric) not in errors:
            within = _scores(again, world, metric).var(axis=0, ddof=1).mean()
            errors[world, metric] = float(np.sqrt(2 * within / patients))
        return errors[world, metric]

    found = []
    for row in rows:
        base, share = row.metric, 1.0
        for ending, part in _PARTS.items():
            if row.metric.endswith(ending):
                base, share = row.metric.removesuffix(ending), part
        room = factor * error(row.world, base) / share**0.5 * (2.0 if row.check in ("interval", "curve") else 1.0)
        found.append(replace(row, check=f"trained again, {row.check}", tolerance=row.tolerance + room))
    return found


def _factor(comparisons: int, degrees: int) -> float:
    """Standard errors that an honest entry's `comparisons` numbers stay within, together, at the level."""
    from scipy.stats import t

    return float(t.ppf(1 - _LEVEL / comparisons / 2, degrees))


def _scores(evaluations: Sequence[Evaluation], world: str, metric: str) -> NDArray[np.float64]:
    """(run, patient)."""
    return np.array([e.worlds[world].per_patient[metric] for e in evaluations], dtype=float)
