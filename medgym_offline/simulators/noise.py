"""Residual noise, estimated from one-step residuals of the cohort.

For consecutive observations of one variable, a gap of g hours apart, the squared forecast error is about

    E[e^2] = 2 s^2 + sigma^2 g          s: measurement error (both ends), sigma^2: residual variance per hour

fitted by non-negative least squares over the cohort, then shrunk per patient: sigma_p^2 = sigma^2 (n0 + sum e^2 ratio)
/ (n0 + n_p). Variance is linear in time, so two half-steps have the noise of one step.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls

from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import FitData
from medgym_offline.simulators.prior import NOISE_DEFAULT

__all__ = ["estimate_noise", "noise_variance", "one_step_residuals"]

LARGEST_GAP = 12
SHRINK = 20.0
# Between these fractions of the default: a variable seen four times in a cohort must not get no noise, or all of it.
FACTOR = (0.25, 3.0)


def one_step_residuals(
    bank: SimulatorBank, data: FitData, shock: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forecast errors from the hour of a variable's previous value to its next, at most 12 hours later.

    Args:
        bank: Simulators, one per patient of `data`, without noise.
        data: Observations.
        shock: (P, T) hidden shock severity at each hour.

    Returns:
        `error` (P, T, 6) normalised, NaN where there is none; `gap` (P, T, 6) hours; both at the later hour;
        `forecast` (P, T, 6).
    """
    patients, hours, count = data.values.shape
    previous = np.full((patients, hours, count), -1)
    last = np.full((patients, count), -1)
    for t in range(hours):
        previous[:, t] = last
        last = np.where(data.mask[:, t], t, last)
    gap = np.arange(hours)[None, :, None] - previous
    usable = data.mask & (previous >= 0) & (gap <= LARGEST_GAP)
    start = torch.from_numpy(np.concatenate([data.start, data.balance[..., None], shock[..., None]], -1))
    u = torch.from_numpy(data.u)
    error = np.full(data.values.shape, np.nan, np.float32)
    forecast = np.full(data.values.shape, np.nan, np.float32)
    hour = torch.ones(patients, hours)
    with torch.inference_mode():
        x = start.float()
        solver = bank.with_backend("ode")
        for step in range(1, LARGEST_GAP + 1):
            # All start hours advance together: after `step` hours row t is the forecast for hour t + step.
            treatment = torch.roll(u, -(step - 1), 1)
            x = solver.flow(x, treatment, hour)
            at = np.arange(hours - step) + step
            value = x[:, : hours - step, :6].numpy()
            hit = usable[:, at] & (gap[:, at] == step)
            error[:, at] = np.where(hit, data.values[:, at] - value, error[:, at])
            forecast[:, at] = np.where(hit, value, forecast[:, at])
    return error, np.where(usable, gap, 0), forecast


def noise_variance(error: np.ndarray, gap: np.ndarray) -> tuple[float, float]:
    """Measurement part 2 s^2 and variance per hour sigma^2 from errors (n,) at gaps (n,) hours, both >= 0.

    The variance per hour is the slope of a line. Where the dynamics contract, errors grow less than linearly, and the
    slope is the best line over gaps of 1 to 12 h: what a hold of that length sees, not the instantaneous rate.
    """
    squared = error.astype(float) ** 2
    # Clipped beyond about 3 SD: a handful of charting errors must not set the variance.
    squared = np.minimum(squared, 25.0 * np.median(squared) + 1e-9)
    (measurement, variance), _ = nnls(np.stack([np.ones(len(gap)), gap], 1), squared)
    return float(measurement), float(variance)


def estimate_noise(bank: SimulatorBank, data: FitData, shock: np.ndarray) -> np.ndarray:
    """(P, 8) residual standard deviation per square root of an hour, normalised."""
    error, gap, _ = one_step_residuals(bank, data, shock)
    noise = np.tile(np.array(NOISE_DEFAULT, np.float32), (len(data.patients), 1))
    for j in range(6):
        seen = np.isfinite(error[..., j])
        if seen.sum() < 30:
            continue
        g = gap[..., j][seen].astype(float)
        measurement, variance = noise_variance(error[..., j][seen], g)
        low, high = (f * NOISE_DEFAULT[j] for f in FACTOR)
        cohort = float(np.clip(np.sqrt(variance), low, high))
        expected = measurement + variance * gap[..., j]
        ratio = np.where(seen, np.minimum(error[..., j] ** 2, 9.0 * expected) / np.maximum(expected, 1e-6), 0.0)
        factor = (SHRINK + np.nansum(ratio, 1)) / (SHRINK + seen.sum(1))
        noise[:, j] = np.clip(cohort * np.sqrt(factor), low, high)
    return noise
