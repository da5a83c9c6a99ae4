"""Simulators against the record: forecasts of observations they never saw, and free rollouts.

:func:`forecast_unseen` is the bank's audit: the `own` world is fitted to the even blocks of every stay; here it
forecasts the observations of the odd blocks, each from the hour of the variable's previous observation (at most 12 h
before). The start state may come from anywhere earlier in the record, as at the bedside. Errors are in SD of the
cohort, so NMSE is against variance 1.

A rollout (:func:`rollout_errors`; arXiv 2606.01028, figures 3 and 7) is free: it never sees an observation after the
first state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon
from torch import Tensor

from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import FitData, block_steps
from medgym_offline.simulators.noise import one_step_residuals

__all__ = ["compare", "examples", "follow", "forecast_unseen", "free_rollout", "rollout_errors"]

MODELS = ("ind", "pop", "persistence", "patient mean")


def _population_for_all(bank: SimulatorBank) -> SimulatorBank:
    """The population simulator once per patient of `bank`, so that both answer for the same rows."""
    one = bank.population()
    world = one.current("own")
    index = torch.zeros(len(bank), dtype=torch.long)
    dynamics: Any = type(world.params)
    params = dynamics(**{n: t[index] for n, t in world.params.tensors().items()})
    copies = World(params, world.noise[index], bank.initial_state(), None)
    return bank.replace(world_data={"own": copies}, current_world="own", flow_by="ode")


def _hidden_course(bank: SimulatorBank, data: FitData) -> np.ndarray:
    """(P, T, H) hidden components of the `own` world along a record's treatment; `BankError` if it was not fitted."""
    model = bank.disease.load_model()
    return model.hidden_course(bank.physics, model.given_of(bank.current("own").params), data.u)


def forecast_unseen(bank: SimulatorBank, data: FitData, parity: int = 1) -> dict[str, Any]:
    """Errors on the blocks of the given parity (1: those the `own` world never saw).

    Args:
        bank: A fitted bank, one patient per row of `data`.
        data: The whole cohort's grid, in the bank's scales.
        parity: Blocks to forecast.

    Returns:
        Per model: MAE per variable, their mean, NMSE; counts; and paired over patients: share where Ind is better
        than each other model, with the Wilcoxon p-value.
    """
    hours = block_steps(parity, bank.disease)
    errors: dict[str, np.ndarray] = {}
    errors["ind"], gap = one_step_residuals(bank, data, _hidden_course(bank, data))
    pop = _population_for_all(bank)
    errors["pop"], _ = one_step_residuals(pop, data, _hidden_course(pop, data))
    used = np.isfinite(errors["ind"]) & hours[None, :, None]
    row = np.arange(len(data.patients))[:, None, None]
    previous = np.maximum(np.arange(data.values.shape[1])[None, :, None] - gap, 0)
    errors["persistence"] = data.values - data.start[row, previous, np.arange(data.values.shape[-1])[None, None]]
    seen = data.restrict(block_steps(1 - parity, bank.disease))
    count = np.maximum(seen.mask.sum(1), 1)
    mean = (seen.values * seen.mask).sum(1) / count
    errors["patient mean"] = data.values - mean[:, None]
    return compare({name: errors[name] for name in MODELS}, used)


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
        `counts` per variable; per model MAE per variable, their mean, NMSE (against cohort variance 1); `paired`: share
        of patients where the first model is better, median gain, Wilcoxon p-value.
    """
    out: dict[str, Any] = {"counts": [int(n) for n in used.sum((0, 1))], "models": {}}
    per_patient = {name: _patient_errors(e, used) for name, e in errors.items()}
    for name, error in errors.items():
        e = np.where(used, np.nan_to_num(error), 0.0)
        total = np.maximum(used.sum((0, 1)), 1)
        mae, mse = np.abs(e).sum((0, 1)) / total, (e**2).sum((0, 1)) / total
        out["models"][name] = {
            "mae": [round(float(m), 4) for m in mae],
            "mae_mean": round(float(mae.mean()), 4),
            "nmse_mean": round(float(mse.mean()), 4),
        }
    first, *others = per_patient
    out["paired"] = {name: _paired(per_patient[first], per_patient[name], first) for name in others}
    return out


def _paired(first: np.ndarray, other: np.ndarray, name: str = "ind") -> dict[str, float]:
    """Errors (P,) of a model against another's, over patients who have both: share better, median gain, Wilcoxon p."""
    gain = (other - first)[np.isfinite(other - first)]
    return {
        f"{name}_better": round(float((gain > 0).mean()), 3),
        "median_gain": round(float(np.median(gain)), 4),
        "p": float(wilcoxon(gain).pvalue) if np.abs(gain).max() > 0 else 1.0,
    }


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


def rollout_errors(bank: SimulatorBank, data: FitData) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Full-horizon errors of Ind and Pop on fitted and on held-out blocks, and the rollouts.

    Args:
        bank: A fitted bank, one patient per row of `data`, world `own`.
        data: The cohort's grid in the bank's scales.

    Returns:
        {blocks: {model: {"mae", "rmse", "nmse": {"mean": ..., variable: ...}}}} with blocks `fitted` and `held out`
        (normalized units; NMSE against the variance of the observations), and {"ind", "pop": (P, T, V)}.
    """
    own = bank.world("own")
    paths = {"ind": free_rollout(own, data), "pop": free_rollout(_population_for_all(own), data)}
    later = np.arange(data.values.shape[1]) > 0
    out: dict[str, Any] = {}
    for name, parity in (("fitted", 0), ("held out", 1)):
        used = data.mask & (block_steps(parity, bank.disease) & later)[None, :, None]
        out[name] = {model: _errors(data, path, used) for model, path in paths.items()}
    return out, paths


def _errors(data: FitData, path: np.ndarray, used: np.ndarray) -> dict[str, dict[str, float]]:
    """Error -> variable -> mean over the observations `used` (P, T, V); a variable with fewer than two has none."""
    seen = np.where(used & (used.sum((0, 1)) > 1), data.values.astype(float), np.nan)
    error = path - seen
    with warnings.catch_warnings():  # a variable without observations has a mean of nothing
        warnings.simplefilter("ignore", RuntimeWarning)
        square, spread = np.nanmean(error**2, (0, 1)), np.maximum(np.nanvar(seen, (0, 1)), 1e-9)
        found = {"mae": np.nanmean(np.abs(error), (0, 1)), "rmse": square**0.5, "nmse": square / spread}
    names = [v.name for v in data.disease.variables]
    return {
        metric: {"mean": round(float(np.nanmean(values)), 4)}
        | {name: round(float(v), 4) for name, v in zip(names, values) if np.isfinite(v)}
        for metric, values in found.items()
    }


def examples(data: FitData, path: np.ndarray, count: int = 6) -> list[int]:
    """Rows of `count` patients spread evenly from the best to the worst rollout, so that none is hand-picked.

    Among patients with at least four observations of the monitored variable; by mean absolute error.
    """
    seen, score = data.mask.sum(1), _patient_errors(path - data.values, data.mask)
    known = np.flatnonzero(seen[:, data.disease.monitored] >= 4)
    known = known if known.size else np.flatnonzero(seen.sum(1) > 0)
    order = known[np.argsort(score[known], kind="stable")]
    return [int(order[round(q)]) for q in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round())]
