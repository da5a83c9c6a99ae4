"""From charted events to rates and intervals: amounts since the last record, settings held, infusions added up."""

from __future__ import annotations

import numpy as np
import polars as pl

from medgym_offline.cohorts.frames import Rejections
from medgym_offline.diseases.concepts import Concept

__all__ = ["RATE_DIGITS", "clip_intervals", "hold_settings", "interval_rates", "record_rates", "sum_overlapping"]

#: Sums of rates are rounded to so many digits: a rate below is none.
RATE_DIGITS = 9
#: Charting times are whole minutes; differences of rounded hours are not.
_SLACK = 1e-3


def record_rates(amounts: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """Rate per `period_hours` from the amount of each record.

    A record is what collected since the record before it (the first: since admission). Records closer than
    `merge_hours` to the first of their group are one record at the time of the last; gaps above `gap_hours` say nothing
    about the rate and are dropped; a sum below 0 (what went in is negative) counts as 0.

    Args:
        amounts: patient, t_h (hours since admission, >= 0), value.
        concept: Of gridding "rate".
        rejections: Counts are added here.

    Returns:
        patient, t_h, value (a rate), sorted.
    """
    name, window = concept.name, concept.merge_hours
    amounts = amounts.sort("patient", "t_h")
    if amounts.is_empty():
        return amounts.select("patient", "t_h", "value")
    group = _merge_groups(amounts["patient"], amounts["t_h"].to_numpy(), window)
    merged = (
        amounts.with_columns(pl.Series("group", group))
        .group_by("group", maintain_order=True)
        .agg(pl.col("patient").first(), pl.col("t_h").last(), pl.col("value").sum())
        .with_columns(gap=pl.col("t_h") - pl.col("t_h").shift(1, fill_value=0.0).over("patient"))
    )
    rejections.repair(f"{name}: records closer than {window:g} h merged", amounts.height - merged.height)
    rejections.repair(f"{name}: a sum below 0, set to 0", int((merged["value"] < 0).sum()))
    far = pl.col("gap") > concept.gap_hours + _SLACK
    near = rejections.drop(merged, (far, f"{name}: more than {concept.gap_hours:g} h since the record before it"))
    # A gap shorter than the window (just after admission, or after a merged group) is charting noise, not a rate.
    amount = pl.col("value").clip(lower_bound=0.0)
    rate = amount * concept.period_hours / pl.col("gap").clip(lower_bound=window)
    return near.select("patient", "t_h", rate.alias("value"))


def _merge_groups(patient: pl.Series, time: np.ndarray, window: float) -> np.ndarray:
    """Group number per record: a new group where the patient changes or the window has passed since its first."""
    group = np.empty(len(time), dtype=np.int64)
    current, start, owner = -1, -np.inf, -1
    # Sequential by nature (each group starts where the last one ended), and cheap: one pass over plain numbers.
    for row, (who, when) in enumerate(zip(patient.rle_id().to_list(), time.tolist())):
        if who != owner or when - start >= window - _SLACK:
            current, start, owner = current + 1, when, who
        group[row] = current
    return group


def hold_settings(settings: pl.DataFrame, hold: float) -> pl.DataFrame:
    """Intervals from point settings: each holds until the next one, at most `hold` hours.

    Args:
        settings: patient, t_h, value, end_h (null where no end is charted); one row per patient and time.
        hold: Hours after which an unconfirmed setting ends.

    Returns:
        patient, t_h, end_h, value, sorted and disjoint.
    """
    following, end = pl.col("t_h").shift(-1).over("patient"), pl.coalesce("end_h", pl.col("t_h") + hold)
    return (
        settings.sort("patient", "t_h")
        .with_columns(end_h=pl.min_horizontal(end, following))
        .select("patient", "t_h", "end_h", "value")
        .filter(pl.col("end_h") > pl.col("t_h"))
    )


def sum_overlapping(intervals: pl.DataFrame) -> pl.DataFrame:
    """Disjoint intervals whose value is the sum of all intervals in force.

    Args:
        intervals: patient, t_h, end_h (> t_h), value.

    Returns:
        patient, t_h, end_h, value; sorted, disjoint, zero stretches left out, equal neighbors joined.
    """
    edges = pl.concat(
        [
            intervals.select("patient", t=pl.col("t_h"), change=pl.col("value"), opened=pl.lit(1, pl.Int64)),
            intervals.select("patient", t=pl.col("end_h"), change=-pl.col("value"), opened=pl.lit(-1, pl.Int64)),
        ]
    )
    steps = (
        edges.group_by("patient", "t")
        .agg(pl.col("change").sum(), pl.col("opened").sum())
        .sort("patient", "t")
        .with_columns(
            value=pl.col("change").cum_sum().over("patient"),
            running=pl.col("opened").cum_sum().over("patient"),
            end_h=pl.col("t").shift(-1).over("patient"),
        )
        # The running count, not the running sum, says when nothing runs: the sum keeps rounding residue.
        .with_columns(value=pl.when(pl.col("running") > 0).then(pl.col("value").round(RATE_DIGITS)).otherwise(0.0))
        .filter(pl.col("end_h").is_not_null())
    )
    first, last = (pl.col(c).first() for c in ("patient", "value")), pl.col("end_h").last()
    joined = steps.group_by(pl.struct("patient", "value").rle_id().alias("run"), maintain_order=True).agg(
        pl.col("t").first().alias("t_h"), last, *first
    )
    return joined.filter(pl.col("value") > 0.0).select("patient", "t_h", "end_h", "value")


def interval_rates(intervals: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """`intervals` with rates per hour for amounts; an amount given in less than `least_hours` is spread over so long.

    Args:
        intervals: patient, t_h, end_h, value, amount (bool).
        concept: Of gridding "infusion".
        rejections: Counts are added here.
    """
    hours = pl.col("end_h") - pl.col("t_h")
    short = pl.col("amount") & (hours < concept.least_hours) & (hours >= 0.0)
    reason = f"{concept.name}: push shorter than {concept.least_hours:g} h spread over {concept.least_hours:g} h"
    rejections.repair(reason, intervals.select(short.sum()).item())
    spread = pl.when(short).then(pl.col("t_h") + concept.least_hours).otherwise("end_h")
    rate = pl.when("amount").then(pl.col("value") / hours).otherwise("value")
    return intervals.with_columns(end_h=spread).with_columns(value=rate)


def clip_intervals(intervals: pl.DataFrame, stays: pl.DataFrame, name: str, rejections: Rejections) -> pl.DataFrame:
    """Cut intervals to the stay, [0, los_h]; those wholly outside are rejected, those cut are counted as repaired.

    Args:
        intervals: patient, t_h, end_h, value.
        stays: patient, los_h.
        name: Variable, for the reasons.
        rejections: Counts are added here.
    """
    joined = intervals.join(stays.select("patient", "los_h"), on="patient", how="inner", maintain_order="left")
    within = (pl.col("end_h") > 0.0) & (pl.col("t_h") < pl.col("los_h"))
    inside = rejections.drop(joined, (~within.fill_null(False), f"{name}: outside the stay"))
    cut = (pl.col("t_h") < 0.0) | (pl.col("end_h") > pl.col("los_h"))
    rejections.repair(f"{name}: interval cut to the stay", inside.select(cut.sum()).item())
    ends = {"t_h": pl.col("t_h").clip(lower_bound=0.0), "end_h": pl.min_horizontal("end_h", "los_h")}
    return inside.with_columns(**ends).select("patient", "t_h", "end_h", "value")
