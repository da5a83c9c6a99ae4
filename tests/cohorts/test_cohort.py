"""The cohort table: faults, files, rates and intervals, grid, selection, combination, build."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.cohorts import Cohort, combine, coverage, select_stays
from medgym_offline.cohorts.grid import cell_sums, interval_rates, record_rates, sum_overlapping
from medgym_offline.cohorts.source import Rejections
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.errors import CohortError, UnknownNameError
from tests.cohorts.conftest import long_table
from tests.cohorts.support import STATES, build_cohort, from_table, validate
from tests.helpers import refused


def stays_table(los=30.0):
    return pl.DataFrame({"patient": ["a/1", "a/2"], "los_h": [los, los], "subject": ["x", "x"]})


@pytest.fixture
def cohort(rows):
    return from_table(long_table(rows), stays_table(), {"license": "test", "provenance": [{"dataset": "a"}]})


@pytest.fixture
def ward():
    """Eight stays of 60 h, two a person: all variables and vasopressor in even ones, sepsis in odd; lactate 1 + i."""
    odd = [("fio2", 2.0, 14.0, 50.0), ("fluids", 0.0, 10.0, 100.0)]
    for hour in np.arange(1.0, 60.0, 2.0).tolist():
        odd += [("spo2", hour, None, 95.0 + hour % 5), ("urine", hour, None, 900.0)]
    odd += [("gcs", hour, None, 12.0) for hour in (2.0, 8.0, 20.0)]
    even = [*odd, ("vasopressor", 1.0, 5.0, 0.1), ("bilirubin", 4.0, None, 0.8)]
    even += [("pao2", 3.0, None, 90.0), ("pao2", 9.0, None, 110.0)]
    rows = []
    for i in range(8):
        mine = [*(odd if i % 2 else even), *(("lactate", hour, None, 1.0 + i) for hour in (2.0, 8.0, 20.0))]
        rows += [(f"ward/{100 + i}", start, end, name, value) for name, start, end, value in mine]
    stays = [(f"ward/{100 + i}", f"person {i // 2}", 60.0, i % 2 == 1) for i in range(8)]
    columns = ["patient", "subject", "los_h", "sepsis"]
    return from_table(long_table(rows), pl.DataFrame(stays, schema=columns, orient="row"))


def test_a_damaged_or_foreign_file_is_an_error(cohort, tmp_path):
    path = tmp_path / "c.parquet"
    refused(CohortError, "no such file; build one with: medgym-offline cohort build", lambda: Cohort.read(path))
    cohort.write(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"patient,time_h\n", b""):
        path.write_bytes(content)
        refused(CohortError, r"c\.parquet: not a readable Parquet table", lambda: Cohort.read(path))


def test_a_foreign_table_without_metadata_is_validated(rows, tmp_path):
    path = tmp_path / "c.parquet"
    long_table([*rows[::-1], ("a/1", 9.0, None, "heart", 80.0)]).drop("source").write_parquet(path)
    refused(CohortError, r"c\.parquet: names no disease; build the table again", lambda: Cohort.read(path))
    cohort = Cohort.read(path, COHORT)
    assert cohort.patients == ("a/1", "a/2")
    assert cohort.stays["los_h"].to_list() == [2.0, 2.0]
    assert cohort.rejections.rows == {"unknown variable 'heart'": 1}
    strange = {"units": {"lactate": "mg/dL"}}
    refused(CohortError, "'lactate' is in 'mg/dL'; a cohort table", lambda: from_table(long_table(rows), None, strange))
    long_table(rows).drop("value").write_parquet(path)
    refused(CohortError, r"c\.parquet: column 'value' is missing", lambda: Cohort.read(path, COHORT))


def test_grid_places_observations_and_averages_treatments(rows):
    extra = [
        ("a/1", 1.4, None, "spo2", 91.0),
        ("a/1", 1.45, None, "spo2", 90.0),
        ("a/1", 4.0, 4.5, "fluids", 1000.0),
        ("a/1", 5.6, None, "spo2", 80.0),
        ("a/1", 25.0, None, "spo2", 70.0),
    ]
    grid = from_table(long_table([*rows, *extra]), stays_table(5.9)).to_grid()
    assert grid.patients == ("a/1", "a/2")
    assert grid.subjects == ("x", "x")
    assert grid.values.shape == (2, 96, 6)
    assert grid.length.tolist() == [5, 5]
    observed = {(p, t, STATES[j]): grid.values[p, t, j] for p, t, j in zip(*np.nonzero(grid.mask))}
    # The lactate from two hours before admission counts at 0; three saturations share hour 1; 5.6 h lies beyond.
    assert observed == {
        (0, 0, "lactate"): 3.0,
        (0, 1, "spo2"): 91.0,
        (0, 2, "spo2"): 95.0,
        (1, 1, "gcs"): 15.0,
        (1, 2, "urine"): 1200.0,
    }
    assert np.array_equal(np.isnan(grid.values), ~grid.mask)
    np.testing.assert_allclose(grid.treatment[0, :6, 0], [40, 40, 21, 21, 21, 21])
    np.testing.assert_allclose(grid.treatment[0, :3, 1], [0.05, 0.05, 0])
    np.testing.assert_allclose(grid.treatment[0, :6, 2], [0, 0, 0, 0, 500, 0])
    assert not grid.mask[~grid.inside].any()


def test_fluid_balance_is_what_was_charted(rows):
    extra = [("a/2", 0.0, 4.0, "fluids", 500.0), ("a/2", 4.0, None, "urine", 2400.0)]
    grid = from_table(long_table([*rows, *extra]), stays_table(6.0)).to_grid()
    # Urine: 1200 mL/day over (0, 2], 2400 over (2, 4], then the mean of the charted hours, 1800.
    urine = np.array([0.05, 0.05, 0.1, 0.1, 0.075, 0.075])
    change = np.array([0.5] * 4 + [0.0] * 2) - urine - 0.04
    expected = np.concatenate([[0.0], np.cumsum(change)])[:6]
    np.testing.assert_allclose(grid.derived["fluid_balance"][1, :6], expected, atol=1e-12)
    # Nobody charted urine for the first: fluids and insensible loss alone; held after the end of the stay.
    np.testing.assert_allclose(grid.derived["fluid_balance"][0, :6], -0.04 * np.arange(6), atol=1e-12)
    assert (grid.derived["fluid_balance"][:, 6:] == grid.derived["fluid_balance"][:, 6:7]).all()


def test_grid_does_not_depend_on_batch_mates_and_coarsens_consistently(ward):
    grid = ward.to_grid()
    alone = ward.select([ward.patients[3]]).to_grid()
    for name in ("values", "treatment", "length"):
        np.testing.assert_array_equal(getattr(grid, name)[3:4], getattr(alone, name))
    np.testing.assert_array_equal(grid.derived["fluid_balance"][3:4], alone.derived["fluid_balance"])
    coarse = ward.to_grid(hours=4.0)
    assert coarse.values.shape == (8, 24, 6)
    np.testing.assert_allclose(coarse.treatment[:, :15], grid.treatment[:, :60].reshape(8, 15, 4, 3).mean(axis=2))
    np.testing.assert_allclose(
        coarse.derived["fluid_balance"][:, :15], grid.derived["fluid_balance"][:, :60:4], atol=1e-9
    )
    refused(CohortError, "hours=0", lambda: ward.to_grid(hours=0))
    refused(UnknownNameError, "did you mean 'ward/103'", lambda: ward.select(["ward/1033"]))


def test_selection_follows_the_rule(ward):
    found = coverage(ward)
    assert found.covered.tolist() == [6, 4] * 4
    # Sepsis for odd stays, vasopressor for even ones, lactate 1 + i.
    assert found.severity.tolist() == [1, 2, 2, 3, 3, 3, 3, 3]
    ranked = [select_stays(ward, n, one_per_subject=False).patients for n in range(1, 9)]
    order = [next(iter(set(b) - set(a))) for a, b in zip([(), *ranked[:-1]], ranked)]
    assert order == [f"ward/{n}" for n in (104, 106, 102, 100, 103, 105, 107, 101)]


def test_combining_checks_patients(cohort, ward):
    both = combine([cohort, ward])
    assert len(both) == 10
    assert both.table.height == cohort.table.height + ward.table.height
    assert both.metadata["datasets"] == ["a", "ward"]
    refused(CohortError, "patient 'a/1' occurs in two cohorts", lambda: combine([cohort, cohort]))
    refused(CohortError, "no cohort given", lambda: combine([]))


def test_build_writes_whole_or_not_at_all(ward, tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out" / "c.parquet"
    ward.write(source)
    summary = build_cohort([source], output, patients=4)
    assert summary.stays == 4
    assert summary.layouts == {str(source): "cohort table"}
    assert any("8 eligible" in line for line in summary.lines())
    assert json.loads(json.dumps(summary.to_json()))["stays"] == 4
    before = output.read_bytes()
    refused(CohortError, "asked for", lambda: build_cohort([source], output, patients=99))
    assert output.read_bytes() == before
    build_cohort([output], tmp_path / "out" / "again.parquet")
    assert Cohort.read(tmp_path / "out" / "again.parquet").table.equals(Cohort.read(output).table)


def test_selection_takes_each_person_once_while_it_can(ward):
    four = select_stays(ward, 4)
    assert four.patients == tuple(f"ward/{n}" for n in (100, 102, 104, 106))
    assert four.metadata["selection"]["one_stay_per_subject"] is True
    six = select_stays(ward, 6)
    assert six.metadata["selection"]["one_stay_per_subject"] is False
    assert six.metadata["selection"]["subjects"] == 4
    refused(CohortError, "9 stays asked for, 8 eligible", lambda: select_stays(ward, 9))
    refused(CohortError, r"5 .*, 4 eligible .*one stay a person", lambda: select_stays(ward, 5, one_per_subject=True))
    refused(CohortError, "0 stays asked for", lambda: select_stays(ward, 0))


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


quarter = st.integers(0, 60).map(lambda n: n / 4)
interval = st.tuples(st.sampled_from(["a", "b"]), quarter, st.integers(1, 40).map(lambda n: n / 4), st.integers(0, 5))


def frame(rows):
    schema = {"patient": pl.String, "t_h": pl.Float64, "end_h": pl.Float64, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@given(st.lists(interval, max_size=12))
@settings(max_examples=30, deadline=None)
def test_summed_intervals_equal_brute_force(rows):
    given_rows = [(p, start, start + width, value / 10) for p, start, width, value in rows]
    summed = sum_overlapping(frame(given_rows))
    for patient in ("a", "b"):
        mine = summed.filter(pl.col("patient") == patient)
        assert (mine["end_h"] > mine["t_h"]).all()
        assert (mine["t_h"].to_numpy()[1:] >= mine["end_h"].to_numpy()[:-1]).all()
        for t in np.arange(0.125, 26.0, 0.25):
            expected = sum(v for p, a, b, v in given_rows if p == patient and a <= t < b)
            found = sum(v for a, b, v in mine.select("t_h", "end_h", "value").iter_rows() if a <= t < b)
            assert found == pytest.approx(expected, abs=1e-8)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 20), st.floats(0, 9), st.floats(0, 5)), max_size=20))
@settings(max_examples=30, deadline=None)
def test_cells_conserve_the_integral(rows):
    row = np.array([r[0] for r in rows], dtype=np.int64)
    start = np.array([r[1] for r in rows], dtype=float)
    end = start + np.array([r[2] for r in rows], dtype=float)
    value = np.array([r[3] for r in rows], dtype=float)
    total, covered = cell_sums(row, start, end, value, (3, 24), 1.0)
    for p in range(3):
        mine = row == p
        inside = np.minimum(end, 24.0)[mine] - start[mine]
        assert total[p].sum() == pytest.approx((inside * value[mine]).sum(), abs=1e-6)
        assert covered[p].sum() == pytest.approx(inside.sum(), abs=1e-6)
    assert (covered >= -1e-9).all()


def urine(rows):
    counts = Rejections()
    volumes = pl.DataFrame([("a", t, v) for t, v in rows], schema=["patient", "t_h", "value"], orient="row")
    return record_rates(volumes, COHORT.concepts["urine"], counts).select("t_h", "value").rows(), counts


def test_urine_records_closer_than_the_window_are_one():
    rates, counts = urine([(1.0, 10.0), (1.5, 20.0), (1.7, 30.0), (1.8, 24.0)])
    # The group of 1.0 ends before 1.75: the record at 1.8 starts the next.
    assert rates[0] == (1.7, pytest.approx(60.0 * 24 / 1.7))
    assert rates[1] == (1.8, pytest.approx(24.0 * 24 / 0.75))
    assert counts.repairs["urine: records closer than 0.75 h merged"] == 2


def test_urine_long_gap_is_rejected_and_negative_is_zero():
    rates, counts = urine([(1.0, -50.0), (14.0, 900.0), (15.0, 3000.0)])
    assert rates == [(1.0, 0.0), (15.0, 72000.0)]
    assert counts.rows == {"urine: more than 12 h since the record before it": 1}
    assert counts.repairs["urine: a sum below 0, set to 0"] == 1


def test_pushes_are_spread_and_keep_their_volume():
    counts = Rejections()
    volumes = pl.DataFrame({"patient": ["a", "a"], "t_h": [1.0, 2.0], "end_h": [1.01, 4.0], "value": [100.0, 100.0]})
    rates = interval_rates(volumes.with_columns(amount=pl.lit(True)), COHORT.concepts["fluids"], counts)
    given_ml = ((rates["end_h"] - rates["t_h"]) * rates["value"]).to_list()
    assert given_ml == pytest.approx([100.0, 100.0])
    assert rates["value"].to_list() == pytest.approx([400.0, 50.0])
    assert sum(counts.repairs.values()) == 1
