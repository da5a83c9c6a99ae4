"""Validation of a cohort table: a fault of structure is an error, a bad row is rejected and counted by reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medgym_offline.cohorts.intervals import sum_overlapping
from medgym_offline.cohorts.schema import (
    COLUMNS,
    CONVERSIONS,
    LOOKBACK_HOURS,
    RANGES,
    REQUIRED_COLUMNS,
    STATES,
    TREATMENTS,
    UNITS,
    VARIABLES,
    Rejections,
    require_polars,
)
from medgym_offline.errors import CohortError, unknown_name

if TYPE_CHECKING:
    import polars as pl

__all__ = ["validate"]


def validate(
    table: pl.DataFrame, units: Mapping[str, str] | None = None, where: str = "cohort table"
) -> tuple[pl.DataFrame, Rejections]:
    """A clean copy of `table`, and what was rejected or repaired on the way.

    Repaired and counted: declared units that convert, FiO2 as a fraction (at most 1, times 100), rows out of order,
    identical rows, several values at one time (averaged), overlapping intervals (infusions summed, oxygen settings
    cut at the next). Rejected and counted: unknown variables, missing or non-numeric values, impossible values, FiO2
    between 1 and 21, times before the look-back of the variable, intervals without an end or ending before they
    start, and whole stays with fewer than two observations.

    Args:
        table: Long form, columns of `COLUMNS` (`source` may be missing); any row order.
        units: Unit of each variable where not the package's own.
        where: Name of the table in messages.

    Raises:
        CohortError: a column is missing, or a unit or the variable it is declared for is unknown.
    """
    pl = require_polars()
    rejections = Rejections()
    frame = _typed(table, where, rejections)
    frame = _known_variables(frame, rejections)
    frame = _convert(frame, dict(units or {}), where, rejections)
    frame = _repair_fraction(frame, rejections)
    frame = rejections.drop(frame, pl.col("patient").is_null() | (pl.col("patient") == ""), "no patient id")
    for column, words in (("time_h", "time"), ("value", "value")):
        frame = rejections.drop(frame, pl.col(column).is_null(), _because(f"{words} is missing or not a number"))
    frame = rejections.drop(frame, _out_of_range(), _because("impossible value"))
    early = pl.col("time_h") < -pl.col("variable").replace_strict(LOOKBACK_HOURS, return_dtype=pl.Float64)
    frame = rejections.drop(frame, early, _because("negative time (too long before admission)"))
    frame = _check_ends(frame, rejections)
    frame = _order(frame, rejections)
    frame = _merge_times(frame, rejections)
    frame = _merge_overlaps(frame, rejections)
    return _drop_thin_stays(frame, rejections), rejections


def _typed(table: pl.DataFrame, where: str, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    for column in REQUIRED_COLUMNS:
        if column not in table.columns:
            raise CohortError(
                f"{where}: column {column!r} is missing (found: {', '.join(table.columns) or 'none'}); "
                f"a cohort table has the columns {', '.join(COLUMNS)}"
            )
    if "source" not in table.columns:
        table = table.with_columns(source=pl.lit(""))
    unreadable = pl.col("end_h").is_not_null() & pl.col("end_h").cast(pl.Float64, strict=False).is_null()
    table = rejections.drop(table, unreadable, "end_h is not a number")
    finite = [pl.col(c).cast(pl.Float64, strict=False) for c in ("time_h", "end_h", "value")]
    text = [pl.col(c).cast(pl.String) for c in ("patient", "variable", "source")]
    return table.select(
        *[pl.when(c.is_finite()).then(c).alias(n) for n, c in zip(("time_h", "end_h", "value"), finite)], *text
    ).select(COLUMNS)


def _known_variables(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    unknown = ~pl.col("variable").is_in(VARIABLES).fill_null(False)
    words = pl.format("unknown variable '{}'", pl.col("variable").fill_null(""))
    return rejections.drop(frame, unknown, words)


def _because(words: str) -> pl.Expr:
    """The reason of a row: its variable, and what is wrong."""
    pl = require_polars()
    return pl.format("{}: " + words, pl.col("variable"))


def _convert(frame: pl.DataFrame, units: dict[str, str], where: str, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    for variable, unit in units.items():
        if variable not in UNITS:
            raise CohortError(f"{where}: unit declared for {unknown_name('variable', variable, UNITS)}")
        if unit == UNITS[variable]:
            continue
        factor = CONVERSIONS.get((variable, unit))
        if factor is None:
            known = [UNITS[variable], *(u for v, u in CONVERSIONS if v == variable)]
            raise CohortError(
                f"{where}: unknown unit {unit!r} of {variable!r}; convert the column to one of: {', '.join(known)}"
            )
        if factor != 1.0:
            mine = pl.col("variable") == variable
            rejections.repair(f"{variable}: converted from {unit}", frame.select(mine.sum()).item())
            frame = frame.with_columns(
                pl.when(mine).then(pl.col("value") * factor).otherwise(pl.col("value")).alias("value")
            )
    return frame


def _repair_fraction(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    oxygen = pl.col("variable") == "fio2"
    fraction = (oxygen & (pl.col("value") > 0.0) & (pl.col("value") <= 1.0)).fill_null(False)
    rejections.repair("fio2: a fraction, multiplied by 100", frame.select(fraction.sum()).item())
    frame = frame.with_columns(
        pl.when(fraction).then(pl.col("value") * 100.0).otherwise(pl.col("value")).alias("value")
    )
    neither = oxygen & ~fraction & (pl.col("value") > 1.0) & (pl.col("value") < RANGES["fio2"][0])
    return rejections.drop(frame, neither, "fio2: between 1 and 21, neither a fraction nor a percentage")


def _out_of_range() -> pl.Expr:
    pl = require_polars()
    low = pl.col("variable").replace_strict({v: r[0] for v, r in RANGES.items()}, return_dtype=pl.Float64)
    high = pl.col("variable").replace_strict({v: r[1] for v, r in RANGES.items()}, return_dtype=pl.Float64)
    slack = 1e-9
    return (pl.col("value") < low - slack) | (pl.col("value") > high + slack)


def _check_ends(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    treatment = pl.col("variable").is_in(TREATMENTS)
    frame = rejections.drop(frame, treatment & pl.col("end_h").is_null(), _because("interval without an end"))
    backwards = treatment & (pl.col("end_h") <= pl.col("time_h"))
    frame = rejections.drop(frame, backwards, _because("interval ends before it starts"))
    pointless = ~treatment & pl.col("end_h").is_not_null()
    rejections.repair("an observation is a point; its end_h removed", frame.select(pointless.sum()).item())
    return frame.with_columns(pl.when(treatment).then(pl.col("end_h")).alias("end_h"))


def _order(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    previous = pl.col("time_h").shift(1).over("patient", "variable")
    rejections.repair("rows out of order, sorted", frame.select((pl.col("time_h") < previous).sum()).item())
    unique = frame.unique(subset=["patient", "variable", "time_h", "end_h", "value"], keep="first")
    rejections.reject("duplicate row", frame.height - unique.height)
    return unique.sort("patient", "time_h", "variable", "end_h", "value")


def _merge_times(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    point = pl.col("variable").is_in(STATES)
    points = frame.filter(point)
    merged = points.group_by("patient", "variable", "time_h", maintain_order=True).agg(
        pl.col("end_h").first(), pl.col("value").mean(), pl.col("source").first()
    )
    rejections.repair("several values at one time, averaged", points.height - merged.height)
    return pl.concat([merged.select(COLUMNS), frame.filter(~point)]).sort(
        "patient", "time_h", "variable", "end_h", "value"
    )


def _merge_overlaps(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    parts = [frame.filter(pl.col("variable").is_in(STATES))]
    for variable in TREATMENTS:
        rows = frame.filter(pl.col("variable") == variable)
        following = pl.col("time_h").shift(-1).over("patient")
        overlaps = rows.select((following < pl.col("end_h") - 1e-9).sum()).item()
        if overlaps and variable == "fio2":
            rejections.repair("fio2: overlapping settings, cut at the next", overlaps)
            rows = rows.with_columns(end_h=pl.min_horizontal("end_h", following)).filter(
                pl.col("end_h") > pl.col("time_h")
            )
        elif overlaps:
            rejections.repair(f"{variable}: overlapping intervals, summed", overlaps)
            rows = _summed(rows)
        parts.append(rows)
    return pl.concat(parts).sort("patient", "time_h", "variable")


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    pl = require_polars()
    source = rows.group_by("patient").agg(pl.col("source").first(), pl.col("variable").first())
    summed = sum_overlapping(rows.select("patient", "value", t0_h=pl.col("time_h"), t1_h=pl.col("end_h")))
    return summed.join(source, on="patient").rename({"t0_h": "time_h", "t1_h": "end_h"}).select(COLUMNS)


def _drop_thin_stays(frame: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    observed = pl.col("variable").is_in(STATES).sum().alias("observed")
    counts = frame.group_by("patient").agg(observed, pl.len().alias("rows")).sort("patient")
    for patient, seen, rows in counts.filter(pl.col("observed") < 2).iter_rows():
        rejections.stays[patient] = "a single observation" if seen == 1 else "no observation"
        rejections.reject("stay rejected whole", rows)
    return frame.filter(~pl.col("patient").is_in(list(rejections.stays)))
