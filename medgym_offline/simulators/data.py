"""From a cohort's hourly grid to what a fit reads: normalized values, masks, treatments and causal start states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.scales import Scales

if TYPE_CHECKING:
    from medgym_offline.cohorts import GridCohort

__all__ = ["FitData", "block_steps", "clinician_schedule", "cohort_scales", "fit_data", "start_states"]

SMOOTHING_STEPS = 2.0
"""Noisy and frequent components start from an exponentially weighted mean of their last values."""


_ARRAYS = ("values", "mask", "u", "derived", "length", "start")


@dataclass(frozen=True)
class FitData:
    """A cohort in normalized coordinates on a grid of T steps of one unit of time.

    Attributes:
        disease: Gives transforms, bounds and names.
        patients: Ids.
        scales: The cohort's affine maps.
        values: (P, T, V) normalized medians per step, 0 where nothing was observed.
        mask: (P, T, V) whether the value may be used.
        u: (P, T, treatments) treatment of the step, in [0, 1].
        derived: (P, T, derived components) as charted at the step, normalized.
        length: (P,) steps of the record on the grid.
        start: (P, T, V) causal state at each step from usable values only (see `start_states`).
    """

    disease: Disease
    patients: tuple[str, ...]
    scales: Scales
    values: np.ndarray
    mask: np.ndarray
    u: np.ndarray
    derived: np.ndarray
    length: np.ndarray
    start: np.ndarray

    def restrict(self, hours: np.ndarray) -> FitData:
        """The same cohort with values usable only at `hours`, (T,) or (P, T) bool; start states follow."""
        mask = self.mask & (hours if hours.ndim == 2 else hours[None])[..., None]
        return replace(self, mask=mask, start=start_states(self.values, mask, self.disease))

    def select(self, patients: np.ndarray) -> FitData:
        """The patients at these positions."""
        chosen = {name: getattr(self, name)[patients] for name in _ARRAYS}
        return replace(self, patients=tuple(self.patients[i] for i in patients), **chosen)

    def first_state(self) -> np.ndarray:
        """(P, V) first observed value of each variable; 0 (the cohort's mean) where it was never observed."""
        return _first(self.values, self.mask).astype(np.float32)


def _first(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask.any(1), np.take_along_axis(values, mask.argmax(1)[:, None], 1)[:, 0], 0.0)


def cohort_scales(grid: GridCohort, disease: Disease) -> Scales:
    """Center and scale of every variable over all observed hours, and the doses at u = 1.

    Args:
        grid: Hourly grid in physical units.
        disease: Gives transforms and bounds.
    """
    count, doses = len(disease.variables), tuple(t.upper for t in disease.treatments)
    identity = Scales((0.0,) * count, (1.0,) * count, doses)
    transformed = identity.normalize(disease, np.nan_to_num(grid.values.astype(np.float64)))
    center, scale = [], []
    for j, variable in enumerate(disease.variables):
        seen = transformed[..., j][grid.mask[..., j]]
        # What was never observed, or never varies, is carried by the default.
        known = seen.size > 1 and seen.std() >= 1e-6
        center.append(round(float(seen.mean()), 4) if known else variable.center)
        scale.append(round(float(seen.std()), 4) if known else variable.scale)
    inside = np.arange(grid.treatment.shape[1])[None] < grid.length[:, None]
    upper = []
    for j, treatment in enumerate(disease.treatments):
        # The 99.5th percentile of what was charted, within a range: outliers must not set the scale.
        low, high = treatment.upper_range or (treatment.upper, treatment.upper)
        dose = grid.treatment[..., j][inside]
        top = float(np.quantile(dose, 0.995)) if dose.any() else treatment.upper
        upper.append(round(float(np.clip(top, low, high)), 3))
    return Scales(tuple(center), tuple(scale), tuple(upper))


def start_states(values: np.ndarray, mask: np.ndarray, disease: Disease) -> np.ndarray:
    """Causal state at each hour: last usable value carried forward; a weighted mean where the component is `smoothed`.

    Before its first usable value a variable takes that value (there is nothing else to start from), and 0, the
    cohort's mean, where it has none at all.

    Args:
        values: (P, T, V) normalized.
        mask: (P, T, V) usable.
        disease: Says which components are smoothed.

    Returns:
        (P, T, V).
    """
    patients, hours, count = values.shape
    last = _first(values, mask)
    decay = np.exp(-1.0 / SMOOTHING_STEPS)
    total, weight = np.zeros((patients, count)), np.zeros((patients, count))
    out = np.empty((patients, hours, count), np.float32)
    smooth = np.array([v.smoothed for v in disease.variables])
    for t in range(hours):
        seen = mask[:, t]
        last = np.where(seen, values[:, t], last)
        total, weight = decay * total + seen * values[:, t], decay * weight + seen
        mean = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), last)
        out[:, t] = np.where(smooth, mean, last)
    return out


def fit_data(grid: GridCohort, disease: Disease, scales: Scales | None = None) -> FitData:
    """The hourly grid in normalized coordinates.

    Args:
        grid: Physical units, from `Cohort.to_grid(1.0, horizon)`.
        disease: Gives transforms and bounds.
        scales: Default: estimated from the grid itself.
    """
    scales = scales or cohort_scales(grid, disease)
    hours = grid.values.shape[1]
    mask = grid.mask & (np.arange(hours)[None] < grid.length[:, None])[..., None]
    values = scales.normalize(disease, np.where(mask, grid.values, 1.0).astype(np.float64))
    values = np.where(mask, values, 0.0).astype(np.float32)
    u = scales.normalize_treatment(disease, grid.treatment.astype(np.float64)).astype(np.float32)
    charted = [(j, c.name) for j, c in enumerate(disease.components) if c.kind == "derived"]
    columns = [scales.normal_column(disease, grid.derived[name], j) for j, name in charted]
    derived = np.stack(columns, -1) if columns else np.zeros((*values.shape[:2], 0))
    length, start = grid.length.astype(np.int64), start_states(values, mask, disease)
    return FitData(disease, tuple(grid.patients), scales, values, mask, u, derived.astype(np.float32), length, start)


def block_steps(parity: int, disease: Disease) -> np.ndarray:
    """(T,) steps in the disease's blocks with the given parity; cross-fitting splits a record by these."""
    return (np.arange(round(disease.process.horizon)) // disease.process.block) % 2 == parity


def clinician_schedule(data: FitData) -> np.ndarray:
    """(P, T, treatments) charted treatment per step; after the stay's end, the mean of its last 24 hours."""
    schedule = data.u.copy()
    for i, end in enumerate(data.length):
        schedule[i, end:] = data.u[i, max(0, end - 24) : end].mean(0)
    return schedule
