"""The cohort on a regular grid, as NumPy arrays: what the simulators are fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from medgym_offline.diseases.concepts import CohortDefinition

__all__ = ["GridCohort", "cell_sums", "make_grid", "numbered_rows"]


@dataclass(frozen=True)
class GridCohort:
    """P stays on a grid of T cells of `hours` hours; physical units; V variables and U treatments of a definition.

    Attributes:
        patients: Ids (P).
        subjects: Person behind each stay (P); two stays with one subject must not play different roles.
        hours: Width of a cell.
        values: (P, T, V) median of the observations nearest to time k*hours; NaN where `mask` is False. Values from
            within the look-back of a variable before admission count at k = 0.
        mask: (P, T, V) whether anything was observed.
        treatment: (P, T, U) averaged over [k*hours, (k+1)*hours): in force between the observations at k and k+1.
            The background of a treatment where nothing was charted.
        length: (P,) number of cells inside the stay, floor(min(horizon, los)/hours). Nothing after it is observed.
        derived: Name -> (P, T), what the definition derives.
    """

    patients: tuple[str, ...]
    subjects: tuple[str, ...]
    hours: float
    values: np.ndarray
    mask: np.ndarray
    treatment: np.ndarray
    length: np.ndarray
    derived: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def inside(self) -> np.ndarray:
        """(P, T) bool: the cell lies inside the stay."""
        return np.arange(self.values.shape[1])[None, :] < self.length[:, None]


def make_grid(
    table: pl.DataFrame, stays: pl.DataFrame, definition: CohortDefinition, hours: float, horizon: float
) -> GridCohort:
    """Grid of a validated table; see :class:`GridCohort`.

    Args:
        table: Long-form cohort table.
        stays: patient, subject, los_h; gives the order of the patients.
        definition: What the table holds.
        hours: Width of a cell, > 0.
        horizon: Hours covered.
    """
    patients = tuple(stays["patient"].to_list())
    cells = int(horizon / hours + 1e-9)
    los = stays["los_h"].to_numpy().astype(float)
    length = np.floor(np.minimum(horizon, los) / hours + 1e-9).astype(np.int64)
    outside = np.arange(cells)[None, :] >= length[:, None]
    values = np.full((len(patients), cells, len(definition.variables)), np.nan)
    nearest = (pl.col("time_h") / hours + 0.5).floor().clip(lower_bound=0.0).cast(pl.Int64)
    for column, name in enumerate(definition.observed):
        rows = numbered_rows(table, patients, name).with_columns(cell=nearest).filter(pl.col("cell") < cells)
        medians = rows.group_by("row", "cell").agg(pl.col("value").median())
        values[medians["row"].to_numpy(), medians["cell"].to_numpy(), column] = medians["value"].to_numpy()
    values[outside] = np.nan
    treatment = np.zeros((len(patients), cells, len(definition.treatments)))
    for column, concept in enumerate(definition.treatments):
        rows = numbered_rows(table, patients, concept.name)
        row, start, end, value = (rows[name].to_numpy() for name in ("row", "time_h", "end_h", "value"))
        total, covered = cell_sums(row, start, end, value, (len(patients), cells), hours)
        treatment[:, :, column] = (total + concept.background * np.clip(hours - covered, 0.0, None)) / hours
    treatment[outside] = [concept.background for concept in definition.treatments]
    subjects = tuple(stays["subject"].to_list())
    grid = GridCohort(patients, subjects, hours, values, ~np.isnan(values), treatment, length)
    return replace(grid, derived={part.name: part.compute(table, grid) for part in definition.derived})


def numbered_rows(table: pl.DataFrame, patients: Sequence[str], variable: str) -> pl.DataFrame:
    """Rows of one variable, with `row`: the patient's place among `patients`."""
    numbers = {"patient": list(patients), "row": np.arange(len(patients))}
    order = pl.DataFrame(numbers, schema_overrides={"patient": pl.String})
    return table.filter(pl.col("variable") == variable).join(order, on="patient", how="inner", maintain_order="left")


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
    # Of no interval at all NumPy counts in integers.
    sums = (np.bincount(flat, weights=w, minlength=shape[0] * shape[1]) for w in (overlap * value[owner], overlap))
    total, covered = (part.reshape(shape).astype(float) for part in sums)
    return total, covered
