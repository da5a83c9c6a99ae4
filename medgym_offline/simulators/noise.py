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

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import FitData

__all__ = ["Noise", "estimate_noise", "interval_residuals", "noise_variance", "one_step_residuals"]

LARGEST_GAP = 12
LEVEL_OBSERVATIONS = 20.0
"""n0: the cohort's level counts as this many observations of a patient."""
PRIOR_FACTOR = 2.0
"""The prior's standard deviation of log sigma is the logarithm of this."""
FACTOR = (0.25, 4.0)
"""A patient's noise stays between these fractions of the default."""
CLIP = 25.0
"""Squared errors are cut at this many times their median: charting errors must not set the variance."""


@dataclass(frozen=True)
class Noise:
    """Posterior of one variable's noise.

    Attributes:
        sigma: SD per square root of an hour, geometric mean.
        low, high: 5th and 95th percentile.
        measurement: m, variance of an interval of no length.
        level: (P,) f_p of each patient.
        observations: Observations at which an interval ends.
        dispersion: Variance of the slope's score over that of independent Gaussian errors; at least 1.
    """

    sigma: float
    low: float
    high: float
    measurement: float
    level: np.ndarray
    observations: int
    dispersion: float


def one_step_residuals(
    bank: SimulatorBank, data: FitData, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forecast errors from the hour of a variable's previous value to its next, at most 12 hours later.

    Args:
        bank: Simulators, one per patient of `data`, without noise.
        data: Observations.
        hidden: (P, T, H) hidden components at each hour.

    Returns:
        `error` (P, T, V) normalized, NaN where there is none; `gap` (P, T, V) hours; both at the later hour;
        `forecast` (P, T, V).
    """
    patients, hours, count = data.values.shape
    previous = np.full((patients, hours, count), -1)
    last = np.full((patients, count), -1)
    for t in range(hours):
        previous[:, t] = last
        last = np.where(data.mask[:, t], t, last)
    gap = np.arange(hours)[None, :, None] - previous
    usable = data.mask & (previous >= 0) & (gap <= LARGEST_GAP)
    error = np.full(data.values.shape, np.nan, np.float32)
    forecast = np.full(data.values.shape, np.nan, np.float32)
    for step, value in enumerate(_intervals(bank, data, hidden), 1):
        at = np.arange(step, hours)
        hit = usable[:, at] & (gap[:, at] == step)
        error[:, at] = np.where(hit, data.values[:, at] - value, error[:, at])
        forecast[:, at] = np.where(hit, value, forecast[:, at])
    return error, np.where(usable, gap, 0), forecast


def _intervals(bank: SimulatorBank, data: FitData, hidden: np.ndarray) -> list[np.ndarray]:
    """Forecasts 1, 2, ... hours after every hour: element g - 1 is (P, T - g, V), its row t the forecast for t + g."""
    x = torch.from_numpy(np.concatenate([data.start, data.derived, hidden], -1)).float()
    u, hour = torch.from_numpy(data.u), torch.ones(data.u.shape[:2])
    solver, out = bank.with_backend("ode"), []
    with torch.inference_mode():
        for step in range(1, min(LARGEST_GAP, data.u.shape[1] - 1) + 1):
            # All start hours advance together.
            x = solver.flow(x, torch.roll(u, -(step - 1), 1), hour)
            out.append(x[:, : data.u.shape[1] - step, : data.values.shape[-1]].numpy().copy())
    return out


def interval_residuals(bank: SimulatorBank, data: FitData, hidden: np.ndarray) -> np.ndarray:
    """Errors of all intervals of 1 to 12 h that begin and end at an observation of the variable.

    Args:
        bank, data, hidden: As for :func:`one_step_residuals`.

    Returns:
        (12, P, T, 6) normalized, at the later hour; NaN where there is no such pair.
    """
    out = np.full((LARGEST_GAP, *data.values.shape), np.nan, np.float32)
    for step, value in enumerate(_intervals(bank, data, hidden), 1):
        pair = data.mask[:, step:] & data.mask[:, :-step]
        out[step - 1, :, step:] = np.where(pair, data.values[:, step:] - value, np.nan)
    return out


def noise_variance(error: np.ndarray, default: float) -> Noise:
    """Posterior of the noise of one variable.

    Args:
        error: (G, P, T) errors of intervals of 1..G hours, NaN where there is none.
        default: Prior median of sigma, SD per square root of an hour.

    Returns:
        The default, with the prior's interval, where no hold ends at an observation.
    """
    seen = np.isfinite(error)
    gap = np.arange(1.0, len(error) + 1.0)
    pairs = seen.sum(0)
    share = seen / np.maximum(pairs, 1)  # (G, P, T): an observation counts once
    weight = share.sum(2)  # (G, P)
    spread = PRIOR_FACTOR ** np.linspace(-4.0, 4.0, 161)
    prior = np.exp(-0.5 * np.linspace(-4.0, 4.0, 161) ** 2)
    level: np.ndarray = np.ones(error.shape[1])
    if not seen.any():
        return _posterior(default * spread, prior, 0.0, level, 0, 1.0)
    squared = np.where(seen, error.astype(float), 0.0) ** 2
    squared = np.minimum(squared, CLIP * np.median(squared[seen]) + 1e-9)
    total = (share * squared).sum(2)  # (G, P)
    overall = total.sum() / weight.sum()
    measurement = overall * np.logspace(-3.0, 0.5, 100)
    sigma, dispersion, found = default * spread, 1.0, None
    mean: np.ndarray = np.full(len(gap), overall)
    for _ in range(6):
        at_gap, scaled = weight.sum(1), (total / level).sum(1)
        mu = measurement[:, None, None] + sigma[None, :, None] ** 2 * gap  # (M, S, G)
        likelihood = -0.5 * (at_gap * np.log(mu) + scaled / mu).sum(2) / dispersion
        posterior = np.exp(likelihood - likelihood.max()) * prior
        posterior /= posterior.sum()
        over_m = posterior.sum(1)
        found = _posterior(
            sigma,
            posterior.sum(0),
            float(np.exp(over_m @ np.log(measurement))),
            level,
            int((pairs > 0).sum()),
            dispersion,
        )
        mean = found.measurement + found.sigma**2 * gap
        level = (LEVEL_OBSERVATIONS + (total / mean[:, None]).sum(0)) / (LEVEL_OBSERVATIONS + weight.sum(0))
        dispersion = _dispersion(weight, total / level, mean, gap)
    assert found is not None
    return found


def _dispersion(weight: np.ndarray, total: np.ndarray, mean: np.ndarray, gap: np.ndarray) -> float:
    """Variance of the slope's score, summed within patients, over that of independent Gaussian errors."""
    information = weight.sum(1) / mean**2
    lever = (gap - (information @ gap) / information.sum()) / mean
    score = (lever[:, None] * (total / mean[:, None] - weight)).sum(0)
    expected = 2.0 * (weight.sum(1) * lever**2).sum()
    return max(1.0, float((score**2).sum() / max(expected, 1e-12)))


def _posterior(
    sigma: np.ndarray, mass: np.ndarray, measurement: float, level: np.ndarray, observations: int, dispersion: float
) -> Noise:
    mass = mass / mass.sum()
    low, high = np.interp((0.05, 0.95), np.cumsum(mass), sigma)
    middle = float(np.exp(mass @ np.log(sigma)))
    return Noise(middle, float(low), float(high), measurement, level, observations, dispersion)


def estimate_noise(
    bank: SimulatorBank, data: FitData, hidden: np.ndarray
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Residual noise of every patient.

    Args:
        bank, data, hidden: As for :func:`one_step_residuals`.

    Returns:
        (P, D) residual SD per square root of the unit of time, normalized; and per variable sigma, its 90 % interval,
        m, and what they rest on, for a bank's metadata.
    """
    noise = np.tile(np.array([c.noise for c in data.disease.components], np.float32), (len(data.patients), 1))
    error, found = interval_residuals(bank, data, hidden), {}
    for j, variable in enumerate(data.disease.variables):
        posterior = noise_variance(error[..., j], variable.noise)
        low, high = (f * variable.noise for f in FACTOR)
        noise[:, j] = np.clip(posterior.sigma * np.sqrt(posterior.level), low, high)
        found[variable.name] = {
            "sigma": round(posterior.sigma, 4),
            "interval_90": [round(posterior.low, 4), round(posterior.high, 4)],
            "measurement_variance": round(posterior.measurement, 4),
            "observations": posterior.observations,
            "dispersion": round(posterior.dispersion, 2),
            "prior": variable.noise,
        }
    return noise, found
