"""Source: the original MIMIC-IV tables (`icu/` and `hosp/`, or one folder), demo or full, .csv or .csv.gz.

As for MIMIC-III, large tables are scanned once and filtered by item id before anything else happens to a row.
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
from medgym_offline.cohorts.infusions import equivalents, order_doses, order_volumes, order_weights, read_orders
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import attach, collect, find_table, hours_since, numbers, scan_table, times
from medgym_offline.cohorts.unlisted import count_unlisted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MimicFourTables"]

_ICU = ("icustays", "chartevents", "inputevents", "outputevents")
_HOSPITAL = ("patients", "admissions", "labevents", "diagnoses_icd")


class MimicFourTables:
    """icu/: icustays, chartevents, inputevents, outputevents; hosp/: patients, admissions, labevents, diagnoses_icd.

    What differs from MIMIC-III: blood gases carry a specimen id that ties them to the kind of blood; infusions are
    all MetaVision orders; age is the anchor age plus the years since the anchor year; ICD codes are of two versions.
    """

    layout = "raw MIMIC-IV tables"

    def matches(self, path: Path) -> bool:
        """Whether icustays and inputevents lie in `path/icu` or in `path` itself."""
        icu, _ = _folders(path)
        return all(find_table(icu, name) is not None for name in ("icustays", "inputevents"))

    def read(self, path: Path) -> Records:
        """Read the tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        icu, hospital = _folders(path)
        rejections = Rejections()
        stays = _read_stays(icu, hospital, rejections)
        charted = _scan_chart(icu, stays, rejections)
        stays = with_weight(stays, charted, order_weights(icu, "inputevents", "stay_id", rejections), rejections)
        observations = join_observations(
            [
                charted_values(charted),
                gcs_sums(charted, rejections),
                lab_values(_scan_labs(hospital, stays, rejections), ("specimen_id",), rejections),
                urine_volumes(_scan_outputs(icu, stays, rejections), rejections),
            ]
        )
        count_unlisted(icu, "inputevents", rejections)
        pressors = tuple(items.PRESSOR_ITEMS)
        doses = read_orders(icu, "inputevents", "stay_id", stays, rejections, pressors, "vasopressor")
        volumes = read_orders(icu, "inputevents", "stay_id", stays, rejections, items.FLUID_ITEMS, "fluids")
        found = [find_table(icu, name) for name in _ICU] + [find_table(hospital, name) for name in _HOSPITAL]
        return Records(
            dataset="mimic-iv",
            stays=stays.drop("intime", "hadm_id"),
            observations=observations,
            vasopressors=equivalents(order_doses(doses, rejections), stays, rejections),
            fluids=order_volumes(volumes, rejections),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.name,
                "licence": dataset_licence(path, "mimic-iv"),
                "files": [table.relative_to(path).as_posix() for table in found if table is not None],
            },
        )


def _folders(path: Path) -> tuple[Path, Path]:
    """Where the ICU tables and the hospital's tables lie."""
    icu, hospital = path / "icu", path / "hosp"
    return (icu if icu.is_dir() else path), (hospital if hospital.is_dir() else path)


def _read_stays(icu: Path, hospital: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id, subject, hadm_id, intime, los_h, age, sex, sepsis, died."""
    pl = require_polars()
    beds = _table(icu, "icustays", "subject_id", "hadm_id", "stay_id", "intime", "outtime", dated=2)
    people = _table(hospital, "patients", "subject_id", "gender", "anchor_age", "anchor_year").unique("subject_id")
    admitted = _table(hospital, "admissions", "hadm_id", "hospital_expire_flag").unique("hadm_id")
    codes = _table(hospital, "diagnoses_icd", "hadm_id", "icd_code", "icd_version")
    code, version = pl.col("icd_code").str.strip_chars(), pl.col("icd_version").str.strip_chars()
    tenth = pl.any_horizontal([code.str.starts_with(prefix) for prefix in items.SEPSIS_PREFIXES])
    explicit = ((version == "9") & code.is_in(items.SEPSIS_CODES)) | ((version == "10") & tenth)
    septic = codes.filter(explicit).select("hadm_id").unique()
    start_of_year = pl.datetime(pl.col("anchor_year").cast(pl.Int32), 1, 1, time_unit="ms")
    years = (pl.col("intime").dt.replace_time_zone(None) - start_of_year).dt.total_seconds() / (365.2425 * 86400.0)
    frame = (
        beds.join(people, on="subject_id", how="left")
        .join(admitted, on="hadm_id", how="left")
        .join(septic.with_columns(sepsis=pl.lit(True)), on="hadm_id", how="left")
        .with_columns(*numbers("anchor_age", "anchor_year"))
        .select(
            "stay_id",
            pl.col("subject_id").alias("subject"),
            "hadm_id",
            "intime",
            hours_since("outtime", "intime").alias("los_h"),
            (pl.col("anchor_age") + years).alias("age"),
            pl.col("gender").alias("sex"),
            pl.col("sepsis").fill_null(False),
            (pl.col("hospital_expire_flag").str.strip_chars() == "1").alias("died"),
        )
    )
    return described_stays(frame.collect(), "mimic-iv", rejections)


def _table(folder: Path, name: str, *columns: str, dated: int = 0) -> pl.LazyFrame:
    """The named columns, of which the last `dated` are times."""
    frame = scan_table(folder, name, columns).with_columns(times(*columns[len(columns) - dated :]))
    return collect(frame, folder / name).lazy()


def _scan_chart(icu: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, intubated; one pass over chartevents."""
    pl = require_polars()
    frame = scan_table(icu, "chartevents", ("subject_id", "stay_id", "itemid", "charttime", "value", "valuenum"))
    frame = frame.filter(pl.col("itemid").is_in(CHARTED)).rename({"stay_id": "icustay_id"})
    frame = frame.with_columns(*times("charttime"), *numbers("valuenum"), intubated=intubated("value")).drop("value")
    events = collect(frame, icu / "chartevents")
    return chart_values(events, stays, rejections)


def _scan_labs(hospital: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, valuenum, specimen_id of people who were in the ICU."""
    pl = require_polars()
    columns = ("subject_id", "specimen_id", "itemid", "charttime", "value", "valuenum")
    frame = scan_table(hospital, "labevents", columns).filter(
        pl.col("itemid").is_in([*items.LAB_ITEMS, *items.SPECIMEN_ITEMS])
        & pl.col("subject_id").is_in(stays["subject"].unique().to_list())
    )
    events = collect(frame.with_columns(*times("charttime"), *numbers("valuenum")), hospital / "labevents")
    return attach(events, stays, rejections, "laboratory", extra=("specimen_id",))


def _scan_outputs(icu: Path, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value (mL) of urine and irrigant."""
    pl = require_polars()
    frame = scan_table(icu, "outputevents", ("subject_id", "stay_id", "itemid", "charttime", "value"))
    frame = frame.filter(pl.col("itemid").is_in([*items.URINE_ITEMS, items.URINE_IRRIGANT]))
    events = collect(
        frame.rename({"stay_id": "icustay_id"}).with_columns(*times("charttime"), *numbers("value")),
        icu / "outputevents",
    )
    events = drop_repeated(events, rejections, "urine")
    return attach(events, stays, rejections, "urine")
