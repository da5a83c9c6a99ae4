"""Rollouts against the record: the course a simulator gives from the first state under the charted treatment.

arXiv 2606.01028, figures 3 and 7. A rollout is free: it never sees an observation after the first state. In-sample and
held-out errors are kept apart, as the `own` world was fitted to the even blocks of every stay only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import FitData, block_steps
from medgym_offline.simulators.forecast import population_for_all

__all__ = ["examples", "free_rollout", "rollout_errors"]


def free_rollout(bank: SimulatorBank, data: FitData) -> np.ndarray:
    """(P, T, V) normalized course, hour by hour, of every patient under the charted treatment (solver, no noise)."""
    solver = bank.with_backend("ode")
    u = torch.from_numpy(data.u)
    with torch.inference_mode():
        x = solver.initial_state().unsqueeze(1)
        hour = torch.ones(x.shape[:2])
        path = [x]
        for t in range(u.shape[1] - 1):
            x = solver.flow(x, u[:, t : t + 1], hour)
            path.append(x)
    return torch.cat(path, 1)[..., : data.values.shape[-1]].numpy()


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
    paths = {"ind": free_rollout(own, data), "pop": free_rollout(population_for_all(own), data)}
    later = np.arange(data.values.shape[1]) > 0
    out: dict[str, Any] = {}
    for name, parity in (("fitted", 0), ("held out", 1)):
        used = data.mask & (block_steps(parity, bank.disease) & later)[None, :, None]
        out[name] = {model: _errors(data, path, used, bank) for model, path in paths.items()}
    return out, paths


def _errors(data: FitData, path: np.ndarray, used: np.ndarray, bank: SimulatorBank) -> dict[str, dict[str, float]]:
    rows: dict[str, list[float]] = {"mae": [], "rmse": [], "nmse": []}
    for j in range(data.values.shape[-1]):
        seen = data.values[..., j][used[..., j]].astype(float)
        error = path[..., j][used[..., j]] - seen
        if seen.size < 2:
            error, seen = np.array([np.nan]), np.array([0.0, 1.0])
        square = float(np.mean(error**2))
        rows["mae"].append(float(np.abs(error).mean()))
        rows["rmse"].append(square**0.5)
        rows["nmse"].append(square / max(float(seen.var()), 1e-9))
    names = [v.name for v in bank.disease.variables]
    return {
        m: {"mean": round(float(np.nanmean(r)), 4), **{n: round(v, 4) for n, v in zip(names, r) if np.isfinite(v)}}
        for m, r in rows.items()
    }


def examples(data: FitData, path: np.ndarray, count: int = 6) -> list[int]:
    """Rows of `count` patients spread evenly from the best to the worst rollout, so that none is hand-picked.

    Among patients with at least four observations of the monitored variable; by mean absolute error.
    """
    seen = data.mask.sum(1)
    error = np.where(data.mask, np.abs(path - data.values), 0.0).sum(1) / np.maximum(seen, 1)
    score = np.where(seen > 0, error, 0.0).sum(1) / np.maximum((seen > 0).sum(1), 1)
    known = np.flatnonzero(seen[:, data.disease.monitored] >= 4)
    known = known if known.size else np.flatnonzero(seen.sum(1) > 0)
    order = known[np.argsort(score[known], kind="stable")]
    return [int(order[round(q)]) for q in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round())]
