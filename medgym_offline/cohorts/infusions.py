"""Infusion orders of MetaVision (MIMIC-III's INPUTEVENTS_MV, MIMIC-IV's inputevents) and doses in one unit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.drugs import VASOPRESSORS
from medgym_offline.cohorts.events import drop_repeated, possible_weights
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import attach, collect, hours_since, numbers, scan_table, times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["equivalents", "given_volumes", "order_doses", "order_volumes", "order_weights", "read_orders"]

_PER_WEIGHT_MINUTE = ("mcgkgmin", "mcg/kg/min")
_PER_MINUTE = ("mcgmin", "mcg/min")
_MILLIGRAMS = ("mg/kg/min",)
_UNITS_PER_HOUR = ("units/hour", "uhr", "u/hr", "units/hr")
_UNITS_PER_MINUTE = ("umin", "u/min", "units/min")
_MINUTELY_LIMIT = 0.3


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
    rewritten = pl.col("statusdescription").str.strip_chars() == "Rewritten"
    events = rejections.drop(events, rewritten, f"{name}: order rewritten by another")
    events = events.rename({"starttime": "charttime", stay_column: "icustay_id"})
    extra = ("endtime", "intime", "amount", "amountuom", "rate", "rateuom")
    events = attach(events, stays, rejections, name, extra=extra)
    return events.with_columns(t0_h=pl.col("t_h"), t1_h=hours_since("endtime", "intime"))


def order_doses(orders: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, rate, rateuom of vasopressor orders; an order without a rate is rejected."""
    pl = require_polars()
    orders = rejections.drop(orders, pl.col("rate").is_null(), "vasopressor: no rate")
    orders = rejections.drop(orders, pl.col("rate") == 0.0, "vasopressor: nothing given (0)")
    drug = pl.col("itemid").replace_strict(items.PRESSOR_ITEMS, return_dtype=pl.String).alias("drug")
    return orders.select("stay_id", drug, "t0_h", "t1_h", "rate", "rateuom")


def order_volumes(orders: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, ml of fluid orders with an amount above 0."""
    pl = require_polars()
    volumes = given_volumes(orders, rejections)
    volumes = rejections.drop(volumes, pl.col("ml") == 0.0, "fluids: nothing given (0)")
    return volumes.select("stay_id", "itemid", "t0_h", "t1_h", "ml")


def given_volumes(records: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """`records` with `ml`; an amount in a unit that is no volume is rejected.

    Args:
        records: itemid, amount, amountuom, ...
        rejections: Counts are added here.
    """
    pl = require_polars()
    records = rejections.drop(records, pl.col("amount").is_null(), "fluids: no amount")
    unit = pl.col("amountuom").fill_null("").str.strip_chars().str.to_lowercase()
    bicarbonate = pl.col("itemid").is_in(items.BICARBONATE_ITEMS) & (unit == "meq")
    litres, unstated = unit.is_in(["l", "liter", "liters"]), unit == ""
    other = ~(bicarbonate | litres | unstated | (unit == "ml"))
    records = rejections.drop(records, other, pl.format("fluids: amount in '{}', not a volume", pl.col("amountuom")))
    rejections.repair("fluids: sodium bicarbonate in mEq, read as mL (8.4 %)", records.select(bicarbonate.sum()).item())
    rejections.repair("fluids: converted from L", records.select(litres.sum()).item())
    rejections.doubt("fluids: amount without a unit, read as mL", records.select(unstated.sum()).item())
    return records.with_columns(ml=pl.when(litres).then(pl.col("amount") * 1000.0).otherwise("amount"))


def order_weights(folder: Path, table: str, stay_column: str, rejections: Rejections) -> pl.DataFrame:
    """stay_id, ordered_kg: median weight that the infusion orders of a stay name."""
    pl = require_polars()
    weights = scan_table(folder, table, (stay_column, "patientweight")).with_columns(*numbers("patientweight"))
    counted = weights.group_by(pl.col(stay_column).alias("stay_id"), pl.col("patientweight").alias("value")).len()
    values = collect(counted, folder / table).filter(pl.col("stay_id").is_not_null() & pl.col("value").is_not_null())
    values = possible_weights(values.select(pl.exclude("len").repeat_by("len").explode()), rejections)
    return values.group_by("stay_id").agg(pl.col("value").median().alias("ordered_kg"))


def equivalents(doses: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, dose (in the unit of `drugs.VASOPRESSORS`), neq (norepinephrine equivalents).

    Args:
        doses: stay_id, drug, t0_h, t1_h, rate, rateuom.
        stays: stay_id, weight_kg; doses per minute are divided by the weight (80 kg where unknown).
        rejections: Counts are added here.
    """
    pl = require_polars()
    doses = doses.join(stays.select("stay_id", "weight_kg"), on="stay_id", how="left", maintain_order="left")
    doses = doses.with_columns(pl.col("rateuom").fill_null("").str.strip_chars().str.to_lowercase())
    guessed = pl.col("weight_kg").is_null() & pl.col("rateuom").is_in(_PER_MINUTE)
    reason = f"vasopressor: given per minute and the weight unknown, {items.DEFAULT_WEIGHT_KG:g} kg assumed"
    rejections.repair(reason, doses.select(guessed.sum()).item())
    hourly = (pl.col("drug") == "vasopressin") & _hourly_as_minutely()
    reason = f"vasopressin: above {_MINUTELY_LIMIT:g} U/min, taken for U/h"
    rejections.repair(reason, doses.select(hourly.sum()).item())
    doses = doses.with_columns(pl.col("weight_kg").fill_null(items.DEFAULT_WEIGHT_KG)).with_columns(_standard_dose())
    unknown = pl.col("dose").is_null()
    for drug, unit, count in (
        doses.filter(unknown).group_by("drug", "rateuom").len().sort("drug", "rateuom").iter_rows()
    ):
        rejections.reject(f"{drug}: unit {unit!r} of the rate unknown", count)
    factors = {name: drug.equivalent for name, drug in VASOPRESSORS.items()}
    factor = pl.col("drug").replace_strict(factors, return_dtype=pl.Float64)
    return doses.filter(~unknown).select("stay_id", "drug", "t0_h", "t1_h", "dose", neq=pl.col("dose") * factor)


def _hourly_as_minutely() -> pl.Expr:
    """No patient gets 0.3 U/min: such a "per minute" is an hourly rate with the wrong unit."""
    pl = require_polars()
    return pl.col("rateuom").is_in(_UNITS_PER_MINUTE) & (pl.col("rate") > _MINUTELY_LIMIT)


def _standard_dose() -> pl.Expr:
    """Rate in mcg/kg/min, or U/min for vasopressin; null where the unit is unknown."""
    pl = require_polars()
    rate, unit = pl.col("rate"), pl.col("rateuom")
    hourly = unit.is_in(_UNITS_PER_HOUR) | _hourly_as_minutely()
    units = pl.when(hourly).then(rate / 60.0).when(unit.is_in(_UNITS_PER_MINUTE)).then(rate)
    mass = (
        pl.when(unit.is_in(_PER_WEIGHT_MINUTE))
        .then(rate)
        .when(unit.is_in(_PER_MINUTE))
        .then(rate / pl.col("weight_kg"))
        .when(unit.is_in(_MILLIGRAMS))
        .then(rate * 1000.0)
    )
    return pl.when(pl.col("drug") == "vasopressin").then(units).otherwise(mass).alias("dose")
