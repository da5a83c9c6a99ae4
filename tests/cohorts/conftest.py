"""Small hand-made tables."""

import csv
import gzip

import polars as pl
import pytest

COLUMNS = ("patient", "time_h", "end_h", "variable", "value", "source")


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
