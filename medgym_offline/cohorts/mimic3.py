"""Source: the original MIMIC-III tables, demo or full (credentialed) database, upper- or lower-case, .csv or .csv.gz.

Large tables are scanned once and filtered by item id before anything else happens to a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.events import (
    CHARTED,
    chart_values,
    charted_values,
    described_stays,
    drop_repeated,
    gcs_sums,
    intubated,
    join_observations,
    lab_values,
    urine_volumes,
    with_weight,
)
from medgym_offline.cohorts.mimic3_infusions import infusion_weights, read_fluids, read_vasopressors
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import attach, collect, find_table, hours_since, numbers, scan_table, times
from medgym_offline.cohorts.unlisted import count_unlisted

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
        stays = _read_stays(path, rejections)
        charted = _scan_chart(path, stays, rejections)
        stays = with_weight(stays, charted, infusion_weights(path, rejections), rejections)
        observations = join_observations(
            [
                charted_values(charted),
                gcs_sums(charted, rejections),
                lab_values(_scan_labs(path, stays, rejections), ("stay_id", "t_h"), rejections),
                urine_volumes(_scan_outputs(path, stays, rejections), rejections),
            ]
        )
        for name in ("INPUTEVENTS_CV", "INPUTEVENTS_MV"):
            if find_table(path, name) is not None:
                count_unlisted(path, name, rejections)
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


def _read_stays(path: Path, rejections: Rejections) -> pl.DataFrame:
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
        .select(
            pl.col("icustay_id").alias("stay_id"),
            pl.col("subject_id").alias("subject"),
            "hadm_id",
            "intime",
            hours_since("outtime", "intime").alias("los_h"),
            years.alias("age"),
            pl.col("gender").alias("sex"),
            pl.col("sepsis").fill_null(False),
            (pl.col("hospital_expire_flag").str.strip_chars() == "1").alias("died"),
        )
    )
    stays = described_stays(frame.collect(), "mimic-iii", rejections)
    shifted = pl.col("age") > 150.0
    rejections.repair(f"age: over 89 and shifted, set to {_AGE_OVER_89}", stays.select(shifted.sum()).item())
    return stays.with_columns(age=pl.when(shifted).then(_AGE_OVER_89).otherwise("age"))


def _table(path: Path, name: str, *columns: str, dated: int = 0) -> pl.LazyFrame:
    """The named columns, of which the last `dated` are times."""
    frame = scan_table(path, name, columns).with_columns(times(*columns[len(columns) - dated :]))
    return collect(frame, path / name).lazy()


def _scan_chart(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, intubated; one pass over CHARTEVENTS."""
    pl = require_polars()
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "value", "valuenum", "error")
    frame = scan_table(path, "CHARTEVENTS", columns).filter(pl.col("itemid").is_in(CHARTED))
    frame = frame.with_columns(*times("charttime"), *numbers("valuenum"), intubated=intubated("value")).drop("value")
    events = collect(frame, path / "CHARTEVENTS")
    events = rejections.drop(events, pl.col("error").str.strip_chars() == "1", "chart: marked as an error")
    return chart_values(events, stays, rejections)


def _scan_labs(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    wanted = [*items.LAB_ITEMS, *items.SPECIMEN_ITEMS]
    frame = scan_table(path, "LABEVENTS", ("subject_id", "itemid", "charttime", "value", "valuenum")).filter(
        pl.col("itemid").is_in(wanted)
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), path / "LABEVENTS")
    return attach(events, stays, rejections, "laboratory")


def _scan_outputs(path: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value (mL) of urine and irrigant."""
    pl = require_polars()
    columns = ("subject_id", "icustay_id", "itemid", "charttime", "value", "iserror")
    frame = scan_table(path, "OUTPUTEVENTS", columns, optional=("row_id",))
    frame = frame.filter(pl.col("itemid").is_in([*items.URINE_ITEMS, items.URINE_IRRIGANT]))
    events = collect(frame.with_columns(*times("charttime"), *numbers("value")), path / "OUTPUTEVENTS")
    events = drop_repeated(events, rejections, "urine")
    events = rejections.drop(events, pl.col("iserror").str.strip_chars() == "1", "urine: marked as an error")
    return attach(events, stays, rejections, "urine")
