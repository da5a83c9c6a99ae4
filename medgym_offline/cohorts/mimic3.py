"""Source: the original MIMIC-III tables, demo or full (credentialed) database, upper- or lower-case, .csv or .csv.gz.

Large tables are scanned once and filtered by item id before anything else happens to a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.events import (
    CHARTED,
    charted_values,
    drop_repeated,
    gcs_sums,
    join_observations,
    lab_values,
    possible_urine,
    urine_volumes,
    with_weight,
)
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
        stays = with_weight(stays, charted, infusion_weights(path))
        observations = join_observations(
            [
                charted_values(charted),
                gcs_sums(charted, rejections),
                lab_values(_scan_labs(path, stays), ("stay_id", "t_h"), rejections),
                urine_volumes(_scan_outputs(path, stays, rejections)),
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
    icu = _table(path, "ICUSTAYS", "subject_id", "hadm_id", "icustay_id", "intime", "outtime", dated=2)
    people = _table(path, "PATIENTS", "subject_id", "gender", "dob", dated=1).unique("subject_id")
    admitted = _table(path, "ADMISSIONS", "hadm_id", "hospital_expire_flag").unique("hadm_id")
    codes = _table(path, "DIAGNOSES_ICD", "hadm_id", "icd9_code")
    septic = codes.filter(pl.col("icd9_code").str.strip_chars().is_in(items.SEPSIS_CODES)).select("hadm_id").unique()
    years = (
        pl.col("intime").dt.replace_time_zone(None) - pl.col("dob").dt.replace_time_zone(None)
    ).dt.total_seconds() / (365.2425 * 86400.0)
    frame = (
        icu.join(people, on="subject_id", how="left")
        .join(admitted, on="hadm_id", how="left")
        .join(septic.with_columns(sepsis=pl.lit(True)), on="hadm_id", how="left")
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


def _table(path: Path, name: str, *columns: str, dated: int = 0) -> pl.LazyFrame:
    """The named columns, of which the last `dated` are times."""
    frame = scan_table(path, name, columns).with_columns(times(*columns[len(columns) - dated :]))
    return collect(frame, path / name).lazy()


def _scan_chart(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, value text; one pass over CHARTEVENTS."""
    pl = require_polars()
    frame = scan_table(
        path, "CHARTEVENTS", ("subject_id", "icustay_id", "itemid", "charttime", "valuenum", "error")
    ).filter(pl.col("itemid").is_in(CHARTED))
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), path / "CHARTEVENTS")
    wrong = pl.col("error").str.strip_chars() == "1"
    rejections.reject("chart: marked as an error", events.select(wrong.sum()).item())
    empty = pl.col("valuenum").is_null()
    events = events.filter(~wrong.fill_null(False))
    rejections.reject("chart: no numeric value", events.select(empty.sum()).item())
    return attach(events.filter(~empty), stays, rejections, "chart").rename({"valuenum": "value"})


def _scan_labs(path: Path, stays: pl.DataFrame) -> pl.DataFrame:
    pl = require_polars()
    wanted = [*items.LAB_ITEMS, *items.SPECIMEN_ITEMS]
    frame = scan_table(path, "LABEVENTS", ("subject_id", "itemid", "charttime", "value", "valuenum")).filter(
        pl.col("itemid").is_in(wanted)
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), path / "LABEVENTS")
    return attach(events, stays, None, "laboratory")


def _scan_outputs(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value (mL) of urine and irrigant."""
    pl = require_polars()
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "value", "iserror")
    frame = scan_table(path, "OUTPUTEVENTS", columns, optional=("row_id",))
    frame = frame.filter(pl.col("itemid").is_in([*items.URINE_ITEMS, items.URINE_IRRIGANT]))
    events = collect(frame.with_columns(*times("charttime"), *numbers("value")), path / "OUTPUTEVENTS")
    events = drop_repeated(events, rejections, "urine")
    bad = (pl.col("iserror").str.strip_chars() == "1").fill_null(False)
    rejections.reject("urine: marked as an error", events.select(bad.sum()).item())
    return attach(possible_urine(events.filter(~bad), rejections), stays, rejections, "urine")
