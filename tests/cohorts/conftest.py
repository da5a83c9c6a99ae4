"""Small hand-made tables: a long-form cohort, and raw MIMIC-III tables with a CareVue and a MetaVision stay."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

COLUMNS = ("patient", "time_h", "end_h", "variable", "value", "source")
Row = tuple[str, float, float | None, str, float]


def long_table(rows: Sequence[Row]) -> pl.DataFrame:
    """Cohort table of rows (patient, time, end, variable, value)."""
    return pl.DataFrame(
        [(*row, "test") for row in rows],
        schema={c: (pl.String if c in ("patient", "variable", "source") else pl.Float64) for c in COLUMNS},
        orient="row",
    )


@pytest.fixture
def rows() -> list[Row]:
    """Two good stays, sorted."""
    return [
        ("a/1", -2.0, None, "lactate", 3.0),
        ("a/1", 0.0, 2.0, "fio2", 40.0),
        ("a/1", 0.5, 1.5, "vasopressor", 0.1),
        ("a/1", 1.0, None, "spo2", 97.0),
        ("a/1", 2.0, None, "spo2", 95.0),
        ("a/2", 1.0, None, "gcs", 15.0),
        ("a/2", 2.0, None, "urine", 1200.0),
    ]


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    """A table as .csv, or .csv.gz by its name."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header.split(","))
        writer.writerows(rows)


CHART = "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,STORETIME,CGID,VALUE,VALUENUM,VALUEUOM,WARNING,ERROR"
LAB = "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG"
CV = "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,AMOUNTUOM,RATE,RATEUOM,STOPPED"
MV = (
    "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,AMOUNT,AMOUNTUOM,RATE,RATEUOM,PATIENTWEIGHT,"
    "STATUSDESCRIPTION"
)
OUT = "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,VALUE,VALUEUOM,ISERROR"


def _at(hour: float) -> str:
    day, rest = divmod(round(hour * 60) + 10 * 60, 24 * 60)
    return f"2150-03-{4 + day:02d} {rest // 60:02d}:{rest % 60:02d}:00"


