"""Validation of a cohort table: a fault of structure is an error, a bad row is rejected and counted by reason.

And the notes of a cohort: what it does not know, and what is plausible only in other units: times, ages, weights, whole
medians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from medgym_offline.cohorts.grid import GridCohort, sum_overlapping
from medgym_offline.cohorts.source import Rejections
from medgym_offline.diseases.concepts import CohortDefinition, Concept
from medgym_offline.errors import CohortError

__all__ = [
    "COLUMNS", "ObservationFlags", "doubt_clock", "fractions", "never_given", "observation_flags", "ranged_attributes",
    "validate",
]  # fmt: skip

COLUMNS = ("patient", "time_h", "end_h", "variable", "value", "source")
_NUMERIC = ("time_h", "end_h", "value")


def validate(
    table: pl.DataFrame, definition: CohortDefinition, where: str = "cohort table"
) -> tuple[pl.DataFrame, Rejections]:
    """A clean copy of `table`, and what was rejected or repaired on the way.

    Repaired and counted: fractions where the concept says so (at most 1, times 100), rows
    out of order, identical rows, several values at one time (averaged), overlapping intervals (infusions summed,
    settings cut at the next). Rejected and counted: unknown variables, missing or non-numeric values, impossible
    values, what is neither fraction nor percentage, times before the look-back, intervals without an end or ending
    before they start, and whole stays with fewer than two observations.

    Args:
        table: Long form, columns of `COLUMNS` (`source` may be missing); any row order.
        definition: What the cohort holds.
        where: Name of the table in messages.

    Raises:
        CohortError: a column is missing.
    """
    rejections = Rejections()
    concepts = definition.concepts
    frame = _typed(table, where, rejections)
    known = pl.col("variable").is_in(list(concepts)).fill_null(False)
    words = pl.format("unknown variable '{}'", pl.col("variable").fill_null(""))
    frame = rejections.drop(frame, (~known, words))
    for concept in concepts.values():
        frame = fractions(frame, concept, rejections)
    value, time, end = pl.col("value"), pl.col("time_h"), pl.col("end_h")
    low, high, lookback = (
        pl.col("variable").replace_strict({c.name: number(c) for c in concepts.values()}, return_dtype=pl.Float64)
        for number in (lambda c: c.range[0] - 1e-9, lambda c: c.range[1] + 1e-9, lambda c: c.lookback)
    )
    treatment = pl.col("variable").is_in(definition.given)
    frame = rejections.drop(
        frame,
        (pl.col("patient").is_null() | (pl.col("patient") == ""), "no patient id"),
        (time.is_null(), _because("time is missing or not a number")),
        (value.is_null(), _because("value is missing or not a number")),
        (~value.is_between(low, high), _because("impossible value")),
        (time < -lookback, _because("negative time (too long before admission)")),
        (treatment & end.is_null(), _because("interval without an end")),
        (treatment & (end <= time), _because("interval ends before it starts")),
    )
    pointless = ~treatment & end.is_not_null()
    rejections.repair("an observation is a point; its end_h removed", frame.select(pointless.sum()).item())
    frame = _distinct(frame.with_columns(pl.when(treatment).then(end).alias("end_h")), definition, rejections)
    frame = _disjoint(frame, definition, rejections)
    observed = pl.col("variable").is_in(definition.observed).sum().alias("observed")
    counts = frame.group_by("patient").agg(observed, pl.len().alias("rows")).sort("patient")
    for patient, seen, rows in counts.filter(pl.col("observed") < 2).iter_rows():
        rejections.stays[patient] = "a single observation" if seen == 1 else "no observation"
        rejections.reject("stay rejected whole", rows)
    return frame.filter(~pl.col("patient").is_in(list(rejections.stays))), rejections


def fractions(frame: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """`frame` (variable, value, ...) with fractions as percentages, where the concept may be charted as either."""
    if not concept.fraction:
        return frame
    name, low, value = concept.name, concept.range[0], pl.col("value")
    mine = pl.col("variable") == name
    fraction = (mine & (value > 0.0) & (value <= 1.0)).fill_null(False)
    rejections.repair(f"{name}: a fraction, multiplied by 100", frame.select(fraction.sum()).item())
    frame = frame.with_columns(value=pl.when(fraction).then(value * 100.0).otherwise(value))
    neither = mine & (value > 1.0) & (value < low)
    return rejections.drop(frame, (neither, f"{name}: between 1 and {low:g}, neither a fraction nor a percentage"))


def _typed(table: pl.DataFrame, where: str, rejections: Rejections) -> pl.DataFrame:
    for column in COLUMNS[:-1]:
        if column not in table.columns:
            found, wanted = ", ".join(table.columns) or "none", ", ".join(COLUMNS)
            raise CohortError(f"{where}: column {column!r} is missing (found: {found}); a cohort table has {wanted}")
    if "source" not in table.columns:
        table = table.with_columns(source=pl.lit(""))
    numbers = {c: pl.col(c).cast(pl.Float64, strict=False) for c in _NUMERIC}
    unreadable = pl.col("end_h").is_not_null() & numbers["end_h"].is_null()
    table = rejections.drop(table, (unreadable, "end_h is not a number"))
    finite = [pl.when(number.is_finite()).then(number).alias(name) for name, number in numbers.items()]
    return table.select(*finite, *(pl.col(c).cast(pl.String) for c in COLUMNS if c not in _NUMERIC)).select(COLUMNS)


def _because(words: str) -> pl.Expr:
    """The reason of a row: its variable, and what is wrong."""
    return pl.format("{}: " + words, pl.col("variable"))


def _distinct(frame: pl.DataFrame, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
    previous = pl.col("time_h").shift(1).over("patient", "variable")
    rejections.repair("rows out of order, sorted", frame.select((pl.col("time_h") < previous).sum()).item())
    unique = frame.unique(subset=list(COLUMNS[:-1]), keep="first")
    rejections.reject("duplicate row", frame.height - unique.height)
    order = ("patient", "time_h", "variable", "end_h", "value")
    unique = unique.sort(order)
    point = pl.col("variable").is_in(definition.observed)
    points = unique.filter(point)
    merged = points.group_by("patient", "variable", "time_h", maintain_order=True).agg(
        pl.col("end_h").first(), pl.col("value").mean(), pl.col("source").first()
    )
    rejections.repair("several values at one time, averaged", points.height - merged.height)
    return pl.concat([merged.select(COLUMNS), unique.filter(~point)]).sort(order)


def _disjoint(frame: pl.DataFrame, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
    parts = [frame.filter(pl.col("variable").is_in(definition.observed))]
    for concept in definition.treatments:
        rows = frame.filter(pl.col("variable") == concept.name)
        following = pl.col("time_h").shift(-1).over("patient")
        overlaps = rows.select((following < pl.col("end_h") - 1e-9).sum()).item()
        if overlaps and concept.gridding == "held":
            rejections.repair(f"{concept.name}: overlapping settings, cut at the next", overlaps)
            rows = rows.with_columns(end_h=pl.min_horizontal("end_h", following))
            rows = rows.filter(pl.col("end_h") > pl.col("time_h"))
        elif overlaps:
            rejections.repair(f"{concept.name}: overlapping intervals, summed", overlaps)
            source = rows.group_by("patient").agg(pl.col("source").first(), pl.col("variable").first())
            summed = sum_overlapping(rows.rename({"time_h": "t_h"}))
            rows = summed.join(source, on="patient").rename({"t_h": "time_h"}).select(COLUMNS)
        parts.append(rows)
    return pl.concat(parts).sort("patient", "time_h", "variable")


#: Hours between records of what is charted most often, and of what is charted every few hours at the least.
_LONGEST_GAP, _SHORTEST_GAP = 24.0, 0.1
#: Fewer values than this say little about gaps and medians, and fewer equal ones about whether a variable varies.
_ENOUGH, _ENOUGH_EQUAL = 5, 3
_CLOCKS = (("minutes", 1.0 / 60.0), ("seconds", 1.0 / 3600.0), ("days", 24.0))
#: Age in years and weight in kg: outside the first range no adult's, and left empty; the second is the usual one.
_ATTRIBUTES = {
    "age": ((0.0, 120.0), (16.0, 105.0), (("months", 1.0 / 12.0), ("days", 1.0 / 365.25))),
    "weight_kg": ((20.0, 400.0), (35.0, 250.0), (("g", 1e-3), ("pounds", 0.4536))),
}


@dataclass(frozen=True)
class ObservationFlags:
    """Stays are kept whatever is flagged: a simulator's prior carries what was not seen.

    Attributes:
        absent: Variable -> stays without any value on the grid.
        constant: Variable -> stays with at least three values on the grid, all equal.
        single: Variable -> the one value it has in the whole cohort (at least three values, over all stays).
        untreated: Treatments that no stay was ever given.
        unusual: Variable or treatment -> why its median over the whole cohort puts its unit in question.
        units: Variable -> unit.
    """

    absent: dict[str, tuple[str, ...]]
    constant: dict[str, tuple[str, ...]]
    single: dict[str, float]
    untreated: tuple[str, ...]
    unusual: dict[str, str]
    units: dict[str, str]

    def lines(self, named: bool = False) -> list[str]:
        """One line a fact worth knowing before a fit; `named` lists the stays too."""
        out = [f"{name}: {why}; is the unit right?" for name, why in self.unusual.items()]
        if self.untreated:
            never = f"{', '.join(self.untreated)}: never given to anybody"
            why = "what nobody charted is not what nobody gave, and only the prior says what it would do"
            out.append(f"{never}; {why}")
        for name, stays in self.absent.items():
            if stays:
                which = f": {', '.join(stays)}" if named else ""
                out.append(f"{name}: no value in {len(stays)} stays, kept (the prior carries it there){which}")
        for name, value in self.single.items():
            one = f"{name}: one value in the whole cohort, {value:g} {self.units[name]}"
            out.append(f"{one}: nothing can be learned from it; is the column right?")
        return out


def observation_flags(grid: GridCohort, definition: CohortDefinition) -> ObservationFlags:
    """The flags of a cohort on its grid (values inside the stay and the horizon)."""
    count = grid.mask.sum(axis=1)
    low = np.where(grid.mask, grid.values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(grid.mask, grid.values, -np.inf).max(axis=1, initial=-np.inf)

    def named(which: np.ndarray) -> dict[str, tuple[str, ...]]:
        rows = zip(definition.observed, map(np.flatnonzero, which.T))
        return {name: tuple(grid.patients[row] for row in mine) for name, mine in rows}

    lowest, highest = low.min(axis=0, initial=np.inf), high.max(axis=0, initial=-np.inf)
    one = (count.sum(axis=0) >= _ENOUGH_EQUAL) & (lowest == highest)
    single = {name: float(lowest[column]) for column, name in enumerate(definition.observed) if one[column]}
    equal = (count >= _ENOUGH_EQUAL) & (low == high)
    untreated, unusual = never_given(grid, definition), _unusual_medians(grid, definition)
    return ObservationFlags(named(count == 0), named(equal), single, untreated, unusual, dict(definition.units))


def never_given(grid: GridCohort, definition: CohortDefinition) -> tuple[str, ...]:
    """Treatments that no stay was given in any hour beyond their background."""
    most = grid.treatment.max(axis=(0, 1), initial=0.0)
    return tuple(c.name for c, dose in zip(definition.treatments, most) if dose <= c.background + 1e-9)


def _unusual_medians(grid: GridCohort, definition: CohortDefinition) -> dict[str, str]:
    """Variable -> what is odd about the median of all its values (treatments: while given), and a unit that fits."""
    seen = {c: grid.values[..., i][grid.mask[..., i]] for i, c in enumerate(definition.observed)}
    for column, concept in enumerate(definition.treatments):
        dose = grid.treatment[..., column]
        seen[concept.name] = dose[dose > concept.background]
    out = {}
    for name, concept in definition.concepts.items():
        if len(seen[name]) < _ENOUGH:
            continue
        median, (low, high) = float(np.median(seen[name])), concept.usual
        if not low <= median <= high:
            fits = [u.name for u in concept.units if not u.amount and low <= median * u.factor <= high]
            which = f"plausible only in {fits[0]}" if fits else f"usually {low:g} to {high:g}"
            out[name] = f"median {median:.3g} {concept.unit}, {which}"
    return out


def doubt_clock(
    points: pl.DataFrame, stays: pl.DataFrame, definition: CohortDefinition, rejections: Rejections
) -> None:
    """Count all observations as doubted where their times are plausible only in other units than hours.

    Judged by the median gap between a stay's records of a variable: of the most frequent variable it is no day, and
    of spot checks no few minutes. Also where stays are shorter than their records by ten times.

    Args:
        points: stay_id, name, amount, t_h.
        stays: stay_id, los_h.
        definition: Which variables are spot checks.
        rejections: Counts are added here.
    """
    keys = ["stay_id", "name", "amount"]
    gaps = (
        points.drop_nulls("t_h")
        .unique([*keys, "t_h"])
        .sort("t_h")
        .select("name", "amount", gap=pl.col("t_h").diff().over(keys))
        .drop_nulls()
        .group_by("name", "amount")
        .agg(pl.col("gap").median(), pl.len().alias("count"))
        .filter(pl.col("count") >= _ENOUGH)
    )
    found = list(gaps.select("name", "gap").iter_rows())
    spot = [gap for name, gap in found if definition.concepts[name].spot]
    short, long = min(spot, default=1.0), min((gap for _, gap in found), default=1.0)
    gap = long if long > _LONGEST_GAP else short if short < _SHORTEST_GAP else None
    for unit, hours in _CLOCKS:
        if gap is not None and _SHORTEST_GAP <= gap * hours <= _LONGEST_GAP:
            apart = f"times as hours are {gap:.3g} h apart, plausible only in {unit}: give hours since admission"
            rejections.doubt(apart, points.height)
            return
    last = points.group_by("stay_id").agg(pl.col("t_h").max()).join(stays, on="stay_id")
    short_stays = last.filter((pl.col("los_h") * 10.0 < pl.col("t_h")) & (pl.col("los_h") > 0.0))
    if 2 * short_stays.height > last.height:
        rejections.doubt("los_h is a tenth of the times of the events: is it in days?", short_stays.height)


def ranged_attributes(stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """`stays` without ages and weights that are no adult's, which are left empty and counted."""
    for name, ((low, high), usual, others) in _ATTRIBUTES.items():
        outside = stays.filter(~pl.col(name).is_between(low, high))[name]
        fits = [unit for unit, factor in others if len(outside) and (outside * factor).is_between(*usual).all()]
        hint = f"; plausible in {fits[0]}" if fits else ""
        rejections.repair(f"stays: {name} outside {low:g} to {high:g}, left empty{hint}", len(outside))
        stays = stays.with_columns(pl.when(pl.col(name).is_between(low, high)).then(name).alias(name))
    return stays
