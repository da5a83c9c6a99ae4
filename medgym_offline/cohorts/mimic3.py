"""Source: the original MIMIC-III tables, demo or full (credentialed) database, upper- or lower-case, .csv or .csv.gz.

Large tables are scanned once and filtered by item id before anything else happens to a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic3_items as items
from medgym_offline.cohorts.mimic3_infusions import infusion_weights, read_fluids, read_vasopressors
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import attach, collect, find_table, hours_since, numbers, scan_table, times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MimicThreeTables"]

_TABLES = (
    "ICUSTAYS",
    "PATIENTS",
    "ADMISSIONS",
    "DIAGNOSES_ICD",
    "CHARTEVENTS",
    "LABEVENTS",
    "OUTPUTEVENTS",
    "INPUTEVENTS_CV",
    "INPUTEVENTS_MV",
)
#: Dates of birth of people over 89 are shifted to 300 years before; 91.4 is the median age of that group.
_AGE_OVER_89 = 91.4


class MimicThreeTables:
    """ICUSTAYS, PATIENTS, ADMISSIONS, DIAGNOSES_ICD, CHARTEVENTS, LABEVENTS, OUTPUTEVENTS, INPUTEVENTS_CV/_MV."""

    layout = "raw MIMIC-III tables"

    def matches(self, path: Path) -> bool:
        """Whether the folder holds ICUSTAYS and one of the MIMIC-III-only input tables."""
        return find_table(path, "ICUSTAYS") is not None and any(
            find_table(path, name) is not None for name in ("INPUTEVENTS_CV", "INPUTEVENTS_MV")
        )

    def read(self, path: Path) -> Records:
        """Read the tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        rejections = Rejections()
        stays = _read_stays(path)
        charted = _scan_chart(path, stays, rejections)
        stays = _with_weight(path, stays, charted)
        labs = _scan_labs(path, stays)
        observations = _combine(
            [
                _chart_values(charted),
                _gcs(charted, rejections),
                _lab_values(labs, rejections),
                _urine(path, stays, rejections),
            ]
        )
        return Records(
            dataset="mimic-iii",
            stays=stays.drop("intime", "hadm_id"),
            observations=observations,
            vasopressors=read_vasopressors(path, stays, rejections),
            fluids=read_fluids(path, stays, rejections),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.name,
                "licence": dataset_licence(path, "mimic-iii"),
                "files": [found.name for name in _TABLES if (found := find_table(path, name)) is not None],
            },
        )


def _read_stays(path: Path) -> pl.DataFrame:
    """stay_id, subject, hadm_id, intime, los_h, age, sex, sepsis, died."""
    pl = require_polars()
    icu = _table(path, "ICUSTAYS", "subject_id", "hadm_id", "icustay_id", "intime", "outtime")
    people = _table(path, "PATIENTS", "subject_id", "gender", "dob").unique("subject_id")
    admitted = _table(path, "ADMISSIONS", "hadm_id", "hospital_expire_flag").unique("hadm_id")
    codes = _table(path, "DIAGNOSES_ICD", "hadm_id", "icd9_code")
    septic = codes.filter(pl.col("icd9_code").str.strip_chars().is_in(items.SEPSIS_CODES)).select("hadm_id").unique()
    years = (pl.col("intime") - pl.col("dob")).dt.total_seconds() / (365.2425 * 86400.0)
    frame = (
        icu.join(people, on="subject_id", how="left")
        .join(admitted, on="hadm_id", how="left")
        .join(septic.with_columns(sepsis=pl.lit(True)), on="hadm_id", how="left")
        .with_columns(*times("intime", "outtime", "dob"))
        .filter(pl.col("intime").is_not_null() & pl.col("outtime").is_not_null())
        .select(
            pl.col("icustay_id").alias("stay_id"),
            pl.col("subject_id").alias("subject"),
            "hadm_id",
            "intime",
            hours_since("outtime", "intime").alias("los_h"),
            pl.when(years > 150.0).then(_AGE_OVER_89).otherwise(years).alias("age"),
            pl.col("gender").alias("sex"),
            pl.col("sepsis").fill_null(False),
            (pl.col("hospital_expire_flag").str.strip_chars() == "1").alias("died"),
        )
    )
    return frame.collect().unique("stay_id", keep="first").sort("stay_id")


def _table(path: Path, name: str, *columns: str) -> pl.LazyFrame:
    return collect(scan_table(path, name, columns), path / name).lazy()


