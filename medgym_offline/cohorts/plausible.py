"""What a cohort does not know, and what is plausible only in other units: times, ages, weights, whole medians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from medgym_offline.cohorts.frames import Rejections
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.diseases.concepts import CohortDefinition

__all__ = ["ObservationFlags", "doubt_clock", "never_given", "observation_flags", "ranged_attributes"]

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
            out.append(
                f"{', '.join(self.untreated)}: never given to anybody; what nobody charted is not what nobody gave, "
                "and only the prior says what it would do"
            )
        out += [
            f"{name}: no value in {len(stays)} stays, kept (the prior carries it there)"
            + (f": {', '.join(stays)}" if named else "")
            for name, stays in self.absent.items()
            if stays
        ]
        return out + [
            f"{name}: one value in the whole cohort, {value:g} {self.units[name]}: nothing can be learned from it; is "
            "the column right?"
            for name, value in self.single.items()
        ]


def observation_flags(grid: GridCohort, definition: CohortDefinition) -> ObservationFlags:
    """The flags of a cohort on its grid (values inside the stay and the horizon)."""
    count = grid.mask.sum(axis=1)
    low = np.where(grid.mask, grid.values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(grid.mask, grid.values, -np.inf).max(axis=1, initial=-np.inf)

    def named(which: np.ndarray) -> dict[str, tuple[str, ...]]:
        return {
            name: tuple(grid.patients[row] for row in np.flatnonzero(which[:, column]))
            for column, name in enumerate(definition.observed)
        }

    single = {
        name: float(low[:, column].min())
        for column, name in enumerate(definition.observed)
        if count[:, column].sum() >= _ENOUGH_EQUAL and low[:, column].min() == high[:, column].max()
    }
    equal = (count >= _ENOUGH_EQUAL) & (low == high)
    untreated, unusual = never_given(grid, definition), _unusual_medians(grid, definition)
    return ObservationFlags(named(count == 0), named(equal), single, untreated, unusual, dict(definition.units))


def never_given(grid: GridCohort, definition: CohortDefinition) -> tuple[str, ...]:
    """Treatments that no stay was given in any hour beyond their background."""
    return tuple(
        concept.name
        for column, concept in enumerate(definition.treatments)
        if grid.treatment[..., column].max(initial=0.0) <= concept.background + 1e-9
    )


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
            rejections.doubt(
                f"times as hours are {gap:.3g} h apart, plausible only in {unit}: give hours since admission",
                points.height,
            )
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
