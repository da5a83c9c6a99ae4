"""Residual noise, estimated from the errors of holds that begin and end at an observation.

For two observations of one variable, g = 1 to 12 hours apart, the simulator is started from the record at the first and
held under the charted treatment to the second. The squared error is about

    E[e^2] = f_p (m + v g)       m: measurement error at both ends, v = sigma^2: residual variance per hour

with a level f_p of the patient. All pairs are used, not consecutive ones alone: a variable charted hourly says nothing
about longer gaps otherwise, and one charted only when the patient is unstable says the wrong thing. A pair weighs one
over the number of pairs that end at the same observation, so an observation counts once.

(m, v) of the cohort has a posterior on a grid: a Gaussian quasi-likelihood of the errors, tempered by the dispersion of
the slope's score over patients (heavy tails, overlapping holds and differing patients carry less information than
their count), times a prior: sigma is the default within a factor of two (one standard deviation of its logarithm), m is
flat in its logarithm. The estimate is the posterior's geometric mean, with its 90 % interval. Where the records say
nothing, that is the default; where they say much, the prior is lost. Levels are shrunk as
f_p = (n0 + sum e^2 / (m + v g)) / (n0 + n_p).

Variance is linear in time, so two half-steps have the noise of one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import FitData

__all__ = ["estimate_noise", "interval_residuals", "noise_variance", "one_step_residuals"]

LARGEST_GAP = 12
LEVEL_OBSERVATIONS = 20.0
"""n0: the cohort's level counts as this many observations of a patient."""
PRIOR_FACTOR = 2.0
"""The prior's standard deviation of log sigma is the logarithm of this."""
FACTOR = (0.25, 4.0)
"""A patient's noise stays between these fractions of the default."""
CLIP = 25.0
"""Squared errors are cut at this many times their median: charting errors must not set the variance."""


def interval_residuals(bank: SimulatorBank, data: FitData, hidden: np.ndarray) -> np.ndarray:
    """Errors of all intervals of 1 to 12 h that begin and end at an observation of the variable.

    Args:
        bank: Simulators, one per patient of `data`, without noise.
        data: Observations.
        hidden: (P, T, H) hidden components at each hour.

    Returns:
        (12, P, T, V) normalized, at the later hour; NaN where there is no such pair.
    """
    x = torch.from_numpy(np.concatenate([data.start, data.derived, hidden], -1)).float()
    u, hour = torch.from_numpy(data.u), torch.ones(data.u.shape[:2])
    solver, out = bank.with_backend("ode"), np.full((LARGEST_GAP, *data.values.shape), np.nan, np.float32)
    with torch.inference_mode():
        for step in range(1, min(LARGEST_GAP, data.u.shape[1] - 1) + 1):
            # All start hours advance together: row t is the forecast from t for t + step.
            x = solver.flow(x, torch.roll(u, -(step - 1), 1), hour)
            error = data.values[:, step:] - x[:, :-step, : data.values.shape[-1]].numpy()
            out[step - 1, :, step:] = np.where(data.mask[:, step:] & data.mask[:, :-step], error, np.nan)
    return out


