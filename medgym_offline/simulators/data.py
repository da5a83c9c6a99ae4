"""From a cohort's hourly grid to what a fit reads: normalised values, masks, treatments and causal start states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.disease import Disease, Scales
from medgym_offline.sepsis import SEPSIS

if TYPE_CHECKING:
    from medgym_offline.cohorts import GridCohort

__all__ = ["FitData", "block_hours", "clinician_schedule", "cohort_scales", "fit_data", "start_states"]

HORIZON = 96
SMOOTHED = (0, 4)  # SpO2 and urine are noisy and frequent: their start value is an exponentially weighted mean
SMOOTHING_HOURS = 2.0
# Doses at u = 1 are the 99.5th percentile of all charted hours, kept within these: outliers must not set the scale.
UPPER_RANGE = ((100.0, 100.0), (0.3, 1.5), (500.0, 2000.0))


@dataclass(frozen=True)
class FitData:
    """A cohort in normalised coordinates on an hourly grid, T = 96.

    Attributes:
        patients: Ids.
        scales: The cohort's affine maps.
        values: (P, T, 6) normalised medians per hour, 0 where nothing was observed.
        mask: (P, T, 6) whether the value may be used.
        u: (P, T, 3) treatment of the hour, in [0, 1].
        balance: (P, T) charted fluid balance at the hour, normalised.
        length: (P,) hours of the stay on the grid.
        start: (P, T, 6) causal state at each hour from usable values only (see `start_states`).
    """

    patients: tuple[str, ...]
    scales: Scales
    values: np.ndarray
    mask: np.ndarray
    u: np.ndarray
    balance: np.ndarray
    length: np.ndarray
    start: np.ndarray

    def restrict(self, hours: np.ndarray) -> FitData:
        """The same cohort with values usable only at `hours`, (T,) or (P, T) bool; start states follow."""
        mask = self.mask & (hours if hours.ndim == 2 else hours[None])[..., None]
        return replace(self, mask=mask, start=start_states(self.values, mask))

    def stack(self, other: FitData) -> FitData:
        """Both cohorts one after the other, as one stack."""
        pairs: dict[str, Any] = {
            n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("values", "mask", "u")
        }
        pairs |= {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("balance", "length", "start")}
        return replace(self, patients=self.patients + other.patients, **pairs)

    def first_state(self) -> np.ndarray:
        """(P, 6) first observed value of each variable; 0 (the cohort's mean) where it was never observed."""
        index = self.mask.argmax(1)
        first = np.take_along_axis(self.values, index[:, None], 1)[:, 0]
        return np.where(self.mask.any(1), first, 0.0).astype(np.float32)


def cohort_scales(grid: GridCohort, disease: Disease = SEPSIS) -> Scales:
    """Centre and scale of every variable over all observed hours, and the doses at u = 1.

    Args:
        grid: Hourly grid in physical units.
        disease: Gives transforms and bounds.
    """
    identity = Scales((0.0,) * 6, (1.0,) * 6, tuple(t.upper for t in disease.treatments))
    transformed = identity.normalize(disease, np.nan_to_num(grid.values.astype(np.float64)))
    center, scale = [], []
    for j, variable in enumerate(disease.variables):
        seen = transformed[..., j][grid.mask[..., j]]
        if seen.size < 2 or seen.std() < 1e-6:  # never observed, or never varies: the default carries it
            center.append(variable.center)
            scale.append(variable.scale)
        else:
            center.append(round(float(seen.mean()), 4))
            scale.append(round(float(seen.std()), 4))
    inside = np.arange(grid.treatment.shape[1])[None] < grid.length[:, None]
    upper = []
    for j, (low, high) in enumerate(UPPER_RANGE):
        dose = grid.treatment[..., j][inside]
        top = float(np.quantile(dose, 0.995)) if dose.any() else disease.treatments[j].upper
        upper.append(round(float(np.clip(top, low, high)), 3))
    return Scales(tuple(center), tuple(scale), tuple(upper))


def start_states(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Causal state at each hour: last usable value carried forward, smoothed for SpO2 and urine.

    Before its first usable value a variable takes that value (there is nothing else to start from), and 0, the
    cohort's mean, where it has none at all.

    Args:
        values: (P, T, 6) normalised.
        mask: (P, T, 6) usable.

    Returns:
        (P, T, 6).
    """
    patients, hours, count = values.shape
    first = np.where(mask.any(1), np.take_along_axis(values, mask.argmax(1)[:, None], 1)[:, 0], 0.0)
    last = first.copy()
    decay = np.exp(-1.0 / SMOOTHING_HOURS)
    total, weight = np.zeros((patients, count)), np.zeros((patients, count))
    out = np.empty((patients, hours, count), np.float32)
    smooth = np.isin(np.arange(count), SMOOTHED)
    for t in range(hours):
        seen = mask[:, t]
        last = np.where(seen, values[:, t], last)
        total, weight = decay * total + seen * values[:, t], decay * weight + seen
        mean = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), last)
        out[:, t] = np.where(smooth, mean, last)
    return out


def fit_data(grid: GridCohort, scales: Scales | None = None, disease: Disease = SEPSIS) -> FitData:
    """The hourly grid in normalised coordinates.

    Args:
        grid: Physical units, from `Cohort.to_grid(1.0, 96)`.
        scales: Default: estimated from the grid itself.
        disease: Gives transforms and bounds.
    """
    scales = scales or cohort_scales(grid, disease)
    hours = grid.values.shape[1]
    mask = grid.mask & (np.arange(hours)[None] < grid.length[:, None])[..., None]
    values = scales.normalize(disease, np.where(mask, grid.values, 1.0).astype(np.float64))
    values = np.where(mask, values, 0.0).astype(np.float32)
    u = scales.normalize_treatment(disease, grid.treatment.astype(np.float64)).astype(np.float32)
    low, high = disease.balance_bounds
    balance = (np.clip(grid.derived["fluid_balance"], low, high) / disease.balance_litres).astype(np.float32)
    return FitData(
        tuple(grid.patients), scales, values, mask, u, balance, grid.length.astype(np.int64), start_states(values, mask)
    )


def block_hours(parity: int, hours: int = HORIZON, block: int = 12) -> np.ndarray:
    """(T,) hours in blocks of `block` with the given parity; cross-fitting splits a stay by these."""
    return (np.arange(hours) // block) % 2 == parity


def clinician_schedule(data: FitData) -> np.ndarray:
    """(P, 96, 3) charted treatment per hour; after the stay's end, the mean of its last 24 hours."""
    schedule = data.u.copy()
    for i, end in enumerate(data.length):
        schedule[i, end:] = data.u[i, max(0, end - 24) : end].mean(0)
    return schedule
