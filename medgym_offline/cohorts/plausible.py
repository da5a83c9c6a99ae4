"""What is plausible only in other units: times, ages, weights, and medians of a whole cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.schema import (
    CONVERSIONS,
    ROOM_AIR,
    STATES,
    STAY_RANGES,
    TREATMENTS,
    UNITS,
    USUAL_MEDIANS,
    Rejections,
    require_polars,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["doubt_clock", "ranged_attributes", "unusual_medians"]

#: Hours between records of what is charted most often, and of what is charted every few hours at the least.
_LONGEST_GAP, _SHORTEST_GAP = 24.0, 0.1
_ENOUGH = 5
_CLOCKS = (("minutes", 1.0 / 60.0), ("seconds", 1.0 / 3600.0), ("days", 24.0))
_OTHER_UNITS = {
    "age": (("months", 1.0 / 12.0), ("days", 1.0 / 365.25)),
    "weight_kg": (("g", 1e-3), ("pounds", 0.4536)),
}
_USUAL_ADULT = {"age": (16.0, 105.0), "weight_kg": (35.0, 250.0)}


def doubt_clock(observations: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> None:
    """Count all observations as doubted where their times are plausible only in other units than hours.

    Judged by the median gap between a stay's records of a variable: of the most frequent variable it is no day, and
    of spot checks (coma scale, urine) no few minutes. Also where stays are shorter than their records by ten times.

    Args:
        observations: stay_id, variable, t_h.
        stays: stay_id, los_h.
        rejections: Counts are added here.
    """
    pl = require_polars()
    gaps = (
        observations.drop_nulls("t_h")
        .unique(["stay_id", "variable", "t_h"])
        .sort("t_h")
        .select("variable", gap=pl.col("t_h").diff().over("stay_id", "variable"))
        .drop_nulls()
        .group_by("variable")
        .agg(pl.col("gap").median(), pl.len().alias("count"))
        .filter(pl.col("count") >= _ENOUGH)
    )
    found = dict(gaps.select("variable", "gap").iter_rows())
    spot = [gap for name, gap in found.items() if name in ("gcs", "urine", "urine_rate")]
    short, long = min(spot, default=1.0), min(found.values(), default=1.0)
    gap = long if long > _LONGEST_GAP else short if short < _SHORTEST_GAP else None
    for unit, hours in _CLOCKS:
        if gap is not None and _SHORTEST_GAP <= gap * hours <= _LONGEST_GAP:
            rejections.doubt(
                f"times as hours are {gap:.3g} h apart, plausible only in {unit}: give hours since admission",
                observations.height,
            )
            return
    last = observations.group_by("stay_id").agg(pl.col("t_h").max()).join(stays, on="stay_id")
    short_stays = last.filter((pl.col("los_h") * 10.0 < pl.col("t_h")) & (pl.col("los_h") > 0.0))
    if 2 * short_stays.height > last.height:
        rejections.doubt("los_h is a tenth of the times of the events: is it in days?", short_stays.height)


def ranged_attributes(stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """`stays` without ages and weights outside `STAY_RANGES`, which are left empty and counted."""
    pl = require_polars()
    for name, (low, high) in STAY_RANGES.items():
        outside = stays.filter(~pl.col(name).is_between(low, high))[name]
        units = [
            unit
            for unit, factor in _OTHER_UNITS[name]
            if len(outside) and (outside * factor).is_between(*_USUAL_ADULT[name]).all()
        ]
        hint = f"; plausible in {units[0]}" if units else ""
        rejections.repair(f"stays: {name} outside {low:g} to {high:g}, left empty{hint}", len(outside))
        stays = stays.with_columns(pl.when(pl.col(name).is_between(low, high)).then(name).alias(name))
    return stays


def unusual_medians(grid: GridCohort) -> dict[str, str]:
    """Variable -> what is odd about the median of all its values (treatments: while given), and a unit that fits."""
    out = {}
    for name in (*STATES, *TREATMENTS):
        if name in STATES:
            values = grid.values[..., STATES.index(name)][grid.mask[..., STATES.index(name)]]
        else:
            dose = grid.treatment[..., TREATMENTS.index(name)]
            values = dose[dose > (ROOM_AIR if name == "fio2" else 0.0)]
        if len(values) < _ENOUGH:
            continue
        median, (low, high) = float(np.median(values)), USUAL_MEDIANS[name]
        if not low <= median <= high:
            fits = [unit for (which, unit), f in CONVERSIONS.items() if which == name and low <= median * f <= high]
            which = f"plausible only in {fits[0]}" if fits else f"usually {low:g} to {high:g}"
            out[name] = f"median {median:.3g} {UNITS[name]}, {which}"
    return out
