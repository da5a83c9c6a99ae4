"""Numbers of an entry against those of its re-execution, each with the difference that is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.leaderboard.entry import HEADLINE, Entry

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["Row", "fresh_metrics", "fresh_rows", "missing_numbers", "rows_of", "tolerance", "training_rows"]

RELATIVE = 0.0005
_ABSOLUTE = {"%": 0.05, "h": 0.02}
_FLOOR = 0.0005
_PARTS = {"_iqm": 0.5, "_worst_decile": 0.1}  # share of the patients that a run's statistic rests on
_LEVEL = 1e-4  # chance that an honest entry fails a comparison that allows for noise


@dataclass(frozen=True)
class Row:
    """One compared number.

    Attributes:
        check: "mean" (of all runs), "interval", "curve", "run N", "patients of run N", "mean over patients of run N" or
            "fresh seeds run N"; with "trained again, " before it where :func:`training_rows` has widened the tolerance.
        world, metric: Which number; "monitored" for the curve of the monitored component.
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


def tolerance(value: float, unit: str = "") -> float:
    """Largest accepted difference on the same seeds: 0.05 % of the value, plus 0.05 points of a percentage, 0.02 h, or
    0.0005 of anything else.

    Measured between instruction sets (`docs/reproduce.md`): at most a tenth of it. What moves most is a count, such as
    the share of decisions outside the support, when one number crosses a threshold.
    """
    return RELATIVE * abs(value) + _ABSOLUTE.get(unit, _FLOOR)


def fresh_metrics(disease: str) -> tuple[str, ...]:
    """Metrics that must also hold on evaluation seeds nobody has seen: the headline's and the disease's first own."""
    return (*HEADLINE, *(metric.name for metric in find_disease(disease).metrics[:1]))


def _units(disease: str) -> dict[str, str]:
    from medgym_offline.evaluation.metrics import metrics_of

    definition = find_disease(disease)
    units = {name: metric.unit for name, metric in metrics_of(definition).items()}
    return {**units, "monitored": definition.components[definition.monitored].unit}


def missing_numbers(claimed: Entry, found: Entry) -> Iterator[str]:
    """A line for each mean that only one of an entry and its re-execution has."""
    for check, ours, theirs in _pairs(claimed, found):
        a, b = ({(world, metric) for world in values for metric in values[world]} for values in (ours, theirs))
        for world, metric in sorted(a - b):
            yield f"{world} {metric} ({check}): claimed, but the re-execution has no such number"
        for world, metric in sorted(b - a):
            yield f"{world} {metric} ({check}): missing in the entry"


def _pairs(claimed: Entry, found: Entry) -> Iterator[tuple[str, Mapping[Any, Any], Mapping[Any, Any]]]:
    yield "mean", claimed.metrics, found.metrics
    for number, (a, b) in enumerate(zip(claimed.runs, found.runs), 1):
        yield f"run {number}", a, b


def rows_of(claimed: Entry, found: Entry) -> Iterator[Row]:
    """Every number of an entry against its re-execution's; what is missing, or of another length, agrees nowhere."""
    units = _units(claimed.disease)

    def row(check: str, world: str, metric: str, a: float, b: float, parts: float = 1.0) -> Row:
        base = metric.removesuffix("_iqm")
        return Row(check, world, metric, a, b, parts * tolerance(b, units.get(base, "")))

    for check, ours, theirs in _pairs(claimed, found):
        for world, metrics in theirs.items():
            for metric, value in metrics.items():
                if metric in ours[world]:
                    yield row(check, world, metric, ours[world][metric], value)
    for world, intervals in found.intervals.items():
        for metric, interval in intervals.items():
            for a, b in zip(claimed.intervals[world].get(metric, (float("nan"),) * 2), interval):
                yield row("interval", world, metric, a, b)
    for world, curves in found.curves.items():
        stated = claimed.curves[world]
        for name, metric in (("severity", "severity_mean"), ("monitored", "monitored")):
            a, b = getattr(stated, name), getattr(curves, name)
            same = stated.times == curves.times and len(a) == len(b)
            yield from (row("curve", world, metric, a[n] if same else float("nan"), b[n]) for n in range(len(b)))
    for world, columns in found.per_patient.items():
        for metric in columns:
            both = (np.array(side.per_patient[world][metric]) for side in (claimed, found))
            for number, (a, b) in enumerate(zip(*both), 1):
                # A mean over P patients moves by a part in sqrt(P) of what each of them moves by.
                apart = float(np.sqrt(((a - b) ** 2).mean()))
                room = len(b) ** 0.5 * tolerance(float(b.mean()), units[metric])
                yield Row(f"patients of run {number}", world, metric, apart, 0.0, room)
                yield row(f"mean over patients of run {number}", world, metric, float(a.mean()), float(b.mean()))


