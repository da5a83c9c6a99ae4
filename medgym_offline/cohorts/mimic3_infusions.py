"""MIMIC-III infusions: CareVue charts points, MetaVision intervals; both become intervals of one clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.infusions import (
    equivalents,
    given_volumes,
    order_doses,
    order_volumes,
    order_weights,
    read_orders,
)
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import attach, collect, find_table, numbers, scan_table, times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["infusion_weights", "read_fluids", "read_vasopressors"]

#: A CareVue dose holds until the next record of its item, at most this long.
_DOSE_HOLD_HOURS = 4.0
#: The last record of an item, which nothing follows.
_LAST_DOSE_HOURS = 1.0
#: A CareVue volume was given over the hour before it was charted, or since the record before if that is shorter.
_VOLUME_HOURS = 1.0
_STOPPED = ("Stopped", "D/C'd")


def read_vasopressors(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, dose (mcg/kg/min; vasopressin U/min), neq (norepinephrine equivalents).

    Args:
        path: Folder of the tables.
        stays: stay_id, subject, intime, weight_kg, ...
        rejections: Counts are added here.
    """
    pl = require_polars()
    parts = []
    if find_table(path, "INPUTEVENTS_CV") is not None:
        parts.append(_carevue_doses(path, stays, rejections))
    if find_table(path, "INPUTEVENTS_MV") is not None:
        wanted = tuple(items.PRESSOR_ITEMS)
        orders = read_orders(path, "INPUTEVENTS_MV", "icustay_id", stays, rejections, wanted, "vasopressor")
        parts.append(order_doses(orders, rejections))
    return equivalents(pl.concat(parts), stays, rejections)


def read_fluids(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, ml; arguments as for `read_vasopressors`."""
    pl = require_polars()
    parts = []
    if find_table(path, "INPUTEVENTS_CV") is not None:
        parts.append(_carevue_volumes(path, stays, rejections))
    if find_table(path, "INPUTEVENTS_MV") is not None:
        orders = read_orders(path, "INPUTEVENTS_MV", "icustay_id", stays, rejections, items.FLUID_ITEMS, "fluids")
        parts.append(order_volumes(orders, rejections))
    return pl.concat(parts)


def infusion_weights(path: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id, ordered_kg: median weight that infusion orders of a stay name (MetaVision only)."""
    pl = require_polars()
    if find_table(path, "INPUTEVENTS_MV") is None:
        return pl.DataFrame(schema={"stay_id": pl.String, "ordered_kg": pl.Float64})
    return order_weights(path, "INPUTEVENTS_MV", "icustay_id", rejections)


def _carevue_doses(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "rate", "rateuom", "stopped")
    frame = scan_table(path, "INPUTEVENTS_CV", columns, optional=("row_id",)).filter(
        pl.col("itemid").is_in(list(items.PRESSOR_ITEMS))
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("rate")), path / "INPUTEVENTS_CV")
    events = drop_repeated(events, rejections, "vasopressor")
    events = attach(events, stays, rejections, "vasopressor", extra=("rate", "rateuom", "stopped"))
    ends = pl.col("stopped").is_in(_STOPPED).fill_null(False)
    silent = pl.col("rate").is_null() & ~ends
    reason = "vasopressor: a record without a rate (CareVue charts the volume apart); the dose before it ends there"
    rejections.reject(reason, events.select(silent.sum()).item())
    events = rejections.drop(events, pl.col("rate") < 0.0, "vasopressor: impossible value")
    # Every record ends the dose before it, also one that charts a volume and no rate: the rate is then unknown.
    points = (
        events.group_by("stay_id", "itemid", "t_h")
        # A stop charted at the minute of a rate wins.
        .agg(
            pl.when(ends.any()).then(0.0).otherwise(pl.col("rate").max()).alias("rate"),
            pl.col("rateuom").drop_nulls().first(),
            rates=(pl.col("rate") > 0.0).sum(),
        )
        .sort("stay_id", "itemid", "t_h")
    )
    kept = (pl.col("rate") > 0.0).fill_null(False)
    unused = points.select(
        stopped=pl.col("rates").filter(~kept).sum(), lower=(pl.col("rates").filter(kept).cast(pl.Int64) - 1).sum()
    )
    rejections.reject("vasopressor: a rate at the minute of its stop", unused["stopped"].item())
    rejections.reject("vasopressor: a lower rate of the item at one time", unused["lower"].item())
    following = pl.col("t_h").shift(-1).over("stay_id", "itemid")
    return (
        points.with_columns(
            drug=pl.col("itemid").replace_strict(items.PRESSOR_ITEMS, return_dtype=pl.String),
            t0_h=pl.col("t_h"),
            t1_h=pl.when(following.is_null())
            .then(pl.col("t_h") + _LAST_DOSE_HOURS)
            .otherwise(pl.min_horizontal(pl.col("t_h") + _DOSE_HOLD_HOURS, following)),
        )
        .filter(pl.col("rate") > 0)
        .select("stay_id", "drug", "t0_h", "t1_h", "rate", "rateuom")
    )


def _carevue_volumes(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "amount", "amountuom")
    frame = scan_table(path, "INPUTEVENTS_CV", columns, optional=("row_id",)).filter(
        pl.col("itemid").is_in(items.FLUID_ITEMS)
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("amount")), path / "INPUTEVENTS_CV")
    events = drop_repeated(events, rejections, "fluids")
    events = given_volumes(attach(events, stays, rejections, "fluids", extra=("amount", "amountuom")), rejections)
    volumes = events.group_by("stay_id", "itemid", "t_h").agg(pl.col("ml").sum()).sort("stay_id", "itemid", "t_h")
    rejections.repair("fluids: records of an item at one time, summed", events.height - volumes.height)
    before = pl.col("t_h").shift(1).over("stay_id", "itemid")
    volumes = volumes.select(
        "stay_id",
        "itemid",
        pl.max_horizontal(pl.col("t_h") - _VOLUME_HOURS, before).alias("t0_h"),
        pl.col("t_h").alias("t1_h"),
        "ml",
    )
    return rejections.drop(volumes, pl.col("ml") == 0.0, "fluids: nothing given (0)")