def write_mimic3(folder: Path, lower: bool = False, suffix: str = ".csv.gz") -> Path:
    """Raw tables of two people: stay 1 (CareVue, 30 h, septic, died) and stay 2 (MetaVision, 48 h, aged over 89)."""
    folder.mkdir(parents=True, exist_ok=True)

    def put(name: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        if lower:
            name, header = name.lower(), header.lower()
        write_csv(folder / (name + suffix), header, rows)

    put(
        "ICUSTAYS",
        "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,INTIME,OUTTIME,LOS",
        [(1, 10, 100, 1, "carevue", _at(0), _at(30), 1.25), (2, 20, 200, 2, "metavision", _at(0), _at(48), 2.0)],
    )
    put(
        "PATIENTS",
        "ROW_ID,SUBJECT_ID,GENDER,DOB",
        [(1, 10, "F", "2090-03-04 00:00:00"), (2, 20, "M", "1850-03-04 00:00:00")],
    )
    put("ADMISSIONS", "ROW_ID,SUBJECT_ID,HADM_ID,HOSPITAL_EXPIRE_FLAG", [(1, 10, 100, 1), (2, 20, 200, 0)])
    put(
        "DIAGNOSES_ICD",
        "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
        [(1, 10, 100, 1, "99592"), (2, 10, 100, 2, "4019"), (3, 20, 200, 1, "0389")],
    )
    chart: list[tuple[object, ...]] = []

    def charted(who: int, hour: float, item: int, value: object, error: object = "") -> None:
        subject, stay = (10, 1) if who == 1 else (20, 2)
        number = value if isinstance(value, (int, float)) else ""
        chart.append((len(chart), subject, 100, stay, item, _at(hour), _at(hour), 1, value, number, "", 0, error))

    charted(1, 1, 646, 95)
    charted(1, 2, 646, 0)  # an artefact
    charted(1, 3, 646, "off")  # no number
    charted(1, 1, 190, 0.5)  # a fraction
    charted(1, 4, 3420, 40)
    charted(1, 5, 190, 10)  # litres
    for item, value in ((184, 3), (723, 4), (454, 6)):
        charted(1, 2, item, value)
    charted(1, 3, 184, 4)  # one component alone
    charted(1, 0, 762, 50)
    charted(1, 1, 211, 80)  # an item nobody reads
    charted(2, 1, 220277, 98)
    charted(2, 1.5, 220277, 60, error=1)
    charted(2, 2, 223835, 60)
    for item, value in ((220739, 4), (223900, 5), (223901, 6)):
        charted(2, 4, item, value)
    put("CHARTEVENTS", CHART, chart)
    put(
        "LABEVENTS",
        LAB,
        [
            (1, 10, 100, 50821, _at(-1), 80, 80, "mm Hg", ""),
            (2, 10, 100, 50821, _at(3), 35, 35, "mm Hg", ""),
            (3, 10, 100, 50800, _at(3), "VEN", "", "", ""),
            (4, 10, 100, 50813, _at(-7), 9, 9, "mmol/L", ""),  # too early
            (5, 10, 100, 50813, _at(2), 4.5, 4.5, "mmol/L", ""),
            (6, 20, "", 50885, _at(5), 1.2, 1.2, "mg/dL", ""),
            (7, 20, 200, 50821, _at(6), 150, 150, "mm Hg", ""),
            (8, 20, 200, 50800, _at(6), "ART", "", "", ""),
            (9, 20, 200, 50800, _at(6), "MIX", "", "", ""),
            (10, 20, 200, 50885, _at(60), 5, 5, "mg/dL", ""),  # after discharge
        ],
    )
    put(
        "OUTPUTEVENTS",
        OUT,
        [
            (1, 10, 100, 1, _at(2), 40055, 100, "ml", ""),
            (2, 10, 100, 1, _at(3), 40055, 50, "ml", ""),
            (3, 10, 100, 1, _at(3.5), 40055, 30, "ml", ""),
            (4, 10, 100, 1, _at(3.5), 99999, 30, "ml", ""),
            (5, 20, 200, 2, _at(1), 226559, 60, "ml", ""),
            (6, 20, 200, 2, _at(2), 226559, 300, "ml", ""),
            (7, 20, 200, 2, _at(2), 227488, 500, "ml", ""),
        ],
    )
    put(
        "INPUTEVENTS_CV",
        CV,
        [
            (1, 10, 100, 1, _at(1), 30047, "", "", 10, "mcgmin", ""),  # 10 mcg/min at 50 kg: 0.2
            (2, 10, 100, 1, _at(2), 30120, "", "", 0.1, "mcgkgmin", ""),
            (3, 10, 100, 1, _at(4), 30120, "", "", "", "", "Stopped"),
            (4, 10, 100, 1, _at(10), 30051, "", "", 2.4, "Umin", ""),  # really 2.4 U/h = 0.04 U/min
            (5, 10, 100, 1, _at(10), 30120, "", "", 9.0, "mcgkgmin", ""),  # impossible
            (6, 10, 100, 1, _at(5), 30018, 100, "ml", "", "", ""),
            (7, 10, 100, 1, _at(5.5), 30018, 60, "ml", "", "", ""),
        ],
    )
    put(
        "INPUTEVENTS_MV",
        MV,
        [
            (1, 20, 200, 2, _at(1), _at(3), 221906, 5, "mg", 0.1, "mcg/kg/min", 70, "FinishedRunning"),
            (2, 20, 200, 2, _at(2), _at(4), 221749, 5, "mg", 1.0, "mcg/kg/min", 70, "Changed"),
            (3, 20, 200, 2, _at(1), _at(9), 221906, 5, "mg", 0.5, "mcg/kg/min", 70, "Rewritten"),
            (4, 20, 200, 2, _at(6), _at(10), 225158, 400, "ml", "", "", 70, "FinishedRunning"),
            (5, 20, 200, 2, _at(8), _at(10), 220995, 50, "mEq", "", "", 70, "FinishedRunning"),
            (6, 20, 200, 2, _at(12), _at(12), 225158, 250, "ml", "", "", 70, "FinishedRunning"),
        ],
    )
    return folder


@pytest.fixture
def mimic3_writer() -> Callable[..., Path]:
    """The writer of the raw tables."""
    return write_mimic3


@pytest.fixture
def raw_folder(tmp_path: Path) -> Path:
    """Raw MIMIC-III tables, upper case, compressed."""
    return write_mimic3(tmp_path / "mimic-iii")


def write_normalised(folder: Path, stays: int, los: float = 60.0, dataset: str = "mimic-iii") -> Path:
    """Normalised tables: stay i (subject i // 2) with all variables; lactate and sepsis grow with i."""
    folder.mkdir(parents=True, exist_ok=True)
    flag = "sepsis_icd9_explicit" if dataset == "mimic-iii" else "sepsis_icd_explicit"
    stay_rows = [
        (100 + i, 10 + i // 2, los, 60 + i, "F" if i % 2 else "M", 70, i % 3 == 0, i % 2) for i in range(stays)
    ]
    header = f"stay_id,subject_id,los_h,age,gender,weight_kg,hospital_expire_flag,{flag}"
    write_csv(folder / "stays.csv", header, [(*r[:6], int(r[6]), int(r[7])) for r in stay_rows])
    observations: list[tuple[object, ...]] = []
    for i in range(stays):
        for hour in range(1, int(los), 2):
            observations += [
                (100 + i, "spo2", hour, 95 + hour % 5),
                (100 + i, "urine", hour, 40 + i),
                (100 + i, "hr", hour, 80),
            ]
        for hour in (2, 8, 20):
            observations += [(100 + i, "gcs", hour, 12), (100 + i, "lactate", hour, 1 + i), (100 + i, "fio2", hour, 50)]
        if i % 2 == 0:
            observations += [(100 + i, "pao2", 3, 90), (100 + i, "pao2", 9, 110), (100 + i, "bilirubin", 4, 0.8)]
    write_csv(folder / "observations.csv", "stay_id,var,t_h,value", observations)
    doses = [(100 + i, "norepinephrine", 1, 5, 0.1, 0.1) for i in range(0, stays, 2)]
    write_csv(folder / "vasopressors.csv", "stay_id,drug,t0_h,t1_h,dose,neq", doses)
    volumes = [(100 + i, 225158, 0, 10, 1000, 1000) for i in range(stays)]
    write_csv(folder / "fluids.csv", "stay_id,itemid,t0_h,t1_h,ml,tev_ml", volumes)
    return folder
