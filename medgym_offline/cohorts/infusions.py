"""Infusion orders of MetaVision (MIMIC-III's INPUTEVENTS_MV, MIMIC-IV's inputevents) and doses in one unit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import attach, collect, hours_since, numbers, scan_table, times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["equivalents", "order_doses", "order_volumes", "order_weights", "read_orders"]

_PER_WEIGHT_MINUTE = ("mcgkgmin", "mcg/kg/min")
_PER_MINUTE = ("mcgmin", "mcg/min")
_MILLIGRAMS = ("mg/kg/min",)


def read_orders(
    folder: Path,
    table: str,
    stay_column: str,
    stays: pl.DataFrame,
    rejections: Rejections,
    wanted: tuple[str, ...],
    name: str,
) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, amount, amountuom, rate, rateuom of the orders of `wanted` items.

    Args:
        folder: Where the table lies.
        table: Its name.
        stay_column: Its column with the stay's id.
        stays: stay_id, subject, intime, los_h.
        rejections: Counts are added here.
        wanted: Item ids.
        name: "vasopressor" or "fluids", for the reasons.
    """
    pl = require_polars()
    columns = (
        *("subject_id", stay_column, "starttime", "endtime", "itemid"),
        *("amount", "amountuom", "rate", "rateuom", "statusdescription"),
    )
    frame = scan_table(folder, table, columns, optional=("row_id", "orderid"))
    frame = frame.filter(pl.col("itemid").is_in(list(wanted)))
    events = collect(frame.with_columns(*times("starttime", "endtime"), *numbers("amount", "rate")), folder / table)
    events = drop_repeated(events, rejections, name)
    rewritten = (pl.col("statusdescription").str.strip_chars() == "Rewritten").fill_null(False)
    rejections.reject(f"{name}: order rewritten by another", events.select(rewritten.sum()).item())
    events = events.filter(~rewritten).rename({"starttime": "charttime", stay_column: "icustay_id"})
    extra = ("endtime", "intime", "amount", "amountuom", "rate", "rateuom")
    events = attach(events, stays, rejections, name, extra=extra)
    return events.with_columns(t0_h=pl.col("t_h"), t1_h=hours_since("endtime", "intime"))


def order_doses(orders: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, rate, rateuom of vasopressor orders; an order without a rate is rejected."""
    pl = require_polars()
    empty = pl.col("rate").is_null()
    rejections.reject("vasopressor: no rate", orders.select(empty.sum()).item())
    drug = pl.col("itemid").replace_strict(items.PRESSOR_ITEMS, return_dtype=pl.String).alias("drug")
    return orders.filter(~empty & (pl.col("rate") > 0)).select("stay_id", drug, "t0_h", "t1_h", "rate", "rateuom")


def order_volumes(orders: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, ml of fluid orders; amounts in another unit are rejected."""
    pl = require_polars()
    given = orders.filter(pl.col("amount") > 0)
    volume = (pl.col("amountuom").str.strip_chars().str.to_lowercase() == "ml").fill_null(False)
    rejections.reject("fluids: amount not in mL", given.filter(~volume).height)
    return given.filter(volume).select("stay_id", "itemid", "t0_h", "t1_h", pl.col("amount").alias("ml"))


def order_weights(folder: Path, table: str, stay_column: str) -> pl.DataFrame:
    """stay_id, ordered_kg: median weight that the infusion orders of a stay name."""
    pl = require_polars()
    frame = scan_table(folder, table, (stay_column, "patientweight")).with_columns(*numbers("patientweight"))
    usable = pl.col("patientweight").is_between(*items.WEIGHT_RANGE) & pl.col(stay_column).is_not_null()
    weights = frame.filter(usable).group_by(pl.col(stay_column).alias("stay_id"))
    return collect(weights.agg(pl.col("patientweight").median().alias("ordered_kg")), folder / table)


def equivalents(doses: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, dose (mcg/kg/min; vasopressin U/min), neq (norepinephrine equivalents).

    Args:
        doses: stay_id, drug, t0_h, t1_h, rate, rateuom.
        stays: stay_id, weight_kg; doses per minute are divided by the weight (80 kg where unknown).
        rejections: Counts are added here.
    """
    pl = require_polars()
    weights = stays.select("stay_id", pl.col("weight_kg").fill_null(items.DEFAULT_WEIGHT_KG))
    doses = doses.join(weights, on="stay_id", how="left", maintain_order="left")
    doses = doses.with_columns(
        _standard_dose(), limit=pl.col("drug").replace_strict(items.DOSE_LIMITS, return_dtype=pl.Float64)
    )
    unit = pl.col("dose").is_null()
    rejections.reject("vasopressor: unit of the rate unknown", doses.select(unit.sum()).item())
    doses = doses.filter(~unit)
    high = pl.col("dose") > pl.col("limit")
    rejections.reject("vasopressor: impossible dose", doses.select(high.sum()).item())
    factor = pl.col("drug").replace_strict(items.EQUIVALENTS, return_dtype=pl.Float64)
    return doses.filter(~high & (pl.col("dose") > 0)).select(
        "stay_id", "drug", "t0_h", "t1_h", "dose", neq=pl.col("dose") * factor
    )


def _standard_dose() -> pl.Expr:
    """Rate in mcg/kg/min, or U/min for vasopressin; null where the unit is unknown."""
    pl = require_polars()
    rate, unit, vasopressin = (
        pl.col("rate"),
        pl.col("rateuom").str.strip_chars().str.to_lowercase(),
        pl.col("drug") == "vasopressin",
    )
    hourly = unit.is_in(["units/hour", "uhr", "u/hr", "units/hr"])
    minutely = unit.is_in(["umin", "u/min", "units/min"])
    # No patient gets 0.3 U/min: such a "per minute" is an hourly rate with the wrong unit.
    units = pl.when(hourly | (minutely & (rate > 0.3))).then(rate / 60.0).when(minutely).then(rate)
    mass = (
        pl.when(unit.is_in(_PER_WEIGHT_MINUTE))
        .then(rate)
        .when(unit.is_in(_PER_MINUTE))
        .then(rate / pl.col("weight_kg"))
        .when(unit.is_in(_MILLIGRAMS))
        .then(rate * 1000.0)
    )
    return pl.when(vasopressin).then(units).otherwise(mass).alias("dose")
