"""Forecasts of observations a simulator never saw: Ind against Pop, persistence and the patient's mean.

:func:`forecast_ahead` forecasts a day from one hour. :func:`forecast_unseen` is the bank's audit: the `own` world is
fitted to the even blocks of every stay; here it forecasts the observations of the odd blocks, each from the
hour of the variable's previous observation (at most 12 h before). The start state may come from anywhere earlier in the
record, as at the bedside. Errors are in SD of the cohort, so NMSE is against variance 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import FitData, block_steps
from medgym_offline.simulators.noise import one_step_residuals

__all__ = [
    "compare",
    "forecast_ahead",
    "forecast_unseen",
    "hidden_course",
    "paired",
    "patient_errors",
    "population_for_all",
]

MODELS = ("ind", "pop", "persistence", "patient mean")


def population_for_all(bank: SimulatorBank) -> SimulatorBank:
    """The population simulator once per patient of `bank`, so that both answer for the same rows."""
    one = bank.population()
    world = one.current("own")
    index = torch.zeros(len(bank), dtype=torch.long)
    dynamics: Any = type(world.params)
    params = dynamics(**{n: t[index] for n, t in world.params.tensors().items()})
    copies = World(params, world.noise[index], bank.initial_state(), None)
    return bank.replace(worlds={"own": copies}, current_world="own", backend="ode")


def hidden_course(bank: SimulatorBank, data: FitData) -> np.ndarray:
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
    errors["ind"], gap, _ = one_step_residuals(bank, data, hidden_course(bank, data))
    pop = population_for_all(bank)
    errors["pop"], _, _ = one_step_residuals(pop, data, hidden_course(pop, data))
    used = np.isfinite(errors["ind"]) & hours[None, :, None]
    row = np.arange(len(data.patients))[:, None, None]
    previous = np.maximum(np.arange(data.values.shape[1])[None, :, None] - gap.astype(int), 0)
    errors["persistence"] = data.values - data.start[row, previous, np.arange(data.values.shape[-1])[None, None]]
    seen = data.restrict(block_steps(1 - parity, bank.disease))
    count = np.maximum(seen.mask.sum(1), 1)
    mean = (seen.values * seen.mask).sum(1) / count
    errors["patient mean"] = data.values - mean[:, None]
    return compare({name: errors[name] for name in MODELS}, used)


def forecast_ahead(
    bank: SimulatorBank, data: FitData, hidden: np.ndarray, begin: np.ndarray, hours: int = 24
) -> np.ndarray:
    """Forecasts of every patient from one hour of the record on, under the charted treatment.

    Args:
        bank: Simulators, one per patient of `data`; no noise is added.
        data: Its start states, derived components and treatment are read, no value after `begin`.
        hidden: (P, T, H) hidden components at each hour.
        begin: (P,) hour each forecast starts from.
        hours: How far.

    Returns:
        (P, T, V) normalized; NaN outside `begin` + 1 to `begin` + `hours`.
    """
    row, last = np.arange(len(begin)), data.u.shape[1] - 1
    x = np.concatenate([data.start, data.derived, hidden], -1)[row, begin]
    out = np.full(data.values.shape, np.nan, np.float32)
    solver, hour = bank.with_backend("ode"), torch.ones(len(begin), 1)
    with torch.inference_mode():
        state = torch.from_numpy(x).float().unsqueeze(1)
        for step in range(hours):
            at = begin + step
            u = torch.from_numpy(data.u[row, np.minimum(at, last)]).unsqueeze(1)
            state = solver.flow(state, u, hour)
            inside = at < last
            out[row[inside], at[inside] + 1] = state[inside, 0, : data.values.shape[-1]].numpy()
    return out


def patient_errors(error: np.ndarray, used: np.ndarray) -> np.ndarray:
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
    per_patient = {name: patient_errors(e, used) for name, e in errors.items()}
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
    out["paired"] = {name: paired(per_patient[first], per_patient[name], first) for name in others}
    return out


def paired(first: np.ndarray, other: np.ndarray, name: str = "ind") -> dict[str, float]:
    """Errors (P,) of a model against another's, over patients who have both: share better, median gain, Wilcoxon p."""
    gain = (other - first)[np.isfinite(other - first)]
    return {
        f"{name}_better": round(float((gain > 0).mean()), 3),
        "median_gain": round(float(np.median(gain)), 4),
        "p": float(wilcoxon(gain).pvalue) if np.abs(gain).max() > 0 else 1.0,
    }
