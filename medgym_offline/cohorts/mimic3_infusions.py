"""MIMIC-III infusions: CareVue charts points, MetaVision intervals; both become intervals of one clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic3_items as items
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import attach, collect, find_table, hours_since, numbers, scan_table, times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["infusion_weights", "read_fluids", "read_vasopressors"]

#: A CareVue dose holds until the next record of its item, at most this long.
_DOSE_HOLD_HOURS = 4.0
#: The last record of an item, which nothing follows.
_LAST_DOSE_HOURS = 1.0
#: A CareVue volume was given over the hour before it was charted, or since the record before if that is shorter.
_VOLUME_HOURS = 1.0
_PER_WEIGHT_MINUTE = ("mcgkgmin", "mcg/kg/min")
_PER_MINUTE = ("mcgmin", "mcg/min")
_STOPPED = ("Stopped", "D/C'd")


def read_vasopressors(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, dose (mcg/kg/min; vasopressin U/min), neq (norepinephrine equivalents).

    Args:
        path: Folder of the tables.
        stays: stay_id, subject, intime, weight_kg, ...
        rejections: Counts are added here.
    """
    pl = require_polars()
    weights = stays.select("stay_id", pl.col("weight_kg").fill_null(items.DEFAULT_WEIGHT_KG))
    parts = [_carevue_doses(path, stays, rejections), _metavision_doses(path, stays, rejections)]
    doses = pl.concat([p for p in parts if p is not None]).join(
        weights, on="stay_id", how="left", maintain_order="left"
    )
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


def read_fluids(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, ml; arguments as for `read_vasopressors`."""
    pl = require_polars()
    parts = [_carevue_volumes(path, stays, rejections), _metavision_volumes(path, stays, rejections)]
    return pl.concat([p for p in parts if p is not None])


def infusion_weights(path: Path) -> pl.DataFrame:
    """stay_id, ordered_kg: median weight that infusion orders of a stay name (MetaVision only)."""
    pl = require_polars()
    if find_table(path, "INPUTEVENTS_MV") is None:
        return pl.DataFrame(schema={"stay_id": pl.String, "ordered_kg": pl.Float64})
    frame = scan_table(path, "INPUTEVENTS_MV", ("icustay_id", "patientweight")).with_columns(*numbers("patientweight"))
    usable = pl.col("patientweight").is_between(*items.WEIGHT_RANGE)
    return collect(
        frame.filter(usable & pl.col("icustay_id").is_not_null())
        .group_by(pl.col("icustay_id").alias("stay_id"))
        .agg(pl.col("patientweight").median().alias("ordered_kg")),
        path / "INPUTEVENTS_MV",
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
    )
    return pl.when(vasopressin).then(units).otherwise(mass).alias("dose")


def _carevue_doses(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame | None:
    pl = require_polars()
    if find_table(path, "INPUTEVENTS_CV") is None:
        return None
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "rate", "rateuom", "stopped")
    frame = scan_table(path, "INPUTEVENTS_CV", columns).filter(pl.col("itemid").is_in(list(items.PRESSOR_ITEMS)))
    events = collect(frame.with_columns(*times("charttime"), *numbers("rate")), path / "INPUTEVENTS_CV")
    events = attach(events, stays, rejections, "vasopressor", extra=("rate", "rateuom", "stopped"))
    ends = pl.col("stopped").is_in(_STOPPED).fill_null(False)
    # Every record ends the dose before it, also one that charts a volume and no rate: the rate is then unknown.
    points = (
        events.group_by("stay_id", "itemid", "t_h")
        # A stop charted at the minute of a rate wins.
        .agg(
            pl.when(ends.any()).then(0.0).otherwise(pl.col("rate").max()).alias("rate"),
            pl.col("rateuom").drop_nulls().first(),
        )
        .sort("stay_id", "itemid", "t_h")
    )
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


def _metavision_doses(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame | None:
    pl = require_polars()
    events = _metavision(path, stays, rejections, tuple(items.PRESSOR_ITEMS), "vasopressor")
    if events is None:
        return None
    empty = pl.col("rate").is_null()
    rejections.reject("vasopressor: no rate", events.select(empty.sum()).item())
    return events.filter(~empty & (pl.col("rate") > 0)).select(
        "stay_id",
        pl.col("itemid").replace_strict(items.PRESSOR_ITEMS, return_dtype=pl.String).alias("drug"),
        "t0_h",
        "t1_h",
        "rate",
        "rateuom",
    )


def _carevue_volumes(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame | None:
    pl = require_polars()
    if find_table(path, "INPUTEVENTS_CV") is None:
        return None
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "amount", "amountuom")
    frame = scan_table(path, "INPUTEVENTS_CV", columns).filter(pl.col("itemid").is_in(items.FLUID_ITEMS))
    events = collect(frame.with_columns(*times("charttime"), *numbers("amount")), path / "INPUTEVENTS_CV")
    events = events.filter(pl.col("amount").is_not_null())
    events = attach(events, stays, rejections, "fluids", extra=("amount", "amountuom"))
    volumes = (
        events.group_by("stay_id", "itemid", "t_h")
        .agg(pl.col("amount").sum().alias("ml"))
        .sort("stay_id", "itemid", "t_h")
    )
    before = pl.col("t_h").shift(1).over("stay_id", "itemid")
    return volumes.select(
        "stay_id",
        "itemid",
        pl.max_horizontal(pl.col("t_h") - _VOLUME_HOURS, before).alias("t0_h"),
        pl.col("t_h").alias("t1_h"),
        "ml",
    ).filter(pl.col("ml") > 0)


def _metavision_volumes(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame | None:
    pl = require_polars()
    events = _metavision(path, stays, rejections, items.FLUID_ITEMS, "fluids")
    if events is None:
        return None
    given = events.filter(pl.col("amount") > 0)
    volume = pl.col("amountuom").str.strip_chars().str.to_lowercase() == "ml"
    rejections.reject("fluids: amount not in mL", given.filter(~volume.fill_null(False)).height)
    return given.filter(volume).select("stay_id", "itemid", "t0_h", "t1_h", pl.col("amount").alias("ml"))


def _metavision(
    path: Path, stays: pl.DataFrame, rejections: Rejections, wanted: tuple[str, ...], name: str
) -> pl.DataFrame | None:
    pl = require_polars()
    if find_table(path, "INPUTEVENTS_MV") is None:
        return None
    columns = (
        *("subject_id", "icustay_id", "starttime", "endtime", "itemid"),
        *("amount", "amountuom", "rate", "rateuom", "statusdescription"),
    )
    frame = scan_table(path, "INPUTEVENTS_MV", columns).filter(pl.col("itemid").is_in(list(wanted)))
    events = collect(
        frame.with_columns(*times("starttime", "endtime"), *numbers("amount", "rate")), path / "INPUTEVENTS_MV"
    )
    rewritten = (pl.col("statusdescription").str.strip_chars() == "Rewritten").fill_null(False)
    rejections.reject(f"{name}: order rewritten by another", events.select(rewritten.sum()).item())
    events = events.filter(~rewritten).rename({"starttime": "charttime"})
    extra = ("endtime", "intime", "amount", "amountuom", "rate", "rateuom")
    events = attach(events, stays, rejections, name, extra=extra)
    return events.with_columns(t0_h=pl.col("t_h"), t1_h=hours_since("endtime", "intime"))
