"""From the rows of MIMIC's tables, of any version, to observations: one rule each, shared by every MIMIC layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.schema import Rejections, require_polars

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "CHARTED",
    "REPEATED_ORDERS",
    "charted_values",
    "drop_repeated",
    "gcs_sums",
    "join_observations",
    "lab_values",
    "possible_urine",
    "urine_volumes",
    "venous_gases",
    "with_weight",
]

#: Charted items worth keeping; every other row of CHARTEVENTS is passed over while it streams.
CHARTED: tuple[str, ...] = (
    *(item for group in (*items.CHART_ITEMS.values(), *items.GCS_ITEMS.values()) for item in group),
    *items.WEIGHT_ITEMS,
)


#: Of the demos' infusions without ids, 5 in 12,651 are the same as another: orders of their own, as the raw tables' ids
#: show (two bags of one volume hung at one minute). A larger share of repeats is a table delivered twice.
REPEATED_ORDERS = 0.01


def drop_repeated(events: pl.DataFrame, rejections: Rejections, name: str, tolerated: float = 0.0) -> pl.DataFrame:
    """Rows that are the same in every column count once: twice the row must not be twice the volume.

    Args:
        events: With the row's own id, where the table has one.
        rejections: Counts are added here.
        name: What the events are, for the reason.
        tolerated: Share of repeated rows up to which each is taken for an event of its own, and doubted; see
            `REPEATED_ORDERS`.
    """
    kept = events.unique(maintain_order=True)
    repeated = events.height - kept.height
    if repeated <= tolerated * events.height:
        rejections.doubt(f"{name}: the same row again, so few that each counts as an event of its own", repeated)
        return events
    rejections.reject(f"{name}: the same row again", repeated)
    return kept


def charted_values(charted: pl.DataFrame) -> pl.DataFrame:
    """stay_id, variable, t_h, value of items charted as they are.

    Args:
        charted: stay_id, itemid, t_h, value.
    """
    pl = require_polars()
    names = {item: name for name, group in items.CHART_ITEMS.items() for item in group}
    return charted.filter(pl.col("itemid").is_in(list(names))).select(
        "stay_id", pl.col("itemid").replace_strict(names, return_dtype=pl.String).alias("variable"), "t_h", "value"
    )


def gcs_sums(charted: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Sum of the three components charted at one time; incomplete sets are rejected. Arguments as `charted_values`."""
    pl = require_polars()
    names = {item: part for part, group in items.GCS_ITEMS.items() for item in group}
    parts = (
        charted.filter(pl.col("itemid").is_in(list(names)))
        .with_columns(part=pl.col("itemid").replace_strict(names, return_dtype=pl.String))
        .group_by("stay_id", "t_h", "part")
        .agg(pl.col("value").mean())
    )
    sets = parts.group_by("stay_id", "t_h").agg(pl.col("value").sum(), pl.len().alias("parts"))
    rejections.reject("gcs: not all three components charted at the time", sets.filter(pl.col("parts") < 3).height)
    return sets.filter(pl.col("parts") == 3).select("stay_id", pl.lit("gcs").alias("variable"), "t_h", "value")


def venous_gases(labs: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """`keys` of the blood gases whose every specimen record says venous or mixed.

    Two samples drawn at one minute may share the keys: the arterial one is then the one that counts.

    Args:
        labs: itemid, value (text) and `keys`.
        keys: What ties a gas to its specimen: stay_id and t_h, or a specimen id.
    """
    pl = require_polars()
    specimen = pl.col("value").str.strip_chars(" .").str.to_uppercase()
    return (
        labs.filter(pl.col("itemid").is_in(items.SPECIMEN_ITEMS))
        .group_by(list(keys))
        .agg(specimen.is_in(items.VENOUS_SPECIMENS).all().alias("venous"))
        .filter(pl.col("venous"))
    )


def lab_values(labs: pl.DataFrame, keys: Sequence[str], rejections: Rejections) -> pl.DataFrame:
    """stay_id, variable, t_h, value; gases of venous or mixed blood say nothing about arterial oxygen and go.

    Args:
        labs: stay_id, itemid, t_h, value (text), valuenum and `keys`.
        keys: See `venous_gases`.
        rejections: Counts are added here.
    """
    pl = require_polars()
    columns = list(dict.fromkeys(("stay_id", "t_h", *keys)))
    values = labs.filter(pl.col("itemid").is_in(list(items.LAB_ITEMS))).select(
        *columns,
        pl.col("itemid").replace_strict(items.LAB_ITEMS, return_dtype=pl.String).alias("variable"),
        pl.col("valuenum").alias("value"),
    )
    rejections.reject("laboratory: no numeric value", int(values["value"].null_count()))
    gases = values.filter(pl.col("value").is_not_null()).join(venous_gases(labs, keys), on=list(keys), how="left")
    bad = (pl.col("variable") == "pao2") & pl.col("venous").fill_null(False)
    rejections.reject("pao2: venous or mixed specimen", gases.select(bad.sum()).item())
    return gases.filter(~bad).select("stay_id", "variable", "t_h", "value")


def possible_urine(events: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Output records whose `value` can be a volume."""
    pl = require_polars()
    value = pl.col("value")
    bad = ((value >= 5000.0) | (value < 0.0) | value.is_null()).fill_null(True)
    rejections.reject("urine: a record of no volume, below 0 or of 5 litres and more", events.select(bad.sum()).item())
    return events.filter(~bad)


def urine_volumes(events: pl.DataFrame) -> pl.DataFrame:
    """stay_id, variable, t_h, value: mL per charting time, irrigant subtracted (the sum can be negative).

    Args:
        events: stay_id, itemid, t_h, value (mL).
    """
    pl = require_polars()
    signed = pl.when(pl.col("itemid") == items.URINE_IRRIGANT).then(-pl.col("value")).otherwise(pl.col("value"))
    return (
        events.with_columns(value=signed)
        .group_by("stay_id", "t_h")
        .agg(pl.col("value").sum())
        .select("stay_id", pl.lit("urine").alias("variable"), "t_h", "value")
    )


def with_weight(stays: pl.DataFrame, charted: pl.DataFrame, ordered: pl.DataFrame) -> pl.DataFrame:
    """`stays` with `weight_kg`: the median charted weight; for a stay without, the one its infusion orders name.

    Args:
        stays: stay_id, ...
        charted: stay_id, itemid, value.
        ordered: stay_id, ordered_kg.
    """
    pl = require_polars()
    weights = (
        charted.filter(pl.col("itemid").is_in(items.WEIGHT_ITEMS) & pl.col("value").is_between(*items.WEIGHT_RANGE))
        .group_by("stay_id")
        .agg(pl.col("value").median().alias("weight_kg"))
    )
    return (
        stays.join(weights, on="stay_id", how="left", maintain_order="left")
        .join(ordered, on="stay_id", how="left", maintain_order="left")
        .with_columns(pl.coalesce("weight_kg", "ordered_kg").alias("weight_kg"))
        .drop("ordered_kg")
    )


def join_observations(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All observations; sources that chart a variable twice at one time are averaged later, by validation."""
    pl = require_polars()
    columns = ("stay_id", "variable", "t_h", "value")
    return pl.concat([part.select(columns) for part in parts]).sort("stay_id", "variable", "t_h")
