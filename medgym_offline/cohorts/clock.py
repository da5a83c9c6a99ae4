"""Events of a person onto the clocks of the person's stays."""

from __future__ import annotations

from collections.abc import Sequence

from medgym_offline.cohorts.cells import hours_since, on_one_clock
from medgym_offline.cohorts.frames import Rejections, pl

__all__ = ["attach"]


def attach(
    events: pl.DataFrame,
    stays: pl.DataFrame,
    rejections: Rejections,
    name: str,
    lookback: float,
    extra: Sequence[str] = (),
) -> pl.DataFrame:
    """stay_id, t_h, end_h (with `endtime`) and `extra` of events, in hours since the start of their stay.

    By stay id where the event has one; otherwise (laboratory) by person and time, from `lookback` hours before
    admission to discharge; an event within both of two stays belongs to both.

    Args:
        events: subject_id, charttime, perhaps icustay_id and endtime, and more.
        stays: stay_id, subject, intime, los_h.
        rejections: Rows without a time or a stay are counted here.
        name: What the events are, for the reason.
        lookback: Hours before admission that may still say something.
        extra: Columns to keep, of those that are there.

    Raises:
        CohortError: the events' times have a zone and those of the stays have none, or the other way round.
    """
    events = on_one_clock(events, "charttime", stays["intime"], (f"{name}: their time", "the start of the stays"))
    events = rejections.drop(events, (pl.col("charttime").is_null(), f"{name}: time is missing or cannot be read"))
    events = events.with_row_index("event")
    base = stays.select("stay_id", "intime", "los_h", pl.col("subject").alias("subject_id"))
    hour = hours_since("charttime", "intime")
    unnamed = events.filter(pl.col("icustay_id").is_null()) if "icustay_id" in events.columns else events
    by_time = unnamed.join(base, on="subject_id", how="inner", maintain_order="left")
    placed = by_time.filter((hour >= -lookback) & (hour <= pl.col("los_h")))
    if "icustay_id" in events.columns:
        mine = base.drop("subject_id").with_columns(icustay_id="stay_id")
        named = events.join(mine, on="icustay_id", how="inner", maintain_order="left")
        placed = pl.concat([named, placed.select(named.columns)])
    found = placed["event"].n_unique()
    rejections.reject(f"{name}: no ICU stay at that time", events.height - found)
    rejections.repair(f"{name}: within two stays of a person, read for both", placed.height - found)
    placed = placed.with_columns(t_h=hour)
    placed = rejections.drop(placed, (pl.col("t_h") < -lookback, f"{name}: more than {lookback:g} h before admission"))
    if "endtime" in placed.columns:
        placed = placed.with_columns(end_h=hours_since("endtime", "intime"))
    return placed.select("stay_id", "t_h", *(c for c in ("end_h", *extra) if c in placed.columns))
