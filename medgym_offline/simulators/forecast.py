"""Forecasts of observations a simulator never saw: Ind against Pop, persistence and the patient's mean.

The `own` world is fitted to the even 12-hour blocks of every stay; here it forecasts the observations of the odd
blocks, each from the hour of the variable's previous observation (at most 12 h before). The start state may come from
anywhere earlier in the record, as at the bedside. Errors are in SD of the cohort, so NMSE is against variance 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from medgym_offline.errors import BankError
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import FitData, block_hours
from medgym_offline.simulators.field import FieldParameters
from medgym_offline.simulators.needs import shock_course
from medgym_offline.simulators.noise import one_step_residuals

__all__ = ["forecast_held_out", "population_for_all"]

MODELS = ("ind", "pop", "persistence", "patient mean")


def population_for_all(bank: SimulatorBank) -> SimulatorBank:
    """The population simulator once per patient of `bank`, so that both answer for the same rows."""
    one = bank.population()
    world = one._worlds["own"]
    index = torch.zeros(len(bank), dtype=torch.long)
    params = type(world.params)(**{n: t[index] for n, t in world.params.tensors().items()})
    copies = World(params, world.noise[index], bank.initial_state(), None)
    return bank._with(_worlds={"own": copies}, current_world="own", backend="ode")


def _need(bank: SimulatorBank) -> np.ndarray:
    """(P, 3) needs of the fitted field in the `own` world."""
    params = bank._worlds["own"].params
    if not isinstance(params, FieldParameters):
        raise BankError(f"bank {bank.name!r}: its own world is no fitted field, so it cannot be forecast from a record")
    return params.need.numpy()


def forecast_held_out(bank: SimulatorBank, data: FitData, parity: int = 1) -> dict[str, Any]:
    """Errors on the blocks of the given parity (1: those the `own` world never saw).

    Args:
        bank: A fitted bank, one patient per row of `data`.
        data: The whole cohort's grid, in the bank's scales.
        parity: Blocks to forecast.

    Returns:
        Per model: MAE per variable, their mean, NMSE; counts; and paired over patients: share where Ind is better
        than each other model, with the Wilcoxon p-value.
    """
    hours = block_hours(parity, data.values.shape[1])
    shock = shock_course(bank.physics, _need(bank), data.u)
    errors: dict[str, np.ndarray] = {}
    errors["ind"], gap, _ = one_step_residuals(bank, data, shock)
    pop = population_for_all(bank)
    pop_shock = shock_course(bank.physics, _need(pop), data.u)
    errors["pop"], _, _ = one_step_residuals(pop, data, pop_shock)
    used = np.isfinite(errors["ind"]) & hours[None, :, None]
    row = np.arange(len(data.patients))[:, None, None]
    previous = np.maximum(np.arange(data.values.shape[1])[None, :, None] - gap.astype(int), 0)
    errors["persistence"] = data.values - data.start[row, previous, np.arange(6)[None, None]]
    seen = data.restrict(block_hours(1 - parity, data.values.shape[1]))
    count = np.maximum(seen.mask.sum(1), 1)
    mean = (seen.values * seen.mask).sum(1) / count
    errors["patient mean"] = data.values - mean[:, None]
    out: dict[str, Any] = {"counts": [int(n) for n in used.sum((0, 1))], "models": {}}
    per_patient = {}
    for name in MODELS:
        e = np.where(used, np.nan_to_num(errors[name]), 0.0)
        total = np.maximum(used.sum((0, 1)), 1)
        mae, mse = np.abs(e).sum((0, 1)) / total, (e**2).sum((0, 1)) / total
        out["models"][name] = {
            "mae": [round(float(m), 4) for m in mae],
            "mae_mean": round(float(mae.mean()), 4),
            "nmse_mean": round(float(mse.mean()), 4),
        }
        # A patient counts through the mean over variables, so that hourly SpO2 does not drown the laboratory.
        n = used.sum(1)
        per_variable = np.where(n > 0, np.abs(e).sum(1) / np.maximum(n, 1), np.nan)
        per_patient[name] = np.nanmean(per_variable[(n > 0).any(1)], 1)
    out["paired"] = {}
    for name in MODELS[1:]:
        gain = per_patient[name] - per_patient["ind"]
        out["paired"][name] = {
            "ind_better": round(float((gain > 0).mean()), 3),
            "median_gain": round(float(np.median(gain)), 4),
            "p": float(wilcoxon(gain).pvalue) if np.abs(gain).max() > 0 else 1.0,
        }
    return out
