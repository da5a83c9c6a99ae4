"""From charted events to rates: urine volumes to a rate, oxygen settings and overlapping infusions to intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.cohorts.schema import (
    FIO2_HOLD_HOURS,
    FLUIDS_MIN_HOURS,
    URINE_MAX_GAP_HOURS,
    URINE_MERGE_HOURS,
    Rejections,
    require_polars,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RATE_DIGITS", "clip_intervals", "fluid_rates", "hold_settings", "sum_overlapping", "urine_rates"]


#: Sums of rates are rounded to so many digits: a rate below is none.
RATE_DIGITS = 9

#: Charting times are whole minutes; differences of rounded hours are not.
_SLACK = 1e-3


def urine_rates(volumes: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Rate in mL/day from mL per record.

    A record is what collected since the record before it (the first: since admission). Records closer than 0.75 h
    to the first of their group are one record at the time of the last; gaps above 12 h say nothing about the rate
    and are dropped; a sum below 0 (irrigation) counts as 0.

    Args:
        volumes: patient, t_h (hours since admission, >= 0), value (mL).
        rejections: Counts are added here.

    Returns:
        patient, t_h, value (mL/day), sorted.
    """
    pl = require_polars()
    volumes = volumes.sort("patient", "t_h")
    if volumes.is_empty():
        return volumes.select("patient", "t_h", "value")
    group = _merge_groups(volumes["patient"], volumes["t_h"].to_numpy())
    merged = (
        volumes.with_columns(pl.Series("group", group))
        .group_by("group", maintain_order=True)
        .agg(pl.col("patient").first(), pl.col("t_h").last(), pl.col("value").sum())
        .with_columns(gap=pl.col("t_h") - pl.col("t_h").shift(1, fill_value=0.0).over("patient"))
    )
    rejections.repair("urine: records closer than 0.75 h merged", volumes.height - merged.height)
    rejections.repair("urine: negative after irrigation, set to 0", int((merged["value"] < 0).sum()))
    far = pl.col("gap") > URINE_MAX_GAP_HOURS + _SLACK
    near = rejections.drop(merged, far, "urine: more than 12 h since the record before it")
    # A gap shorter than the window (just after admission, or after a merged group) is charting noise, not a rate.
    rate = pl.col("value").clip(lower_bound=0.0) * 24.0 / pl.col("gap").clip(lower_bound=URINE_MERGE_HOURS)
    return near.select("patient", "t_h", rate.alias("value"))


def _merge_groups(patient: pl.Series, time: np.ndarray) -> np.ndarray:
    """Group number per record: a new group where the patient changes or 0.75 h have passed since the group's first."""
    code = patient.rle_id().to_numpy()
    group = np.empty(len(time), dtype=np.int64)
    current, start, owner = -1, -np.inf, -1
    # Sequential by nature (each group starts where the last one ended), and cheap: one pass over plain numbers.
    for row, (who, when) in enumerate(zip(code.tolist(), time.tolist())):
        if who != owner or when - start >= URINE_MERGE_HOURS - _SLACK:
            current, start, owner = current + 1, when, who
        group[row] = current
    return group


def hold_settings(settings: pl.DataFrame, hold: float = FIO2_HOLD_HOURS) -> pl.DataFrame:
    """Intervals from point settings: each holds until the next one, at most `hold` hours.

    Args:
        settings: patient, t_h, value, and t1_h where an end is charted; one row per patient and time.
        hold: Hours after which an unconfirmed setting ends.

    Returns:
        patient, t0_h, t1_h, value, sorted and disjoint.
    """
    pl = require_polars()
    following = pl.col("t_h").shift(-1).over("patient")
    end = pl.col("t_h") + hold
    if "t1_h" in settings.columns:
        end = pl.coalesce("t1_h", end)
    return (
        settings.sort("patient", "t_h")
        .with_columns(t1_h=pl.min_horizontal(end, following))
        .select("patient", pl.col("t_h").alias("t0_h"), "t1_h", "value")
        .filter(pl.col("t1_h") > pl.col("t0_h"))
    )