def one_step_residuals(bank: SimulatorBank, data: FitData, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forecast errors from the hour of a variable's previous value to its next, at most 12 hours later.

    Args:
        bank, data, hidden: As for :func:`interval_residuals`.

    Returns:
        `error` (P, T, V) normalized, NaN where there is none; `gap` (P, T, V) hours; both at the later hour.
    """
    hours = np.arange(data.mask.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(data.mask, hours, -1), 1)
    previous = np.concatenate([np.full_like(last[:, :1], -1), last[:, :-1]], 1)
    usable = data.mask & (previous >= 0) & (hours - previous <= LARGEST_GAP)
    gap = np.where(usable, hours - previous, 0)
    error = np.take_along_axis(interval_residuals(bank, data, hidden), np.maximum(gap, 1)[None] - 1, 0)[0]
    return np.where(usable, error, np.float32(np.nan)), gap


def noise_variance(error: np.ndarray, default: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Posterior of the noise of one variable.

    Args:
        error: (G, P, T) errors of intervals of 1..G hours, NaN where there is none.
        default: Prior median of sigma, SD per square root of an hour.

    Returns:
        (P,) each patient's sigma; and of the cohort, rounded: sigma (geometric mean), its 90 % interval, m, the number
        of observations at which an interval ends, the dispersion (variance of the slope's score over that of
        independent Gaussian errors; at least 1), and the prior. All is the prior's where no interval ends.
    """
    seen = np.isfinite(error)
    gap = np.arange(1.0, len(error) + 1.0)
    pairs = seen.sum(0)
    share = seen / np.maximum(pairs, 1)  # (G, P, T): an observation counts once
    weight = share.sum(2)  # (G, P)
    grid = np.linspace(-4.0, 4.0, 161)
    sigmas, mass = default * PRIOR_FACTOR**grid, np.exp(-0.5 * grid**2)
    prior, measurement, dispersion = mass, 0.0, 1.0
    level: np.ndarray = np.ones(error.shape[1])
    sigma = _geometric_mean(sigmas, mass)
    if seen.any():
        squared = np.where(seen, error.astype(float), 0.0) ** 2
        squared = np.minimum(squared, CLIP * np.median(squared[seen]) + 1e-9)
        total = (share * squared).sum(2)  # (G, P)
        measurements = total.sum() / weight.sum() * np.logspace(-3.0, 0.5, 100)
        for step in range(6):
            if step:
                mean = measurement + sigma**2 * gap
                level = (LEVEL_OBSERVATIONS + (total / mean[:, None]).sum(0)) / (LEVEL_OBSERVATIONS + weight.sum(0))
                dispersion = _dispersion(weight, total / level, mean, gap)
            mu = measurements[:, None, None] + sigmas[None, :, None] ** 2 * gap  # (M, S, G)
            expected = weight.sum(1) * np.log(mu) + (total / level).sum(1) / mu
            likelihood = -0.5 * expected.sum(2) / dispersion
            posterior = np.exp(likelihood - likelihood.max()) * prior
            posterior /= posterior.sum()
            mass = posterior.sum(0)
            sigma, measurement = _geometric_mean(sigmas, mass), float(np.exp(posterior.sum(1) @ np.log(measurements)))
    return sigma * np.sqrt(level), {
        "sigma": round(sigma, 4),
        "interval_90": [round(float(s), 4) for s in np.interp((0.05, 0.95), np.cumsum(mass / mass.sum()), sigmas)],
        "measurement_variance": round(measurement, 4),
        "observations": int((pairs > 0).sum()),
        "dispersion": round(dispersion, 2),
        "prior": default,
    }


def _geometric_mean(sigmas: np.ndarray, mass: np.ndarray) -> float:
    return float(np.exp(mass / mass.sum() @ np.log(sigmas)))


def _dispersion(weight: np.ndarray, total: np.ndarray, mean: np.ndarray, gap: np.ndarray) -> float:
    """Variance of the slope's score, summed within patients, over that of independent Gaussian errors."""
    information = weight.sum(1) / mean**2
    lever = (gap - (information @ gap) / information.sum()) / mean
    score = (lever[:, None] * (total / mean[:, None] - weight)).sum(0)
    expected = 2.0 * (weight.sum(1) * lever**2).sum()
    return max(1.0, float((score**2).sum() / max(expected, 1e-12)))


def estimate_noise(
    bank: SimulatorBank, data: FitData, hidden: np.ndarray
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Residual noise of every patient.

    Args:
        bank, data, hidden: As for :func:`interval_residuals`.

    Returns:
        (P, D) residual SD per square root of the unit of time, normalized; and per variable sigma, its 90 % interval,
        m, and what they rest on, for a bank's metadata.
    """
    noise = np.tile(np.array([c.noise for c in data.disease.components], np.float32), (len(data.patients), 1))
    error, found = interval_residuals(bank, data, hidden), {}
    for j, variable in enumerate(data.disease.variables):
        sigma, found[variable.name] = noise_variance(error[..., j], variable.noise)
        low, high = (f * variable.noise for f in FACTOR)
        noise[:, j] = np.clip(sigma, low, high)
    return noise, found
