"""Simulators against the record: forecasts of observations they never saw, and free rollouts.

The `own` world is fitted to the even blocks of every stay. :func:`forecast_unseen` forecasts the observations of the
odd blocks, each from the hour of the variable's previous observation (at most 12 h before). The start state may come
from anywhere earlier in the record, as at the bedside. A rollout (:func:`rollout_errors`; arXiv 2606.01028, figures 3
and 7) is free: it never sees an observation after the first state. Errors are in SD of the cohort, so NMSE is against
variance 1.
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
from medgym_offline.simulators.noise import one_step_residuals

__all__ = ["compare", "follow", "forecast_unseen", "free_rollout", "rollout_errors"]


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
