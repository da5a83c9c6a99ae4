"""Every fault of a cohort table: rejected or repaired by a counted reason, or one clear error."""

import polars as pl
import pytest

from medgym_offline.errors import CohortError
from tests.cohorts.conftest import long_table
from tests.cohorts.support import validate


@pytest.mark.parametrize("column", ["patient", "time_h", "end_h", "variable", "value"])
def test_a_missing_column_is_named(rows, column):
    with pytest.raises(CohortError, match=f"my.parquet: column '{column}' is missing.*has the columns patient"):
        validate(long_table(rows).drop(column), where="my.parquet")


def test_overlaps_are_summed_for_infusions_and_cut_for_oxygen(rows):
    clean, counts = validate(
        long_table([*rows, ("a/1", 1.0, 2.0, "vasopressor", 0.2), ("a/1", 1.0, 3.0, "fio2", 60.0)])
    )
    spans = {
        name: clean.filter(pl.col("variable") == name).select("time_h", "end_h", "value").rows()
        for name in ("vasopressor", "fio2")
    }
    assert spans["vasopressor"] == [(0.5, 1.0, 0.1), (1.0, 1.5, pytest.approx(0.3)), (1.5, 2.0, pytest.approx(0.2))]
    assert spans["fio2"] == [(0.0, 1.0, 40.0), (1.0, 3.0, 60.0)]
    assert set(counts.repairs) == {
        "vasopressor: overlapping intervals, summed",
        "fio2: overlapping settings, cut at the next",
    }


def test_validation_is_idempotent(rows):
    messy = long_table([*rows[::-1], *rows, ("a/1", 1.0, 2.0, "vasopressor", 0.2), ("a/1", 3.0, 4.0, "fio2", 0.5)])
    once, _ = validate(messy)
    twice, counts = validate(once)
    assert twice.equals(once)
    assert counts.lines() == []
