"""Simulators against the record: forecasts of observations they never saw, and free rollouts.

The `own` world is fitted to the even blocks of every stay. :func:`forecast_unseen` forecasts the observations of the
odd blocks, each from the hour of the variable's previous observation (at most 12 h before). The start state may come
from anywhere earlier in the record, as at the bedside. A rollout (:func:`rollout_errors`; arXiv 2606.01028, figures 3
and 7) is free: it never sees an observation after the first state. Errors are in SD of the cohort, so NMSE is against
variance 1.

Residual noise is estimated from the errors of holds that begin and end at an observation.

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

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon
from torch import Tensor

from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import FitData, block_steps

__all__ = [
    "compare", "estimate_noise", "follow", "forecast_unseen", "free_rollout", "interval_residuals", "noise_variance",
    "one_step_residuals", "rollout_errors",
]  # fmt: skip

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


def _population_for_all(bank: SimulatorBank) -> SimulatorBank:
    """The population simulator once per patient of `bank`, so that both answer for the same rows."""
    world = bank.population().current().select(torch.zeros(len(bank), dtype=torch.long))
    copies = World(world.params, world.noise, bank.initial_state())
    return bank.replace(world_data={"own": copies}, current_world="own", flow_by="ode")


def forecast_unseen(bank: SimulatorBank, data: FitData) -> dict[str, Any]:
    """Errors on the odd blocks, which the `own` world never saw, as of :func:`compare`.

    Args:
        bank: A fitted bank, one patient per row of `data`.
        data: The whole cohort's grid, in the bank's scales.
    """
    model, errors = bank.disease.load_model(), {}
    for name, one in (("ind", bank), ("pop", _population_for_all(bank))):
        hidden = model.hidden_course(bank.physics, model.given_of(one.current().params), data.u)
        errors[name], gap = one_step_residuals(one, data, hidden)
    used = np.isfinite(errors["ind"]) & block_steps(1, bank.disease)[None, :, None]
    previous = np.maximum(np.arange(data.values.shape[1])[None, :, None] - gap, 0)
    errors["persistence"] = data.values - np.take_along_axis(data.start, previous, 1)
    seen = data.mask & block_steps(0, bank.disease)[None, :, None]
    mean = (data.values * seen).sum(1) / np.maximum(seen.sum(1), 1)
    errors["patient mean"] = data.values - mean[:, None]
    return compare(errors, used)


def _patient_errors(error: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(P,) mean absolute error of each patient from errors (P, T, V) at `used`; NaN where none is.

    The mean is over variables first, so that what is measured hourly does not drown the laboratory.
    """
    n = used.sum(1)
    total = np.abs(np.where(used, np.nan_to_num(error), 0.0)).sum(1)
    seen = (n > 0).sum(1)
    mean = np.where(n > 0, total / np.maximum(n, 1), 0.0).sum(1) / np.maximum(seen, 1)
    return np.where(seen > 0, mean, np.nan)


def compare(errors: dict[str, np.ndarray], used: np.ndarray) -> dict[str, Any]:
    """Models beside each other on the same observations, the first against every other paired over patients.

    Args:
        errors: Per model, (P, T, V) normalized errors.
        used: (P, T, V) observations that count.

    Returns:
        `counts` per variable; per model MAE per variable, and means over variables of MAE, RMSE and NMSE (against
        cohort variance 1); `paired`: share of patients where the first model is better, median gain, Wilcoxon p-value.
    """
    total = np.maximum(used.sum((0, 1)), 1)
    out: dict[str, Any] = {"counts": used.sum((0, 1)).tolist(), "models": {}, "paired": {}}
    for name, error in errors.items():
        e = np.where(used, np.nan_to_num(error), 0.0)
        mae, mse = np.abs(e).sum((0, 1)) / total, (e**2).sum((0, 1)) / total
        means = {"mae_mean": mae.mean(), "rmse_mean": np.sqrt(mse).mean(), "nmse_mean": mse.mean()}
        out["models"][name] = {"mae": [round(float(m), 4) for m in mae]}
        out["models"][name] |= {metric: round(float(value), 4) for metric, value in means.items()}
    (first, ours), *others = ((name, _patient_errors(e, used)) for name, e in errors.items())
    for name, theirs in others:
        gain = (theirs - ours)[np.isfinite(theirs - ours)]
        out["paired"][name] = {
            f"{first}_better": round(float((gain > 0).mean()), 3),
            "median_gain": round(float(np.median(gain)), 4),
            "p": float(wilcoxon(gain).pvalue) if np.abs(gain).max() > 0 else 1.0,
        }
    return out


def follow(flow: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, schedule: Tensor) -> Tensor:
    """(P, B, D) and (P, B, H, treatments) -> states after each unit of time, (P, B, H, D)."""
    out, hour = [], torch.ones(x.shape[:2])
    with torch.inference_mode():
        for t in range(schedule.shape[2]):
            x = flow(x, schedule[:, :, t], hour)
            out.append(x)
    return torch.stack(out, 2)


def free_rollout(bank: SimulatorBank, data: FitData) -> np.ndarray:
    """(P, T, V) normalized course, hour by hour, of every patient under the charted treatment (solver, no noise)."""
    solver = bank.with_backend("ode")
    first = solver.initial_state().unsqueeze(1)
    later = follow(solver.flow, first, torch.from_numpy(data.u[:, None, :-1]))[:, 0]
    return torch.cat([first, later], 1)[..., : data.values.shape[-1]].numpy()


def rollout_errors(bank: SimulatorBank, data: FitData) -> dict[str, Any]:
    """Full-horizon errors of Ind and Pop on "fitted" and on "held out" blocks, each as of :func:`compare`.

    Args:
        bank: A fitted bank, one patient per row of `data`, world `own`.
        data: The cohort's grid in the bank's scales.
    """
    both = {"ind": bank, "pop": _population_for_all(bank)}
    errors = {name: free_rollout(one, data) - data.values for name, one in both.items()}
    later = np.arange(data.values.shape[1]) > 0
    blocks = {"fitted": block_steps(0, bank.disease) & later, "held out": block_steps(1, bank.disease) & later}
    return {name: compare(errors, data.mask & hours[None, :, None]) for name, hours in blocks.items()}
