"""Numbers of an entry against those of its re-execution, each with the difference that is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.leaderboard.entry import HEADLINE, Entry

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["Row", "fresh_metrics", "fresh_rows", "rows_of", "tolerance", "training_rows"]

RELATIVE = 0.0005
_ABSOLUTE = {"%": 0.05, "h": 0.02}
_FLOOR = 0.0005
_PARTS = {"_iqm": 0.5, "_worst_decile": 0.1}  # share of the patients that a run's statistic rests on
_LEVEL = 1e-4  # chance that an honest entry fails a comparison that allows for noise


@dataclass(frozen=True)
class Row:
    """One compared number.

    Attributes:
        check: "mean" (of all runs), "interval", "run N", "patients of run N" (root mean square over patients of claimed
            less found) or "fresh seeds run N"; after "trained again, " with the room of :func:`training_rows`.
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


def tolerance(value: float, unit: str = "") -> float:
    """Largest accepted difference on the same seeds: 0.05 % of the value, plus 0.05 points of a percentage, 0.02 h, or
    0.0005 of anything else.

    Measured between instruction sets (`docs/reproduce.md`): at most a quarter of it. What moves most is a count, such
    as the share of decisions outside the support, when one number crosses a threshold.
    """
    return RELATIVE * abs(value) + _ABSOLUTE.get(unit, _FLOOR)


def fresh_metrics(disease: str) -> tuple[str, ...]:
    """Metrics that must also hold on evaluation seeds nobody has seen: the headline's and the disease's first own."""
    return (*HEADLINE, *(metric.name for metric in find_disease(disease).metrics[:1]))


def _units(disease: str) -> dict[str, str]:
    from medgym_offline.evaluation.metrics import metrics_of

    return {name: metric.unit for name, metric in metrics_of(find_disease(disease)).items()}


def rows_of(claimed: Entry, found: Entry) -> Iterator[Row]:
    """Every number of an entry against its re-execution's; one that only one of them has is not finite in the other."""
    units, nan = _units(claimed.disease), float("nan")

    def row(check: str, world: str, metric: str, a: float, b: float) -> Row:
        return Row(check, world, metric, a, b, tolerance(b, units.get(metric.removesuffix("_iqm"), "")))

    runs = [(f"run {n}", a, b) for n, (a, b) in enumerate(zip(claimed.runs, found.runs), 1)]
    for check, ours, theirs in [("mean", claimed.metrics, found.metrics), *runs]:
        for world in theirs:
            for metric in {**theirs[world], **ours[world]}:
                yield row(check, world, metric, ours[world].get(metric, nan), theirs[world].get(metric, nan))
    for world, intervals in found.intervals.items():
        for metric in {**intervals, **claimed.intervals[world]}:
            ends = (side.intervals[world].get(metric, (nan, nan)) for side in (claimed, found))
            yield from (row("interval", world, metric, a, b) for a, b in zip(*ends))
    for world, columns in found.per_patient.items():
        for metric in columns:
            both = (np.array(side.per_patient[world][metric]) for side in (claimed, found))
            for number, (a, b) in enumerate(zip(*both), 1):
                # A mean over P patients moves by a part in sqrt(P) of what each of them moves by.
                room = len(b) ** 0.5 * tolerance(float(b.mean()), units[metric])
                apart = float(np.sqrt(((a - b) ** 2).mean()))
                yield Row(f"patients of run {number}", world, metric, apart, 0.0, room)


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


def training_rows(rows: Sequence[Row], again: Sequence[Evaluation]) -> list[Row]:
    """`rows` with room for the noise of training: for policies trained again where sums end in other bits.

    Training magnifies such bits until a patient's policy is, at worst, that of another training seed. A run's mean over
    patients with a learner each may so differ by the spread between seeds, sqrt(2 s^2 / patients), s^2 being the
    variance between the seeds of `again` within a patient. The interquartile mean rests on half of the patients, the
    worst decile on a tenth, the distance of patients on each alone; an interval's end gets twice the room of a mean.
    The level is shared among all rows.

    Args:
        rows: Claimed numbers against those of `again`, from :func:`rows_of`.
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
        base, share = row.metric, 1.0 / patients if row.check.startswith("patients") else 1.0
        for ending, part in _PARTS.items():
            if row.metric.endswith(ending):
                base, share = row.metric.removesuffix(ending), part
        room = factor * error(row.world, base) / share**0.5 * (2.0 if row.check == "interval" else 1.0)
        found.append(replace(row, check=f"trained again, {row.check}", tolerance=row.tolerance + room))
    return found


def _factor(comparisons: int, degrees: int) -> float:
    """Standard errors that an honest entry's `comparisons` numbers stay within, together, at the level."""
    from scipy.stats import t

    return float(t.ppf(1 - _LEVEL / comparisons / 2, degrees))


def _scores(evaluations: Sequence[Evaluation], world: str, metric: str) -> NDArray[np.float64]:
    """(run, patient)."""
    return np.array([e.worlds[world].per_patient[metric] for e in evaluations], dtype=float)
