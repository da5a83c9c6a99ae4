"""The cohort on a regular grid, as NumPy arrays: what the simulators are fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.cohorts.schema import (
    INSENSIBLE_LITRES_PER_HOUR,
    ROOM_AIR,
    STATES,
    TREATMENTS,
    URINE_MAX_GAP_HOURS,
    require_polars,
)
from medgym_offline.errors import unknown_name

if TYPE_CHECKING:
    import polars as pl

__all__ = ["GridCohort", "cell_sums", "make_grid"]


@dataclass(frozen=True)
class GridCohort:
    """P stays on a grid of T cells of `hours` hours; physical units.

    Attributes:
        patients: Ids (P).
        subjects: Person behind each stay (P); two stays with one subject must not play different roles.
        hours: Width of a cell.
        values: (P, T, 6) median of the observations nearest to time k*hours; NaN where `mask` is False. Values from
            up to 6 h before admission (laboratory values, blood gases, coma scale) count at k = 0.
        mask: (P, T, 6) whether anything was observed.
        treatment: (P, T, 3) FiO2 %, vasopressor mcg/kg/min, fluids mL/h, averaged over [k*hours, (k+1)*hours):
            in force between the observations at k and k+1. Room air and zeros where nothing was charted.
        length: (P,) number of cells inside the stay, floor(min(horizon, los)/hours). Nothing after it is observed.
        fluid_balance: (P, T) litres at time k*hours: fluids in, urine and 0.04 L/h insensible loss out, 0 at
            admission; held after the end. Hours whose urine nobody charted count at the patient's mean rate.
    """

    patients: tuple[str, ...]
    subjects: tuple[str, ...]
    hours: float
    values: np.ndarray
    mask: np.ndarray
    treatment: np.ndarray
    length: np.ndarray
    fluid_balance: np.ndarray

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def inside(self) -> np.ndarray:
        """(P, T) bool: the cell lies inside the stay."""
        return np.arange(self.values.shape[1])[None, :] < self.length[:, None]

    @property
    def times(self) -> np.ndarray:
        """(T,) hours since admission of each cell's start."""
        return np.arange(self.values.shape[1]) * self.hours

    def select(self, patients: Sequence[str] | Sequence[int] | np.ndarray) -> GridCohort:
        """The named (or numbered) stays, in that order.

        Raises:
            UnknownNameError: no such patient.
        """
        index = {name: row for row, name in enumerate(self.patients)}
        rows = []
        for item in patients:
            if isinstance(item, str):
                if item not in index:
                    raise unknown_name("patient", item, self.patients)
                rows.append(index[item])
            else:
                rows.append(int(item))
        take = np.asarray(rows, dtype=np.int64)
        return GridCohort(
            tuple(self.patients[r] for r in rows),
            tuple(self.subjects[r] for r in rows),
            self.hours,
            self.values[take],
            self.mask[take],
            self.treatment[take],
            self.length[take],
            self.fluid_balance[take],
        )


def make_grid(table: pl.DataFrame, stays: pl.DataFrame, hours: float, horizon: float) -> GridCohort:
    """Grid of a validated table; see :class:`GridCohort`.

    Args:
        table: Long-form cohort table.
        stays: patient, subject, los_h; gives the order of the patients.
        hours: Width of a cell, > 0.
        horizon: Hours covered.
    """
    patients = tuple(stays["patient"].to_list())
    cells = int(horizon / hours + 1e-9)
    los = stays["los_h"].to_numpy().astype(float)
    length = np.floor(np.minimum(horizon, los) / hours + 1e-9).astype(np.int64)
    values = _observed(table, patients, hours, cells)
    inside = np.arange(cells)[None, :] < length[:, None]
    values[~inside] = np.nan
    treatment = _treated(table, patients, hours, cells)
    treatment[~inside] = (ROOM_AIR, 0.0, 0.0)
    urine = _urine_litres_per_hour(table, patients, hours, cells, inside)
    change = (treatment[:, :, 2] / 1000.0 - urine - INSENSIBLE_LITRES_PER_HOUR) * hours * inside
    balance = np.zeros((len(patients), cells))
    balance[:, 1:] = np.cumsum(change, axis=1)[:, :-1]
    return GridCohort(
        patients, tuple(stays["subject"].to_list()), hours, values, ~np.isnan(values), treatment, length, balance
    )


