"""Small hand-made tables: a long-form cohort and the normalized layout."""

import csv
import gzip

import polars as pl
import pytest

COLUMNS = ("patient", "time_h", "end_h", "variable", "value", "source")
Row = tuple[str, float, float | None, str, float]


def long_table(rows):
    """Cohort table of rows (patient, time, end, variable, value)."""
    return pl.DataFrame(
        [(*row, "test") for row in rows],
        schema={c: (pl.String if c in ("patient", "variable", "source") else pl.Float64) for c in COLUMNS},
        orient="row",
    )


@pytest.fixture
def rows():
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


def write_csv(path, header, rows):
    """A table as .csv, or .csv.gz by its name."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_normalized(folder, stays, los=60.0, dataset="mimic-iii"):
    """Normalized tables: stay i (subject i // 2) with all variables; lactate and sepsis grow with i."""
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