def _scan_chart(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, value text; one pass over CHARTEVENTS."""
    pl = require_polars()
    wanted = [i for group in (*items.CHART_ITEMS.values(), *items.GCS_ITEMS.values()) for i in group]
    frame = scan_table(
        path, "CHARTEVENTS", ("subject_id", "icustay_id", "itemid", "charttime", "valuenum", "error")
    ).filter(pl.col("itemid").is_in([*wanted, *items.WEIGHT_ITEMS]))
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), path / "CHARTEVENTS")
    wrong = pl.col("error").str.strip_chars() == "1"
    rejections.reject("chart: marked as an error", events.select(wrong.sum()).item())
    empty = pl.col("valuenum").is_null()
    events = events.filter(~wrong.fill_null(False))
    rejections.reject("chart: no numeric value", events.select(empty.sum()).item())
    return attach(events.filter(~empty), stays, rejections, "chart").rename({"valuenum": "value"})


def _with_weight(path: Path, stays: pl.DataFrame, charted: pl.DataFrame) -> pl.DataFrame:
    """Median charted weight; for a stay without, the one its infusion orders name."""
    pl = require_polars()
    weights = (
        charted.filter(pl.col("itemid").is_in(items.WEIGHT_ITEMS) & pl.col("value").is_between(*items.WEIGHT_RANGE))
        .group_by("stay_id")
        .agg(pl.col("value").median().alias("weight_kg"))
    )
    return (
        stays.join(weights, on="stay_id", how="left", maintain_order="left")
        .join(infusion_weights(path), on="stay_id", how="left", maintain_order="left")
        .with_columns(pl.coalesce("weight_kg", "ordered_kg").alias("weight_kg"))
        .drop("ordered_kg")
    )


def _chart_values(charted: pl.DataFrame) -> pl.DataFrame:
    pl = require_polars()
    names = {item: name for name, group in items.CHART_ITEMS.items() for item in group}
    return charted.filter(pl.col("itemid").is_in(list(names))).select(
        "stay_id", pl.col("itemid").replace_strict(names, return_dtype=pl.String).alias("variable"), "t_h", "value"
    )


def _gcs(charted: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Sum of the three components charted at one time; incomplete sets are rejected."""
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


def _scan_labs(path: Path, stays: pl.DataFrame) -> pl.DataFrame:
    pl = require_polars()
    wanted = [*items.LAB_ITEMS, items.SPECIMEN_ITEM]
    frame = scan_table(path, "LABEVENTS", ("subject_id", "itemid", "charttime", "value", "valuenum")).filter(
        pl.col("itemid").is_in(wanted)
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), path / "LABEVENTS")
    return attach(events, stays, None, "laboratory")


def _lab_values(labs: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Laboratory values; blood gases whose specimen is venous or mixed say nothing about arterial oxygen."""
    pl = require_polars()
    specimen = labs.filter(pl.col("itemid") == items.SPECIMEN_ITEM).with_columns(pl.col("value").str.strip_chars())
    # Two samples drawn at one minute share the time: the arterial one is then the one that counts.
    venous = (
        specimen.group_by("stay_id", "t_h").agg(pl.col("value").is_in(items.VENOUS_SPECIMENS).all().alias("venous"))
    ).filter(pl.col("venous"))
    values = labs.filter(pl.col("itemid") != items.SPECIMEN_ITEM).select(
        "stay_id",
        pl.col("itemid").replace_strict(items.LAB_ITEMS, return_dtype=pl.String).alias("variable"),
        "t_h",
        pl.col("valuenum").alias("value"),
    )
    rejections.reject("laboratory: no numeric value", int(values["value"].null_count()))
    values = values.filter(pl.col("value").is_not_null())
    gases = values.join(venous, on=["stay_id", "t_h"], how="left")
    bad = (pl.col("variable") == "pao2") & pl.col("venous").fill_null(False)
    rejections.reject("pao2: venous or mixed specimen", gases.select(bad.sum()).item())
    return gases.filter(~bad).drop("venous")


def _urine(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """mL per charting time, irrigant subtracted."""
    pl = require_polars()
    frame = scan_table(path, "OUTPUTEVENTS", ("subject_id", "icustay_id", "itemid", "charttime", "value", "iserror"))
    frame = frame.filter(pl.col("itemid").is_in([*items.URINE_ITEMS, items.URINE_IRRIGANT]))
    events = collect(frame.with_columns(*times("charttime"), *numbers("value")), path / "OUTPUTEVENTS")
    bad = (pl.col("iserror").str.strip_chars() == "1").fill_null(False)
    rejections.reject("urine: marked as an error", events.select(bad.sum()).item())
    events = events.filter(~bad)
    huge = (pl.col("value") >= 5000.0) | (pl.col("value") < 0.0) | pl.col("value").is_null()
    rejections.reject(
        "urine: a record of no volume, below 0 or of 5 litres and more",
        events.select(huge.fill_null(True).sum()).item(),
    )
    events = attach(events.filter(~huge.fill_null(True)), stays, rejections, "urine")
    signed = pl.when(pl.col("itemid") == items.URINE_IRRIGANT).then(-pl.col("value")).otherwise(pl.col("value"))
    return (
        events.with_columns(value=signed)
        .group_by("stay_id", "t_h")
        .agg(pl.col("value").sum())
        .select("stay_id", pl.lit("urine").alias("variable"), "t_h", "value")
    )


def _combine(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All observations; sources that chart a variable twice at one time are averaged later, by validation."""
    pl = require_polars()
    columns = ("stay_id", "variable", "t_h", "value")
    return pl.concat([part.select(columns) for part in parts]).sort("stay_id", "variable", "t_h")