def sum_overlapping(intervals: pl.DataFrame) -> pl.DataFrame:
    """Disjoint intervals whose value is the sum of all intervals in force.

    Args:
        intervals: patient, t0_h, t1_h (> t0_h), value.

    Returns:
        patient, t0_h, t1_h, value; sorted, disjoint, zero stretches left out, equal neighbours joined.
    """
    pl = require_polars()
    edges = pl.concat(
        [
            intervals.select("patient", t=pl.col("t0_h"), change=pl.col("value"), opened=pl.lit(1, pl.Int64)),
            intervals.select("patient", t=pl.col("t1_h"), change=-pl.col("value"), opened=pl.lit(-1, pl.Int64)),
        ]
    )
    steps = (
        edges.group_by("patient", "t")
        .agg(pl.col("change").sum(), pl.col("opened").sum())
        .sort("patient", "t")
        .with_columns(
            value=pl.col("change").cum_sum().over("patient"),
            running=pl.col("opened").cum_sum().over("patient"),
            t1_h=pl.col("t").shift(-1).over("patient"),
        )
        # The running count, not the running sum, says when nothing runs: the sum keeps rounding residue.
        .with_columns(value=pl.when(pl.col("running") > 0).then(pl.col("value").round(RATE_DIGITS)).otherwise(0.0))
        .filter(pl.col("t1_h").is_not_null())
    )
    joined = pl.struct("patient", "value").rle_id()
    return (
        steps.with_columns(run=joined)
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("patient").first(),
            pl.col("t").first().alias("t0_h"),
            pl.col("t1_h").last(),
            pl.col("value").first(),
        )
        .filter(pl.col("value") > 0.0)
        .drop("run")
    )


def fluid_rates(volumes: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Intervals with a rate in mL/h from volumes over intervals; pushes shorter than 0.25 h are spread over it.

    Args:
        volumes: patient, t0_h, t1_h, ml.
        rejections: Counts are added here.

    Returns:
        patient, t0_h, t1_h, value (mL/h); not yet summed over overlaps.
    """
    pl = require_polars()
    short = (pl.col("t1_h") - pl.col("t0_h") < FLUIDS_MIN_HOURS) & (pl.col("t1_h") >= pl.col("t0_h"))
    rejections.repair("fluids: push shorter than 0.25 h spread over 0.25 h", volumes.select(short.sum()).item())
    return volumes.with_columns(
        t1_h=pl.when(short).then(pl.col("t0_h") + FLUIDS_MIN_HOURS).otherwise(pl.col("t1_h"))
    ).select("patient", "t0_h", "t1_h", value=pl.col("ml") / (pl.col("t1_h") - pl.col("t0_h")))


def clip_intervals(intervals: pl.DataFrame, los: pl.DataFrame, name: str, rejections: Rejections) -> pl.DataFrame:
    """Cut intervals to the stay, [0, los_h]; those wholly outside are rejected, those cut are counted as repaired.

    Args:
        intervals: patient, t0_h, t1_h, value.
        los: patient, los_h.
        name: Variable, for the reasons.
        rejections: Counts are added here.
    """
    pl = require_polars()
    joined = intervals.join(los.select("patient", "los_h"), on="patient", how="inner", maintain_order="left")
    inside = (pl.col("t1_h") > 0.0) & (pl.col("t0_h") < pl.col("los_h"))
    inside = rejections.drop(joined, ~inside.fill_null(False), f"{name}: outside the stay")
    cut = inside.select(((pl.col("t0_h") < 0.0) | (pl.col("t1_h") > pl.col("los_h"))).sum()).item()
    rejections.repair(f"{name}: interval cut to the stay", cut)
    return inside.with_columns(
        t0_h=pl.col("t0_h").clip(lower_bound=0.0), t1_h=pl.min_horizontal("t1_h", "los_h")
    ).select("patient", "t0_h", "t1_h", "value")
