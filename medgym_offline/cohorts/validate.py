"""Validation of a cohort table: a fault of structure is an error, a bad row is rejected and counted by reason."""

from __future__ import annotations

import polars as pl

from medgym_offline.cohorts.frames import Rejections
from medgym_offline.cohorts.intervals import sum_overlapping
from medgym_offline.diseases.concepts import CohortDefinition, Concept
from medgym_offline.errors import CohortError

__all__ = ["COLUMNS", "fractions", "validate"]

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
            raise CohortError(
                f"{where}: column {column!r} is missing (found: {', '.join(table.columns) or 'none'}); "
                f"a cohort table has the columns {', '.join(COLUMNS)}"
            )
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
    unique = unique.sort("patient", "time_h", "variable", "end_h", "value")
    point = pl.col("variable").is_in(definition.observed)
    points = unique.filter(point)
    merged = points.group_by("patient", "variable", "time_h", maintain_order=True).agg(
        pl.col("end_h").first(), pl.col("value").mean(), pl.col("source").first()
    )
    rejections.repair("several values at one time, averaged", points.height - merged.height)
    return pl.concat([merged.select(COLUMNS), unique.filter(~point)]).sort(
        "patient", "time_h", "variable", "end_h", "value"
    )


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