def cell_sums(
    row: np.ndarray, start: np.ndarray, end: np.ndarray, value: np.ndarray, shape: tuple[int, int], hours: float
) -> tuple[np.ndarray, np.ndarray]:
    """Integral of `value` over the part of each interval inside each cell, and the hours covered.

    Args:
        row: (N,) patient index of each interval.
        start: (N,) hours.
        end: (N,) hours, >= start.
        value: (N,) per hour.
        shape: (P, T).
        hours: Width of a cell.

    Returns:
        Integral (P, T) and covered hours (P, T).
    """
    limit = shape[1] * hours
    start, end = np.clip(start, 0.0, limit), np.clip(end, 0.0, limit)
    first = np.floor(start / hours).astype(np.int64)
    pieces = np.where(end > start, np.ceil(end / hours - 1e-12).astype(np.int64) - first, 0)
    owner = np.repeat(np.arange(len(row)), pieces)
    cell = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    overlap = np.minimum(end[owner], (cell + 1) * hours) - np.maximum(start[owner], cell * hours)
    flat = row[owner] * shape[1] + np.minimum(cell, shape[1] - 1)
    size = shape[0] * shape[1]
    # Of no interval at all NumPy counts in integers.
    total = np.bincount(flat, weights=overlap * value[owner], minlength=size).reshape(shape)
    covered = np.bincount(flat, weights=overlap, minlength=size).reshape(shape)
    return total.astype(float), covered.astype(float)


def _indexed(table: pl.DataFrame, patients: tuple[str, ...], variables: tuple[str, ...]) -> pl.DataFrame:
    pl = require_polars()
    order = pl.DataFrame(
        {"patient": list(patients), "row": np.arange(len(patients))}, schema_overrides={"patient": pl.String}
    )
    return table.filter(pl.col("variable").is_in(variables)).join(
        order, on="patient", how="inner", maintain_order="left"
    )


def _observed(table: pl.DataFrame, patients: tuple[str, ...], hours: float, cells: int) -> np.ndarray:
    pl = require_polars()
    values = np.full((len(patients), cells, len(STATES)), np.nan)
    column = pl.col("variable").replace_strict({name: i for i, name in enumerate(STATES)}, return_dtype=pl.Int64)
    medians = (
        _indexed(table, patients, STATES)
        .with_columns(cell=(pl.col("time_h") / hours + 0.5).floor().clip(lower_bound=0.0).cast(pl.Int64), column=column)
        .filter(pl.col("cell") < cells)
        .group_by("row", "cell", "column")
        .agg(pl.col("value").median())
    )
    values[medians["row"].to_numpy(), medians["cell"].to_numpy(), medians["column"].to_numpy()] = medians[
        "value"
    ].to_numpy()
    return values


def _treated(table: pl.DataFrame, patients: tuple[str, ...], hours: float, cells: int) -> np.ndarray:
    pl = require_polars()
    out = np.zeros((len(patients), cells, len(TREATMENTS)))
    rows = _indexed(table, patients, TREATMENTS)
    for column, name in enumerate(TREATMENTS):
        mine = rows.filter(pl.col("variable") == name)
        total, covered = cell_sums(
            mine["row"].to_numpy(),
            mine["time_h"].to_numpy(),
            mine["end_h"].to_numpy(),
            mine["value"].to_numpy(),
            (len(patients), cells),
            hours,
        )
        background = ROOM_AIR if name == "fio2" else 0.0
        out[:, :, column] = (total + background * np.clip(hours - covered, 0.0, None)) / hours
    return out


def _urine_litres_per_hour(
    table: pl.DataFrame, patients: tuple[str, ...], hours: float, cells: int, inside: np.ndarray
) -> np.ndarray:
    """(P, T) litres per hour: a charted rate holds back to the record before it; other hours take the mean."""
    pl = require_polars()
    gap = pl.col("time_h") - pl.col("time_h").shift(1, fill_value=0.0).over("patient")
    # After a gap too long to be a rate, the rejected record's own time is unknown: the next covers a charting hour.
    back = pl.when(gap > URINE_MAX_GAP_HOURS + 1e-3).then(1.0).otherwise(gap)
    rows = _indexed(table, patients, ("urine",)).sort("row", "time_h").with_columns(start=pl.col("time_h") - back)
    total, covered = cell_sums(
        rows["row"].to_numpy(),
        rows["start"].to_numpy(),
        rows["time_h"].to_numpy(),
        rows["value"].to_numpy() / 24_000.0,
        inside.shape,
        hours,
    )
    total, covered = total * inside, covered * inside
    charted = covered.sum(axis=1, keepdims=True)
    mean = np.divide(total.sum(axis=1, keepdims=True), charted, out=np.zeros_like(charted), where=charted > 0)
    return (total + mean * np.clip(hours - covered, 0.0, None)) / hours * inside