def fresh_rows(first: Sequence[Evaluation], other: Sequence[Evaluation], disease: str) -> Iterator[Row]:
    """First evaluations against those on other seeds: the mean difference must be within the noise of the episodes.

    That noise is the spread over patients of the difference, pooled over the runs; the level is shared among all
    numbers compared, so that it holds for the entry as a whole.
    """
    patients, metrics, units = len(first[0].per_patient["patient"]), fresh_metrics(disease), _units(disease)
    if patients < 2:
        return  # the noise of one patient cannot be told from its difference
    worlds = list(first[0].worlds)
    factor = _factor(len(first) * len(worlds) * len(metrics), patients - 1)
    for world in worlds:
        for metric in metrics:
            a, b = (_scores(side, world, metric) for side in (first, other))
            error = float(np.sqrt((a - b).var(axis=1, ddof=1).mean() / patients))
            for n, (x, y) in enumerate(zip(a.mean(axis=1), b.mean(axis=1)), 1):
                allowed = tolerance(float(y), units[metric]) + factor * error
                yield Row(f"fresh seeds run {n}", world, metric, float(x), float(y), allowed)


def training_rows(rows: Sequence[Row], again: Sequence[Evaluation], disease: str) -> list[Row]:
    """`rows` with room for the noise of training: for policies trained again where sums end in other bits.

    Training magnifies such bits until a patient's policy is, at worst, that of another training seed. A run's mean over
    patients with a learner each may so differ by the spread between seeds, sqrt(2 s^2 / patients), s^2 being the
    variance between the seeds of `again` within a patient. The interquartile mean rests on half of the patients, the
    worst decile on a tenth, the distance of patients on each alone; an interval's end and one point of a curve get
    twice the room of a mean over all times. The level is shared among all rows.

    Args:
        rows: Claimed numbers against those of `again`, from :func:`rows_of`.
        again: The runs trained again; at least two, of learners that are independent of each other.
        disease: Name of the disease.
    """
    patients = len(again[0].per_patient["patient"])
    factor = _factor(len(rows), patients * (len(again) - 1))
    errors: dict[tuple[str, str], float] = {}

    def error(world: str, metric: str) -> float:
        if metric == "monitored":
            return _monitored_error(again, world, disease, error)
        if (world, metric) not in errors:
            within = _scores(again, world, metric).var(axis=0, ddof=1).mean()
            errors[world, metric] = float(np.sqrt(2 * within / patients))
        return errors[world, metric]

    found = []
    for row in rows:
        base, share = row.metric, 1.0 / patients if row.check.startswith("patients") else 1.0
        for ending, part in _PARTS.items():
            if row.metric.endswith(ending):
                base, share = row.metric.removesuffix(ending), part
        room = factor * error(row.world, base) / share**0.5 * (2.0 if row.check in ("interval", "curve") else 1.0)
        found.append(replace(row, check=f"trained again, {row.check}", tolerance=row.tolerance + room))
    return found


def _monitored_error(again: Sequence[Evaluation], world: str, disease: str, error: Any) -> float:
    """Noise of training of the monitored component's mean.

    That of the disease's metric of it, or else severity's, as a share of the spread over patients of either.
    """
    name = f"{find_disease(disease).cost.component}_mean"
    if name in again[0].worlds[world].per_patient:
        return float(error(world, name))
    spread = {
        key: np.mean(
            [np.subtract(e.worlds[world].curves[key]["q90"], e.worlds[world].curves[key]["q10"]) for e in again]
        )
        for key in ("severity", "monitored")
    }
    return float(error(world, "severity_mean") * spread["monitored"] / max(spread["severity"], 1e-12))


def _factor(comparisons: int, degrees: int) -> float:
    """Standard errors that an honest entry's `comparisons` numbers stay within, together, at the level."""
    from scipy.stats import t

    return float(t.ppf(1 - _LEVEL / comparisons / 2, degrees))


def _scores(evaluations: Sequence[Evaluation], world: str, metric: str) -> NDArray[np.float64]:
    """(run, patient)."""
    return np.array([e.worlds[world].per_patient[metric] for e in evaluations], dtype=float)
