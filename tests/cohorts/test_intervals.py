"""Rates and intervals: conservation, brute force and hand-computed cases."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.cohorts.frames import Rejections
from medgym_offline.cohorts.grid import cell_sums
from medgym_offline.cohorts.intervals import hold_settings, interval_rates, record_rates, sum_overlapping
from medgym_offline.diseases.sepsis.cohort import COHORT

quarter = st.integers(0, 60).map(lambda n: n / 4)
interval = st.tuples(st.sampled_from(["a", "b"]), quarter, st.integers(1, 40).map(lambda n: n / 4), st.integers(0, 5))


def frame(rows):
    schema = {"patient": pl.String, "t_h": pl.Float64, "end_h": pl.Float64, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@given(st.lists(interval, max_size=12))
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


def test_urine_volume_becomes_a_rate_over_the_gap():
    rates, _ = urine([(2.0, 100.0), (3.0, 50.0), (7.0, 200.0)])
    assert rates == [(2.0, 1200.0), (3.0, 1200.0), (7.0, 1200.0)]


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


def test_a_setting_holds_until_the_next_or_twelve_hours():
    points = pl.DataFrame({"patient": ["a", "a", "b"], "t_h": [0.0, 3.0, 1.0], "value": [40.0, 50.0, 60.0]})
    points = points.with_columns(end_h=pl.lit(None, pl.Float64))
    assert hold_settings(points, 12.0).rows() == [("a", 0.0, 3.0, 40.0), ("a", 3.0, 15.0, 50.0), ("b", 1.0, 13.0, 60.0)]


def test_pushes_are_spread_and_keep_their_volume():
    counts = Rejections()
    volumes = pl.DataFrame({"patient": ["a", "a"], "t_h": [1.0, 2.0], "end_h": [1.01, 4.0], "value": [100.0, 100.0]})
    rates = interval_rates(volumes.with_columns(amount=pl.lit(True)), COHORT.concepts["fluids"], counts)
    given_ml = ((rates["end_h"] - rates["t_h"]) * rates["value"]).to_list()
    assert given_ml == pytest.approx([100.0, 100.0])
    assert rates["value"].to_list() == pytest.approx([400.0, 50.0])
    assert sum(counts.repairs.values()) == 1
