from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgym_offline.datasets import COLUMNS, Transitions
from medgym_offline.errors import DatasetError


def test_select_by_patient_is_the_rows_of_that_patient(rows: Transitions) -> None:
    part = rows.select(patients=["prior/2"])
    assert part.present.tolist() == [2]
    assert part.present_ids == ("prior/2",)
    assert part.patients == rows.patients
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(part, name), getattr(rows, name)[rows.patient == 2])


def test_masks_slices_and_row_numbers_agree(rows: Transitions) -> None:
    mask = rows.dt > np.median(rows.dt)
    by_mask, by_number = rows.select(mask), rows.select(np.flatnonzero(mask))
    np.testing.assert_array_equal(by_mask.actions, by_number.actions)
    np.testing.assert_array_equal(rows.select(slice(3, 9)).time, rows.time[3:9])
    both = rows.select(mask, patients=[1])
    np.testing.assert_array_equal(both.time, rows.time[mask & (rows.patient == 1)])
    both = rows.select(slice(0, 20), patients=[0])
    np.testing.assert_array_equal(both.time, rows.time[:20][rows.patient[:20] == 0])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rewards", lambda a: a.astype(np.float64), "rewards is float64"),
        ("observations", lambda a: a[:, 0], "observations has shape"),
        ("dt", lambda a: a[:-1], "dt has shape"),
        ("actions", lambda a: a[:, :3].copy(), "adaptive timing needs 4"),
        ("costs", lambda a: np.where(np.arange(len(a)) == 2, np.nan, a).astype(np.float32), "not finite at row 2"),
        ("patient", lambda a: a + np.int32(4), "patient numbers exceed"),
    ],
)
def test_validate_names_the_column(rows: Transitions, column: str, value: object, message: str) -> None:
    rows.validate()
    with pytest.raises(DatasetError, match=message):
        dataclasses.replace(rows, **{column: value(getattr(rows, column))}).validate()  # type: ignore[operator]
