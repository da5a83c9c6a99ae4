"""Checks a simulator must pass before anyone trusts it, as numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.seeds import torch_generator
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.distill import random_treatments

__all__ = [
    "best_constants",
    "bounded",
    "constant_policies",
    "constant_scores",
    "noise_partition",
    "response_curves",
    "schedule_scores",
]

PIECE = 24
"""Steps of a constant treatment that are computed at once."""


def schedule_scores(bank: SimulatorBank, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score treatment schedules without noise, from every patient's first state.

    Args:
        bank: P patients.
        u: (P, B, T, treatments) of each unit of time, or (P, B, 1, treatments) constant.

    Returns:
        Mean severity over the times 1, 2, ... to the horizon (P, B); share of those after `process.settled` at which
        the monitored component is safe (P, B); final state (P, B, D).
    """
    disease = bank.disease
    horizon, settled = round(disease.process.horizon), disease.process.settled
    with torch.inference_mode():
        x = bank.initial_state().unsqueeze(1).expand(-1, u.shape[1], -1).contiguous()
        total, safe = x.new_zeros(x.shape[:2]), x.new_zeros(x.shape[:2])
        size = PIECE if u.shape[2] == 1 else 1
        for start in range(0, horizon, size):
            piece = min(size, horizon - start)
            times = torch.arange(1.0, piece + 1.0)
            now = u[:, :, 0 if u.shape[2] == 1 else start]
            curve = bank.trajectory(x, now, times)
            x = curve[:, :, -1]
            physical = bank.denormalize(curve)
            dose = bank.denormalize_treatment(now).unsqueeze(2).expand(*physical.shape[:-1], -1)
            total += disease.severity.score(physical, dose).sum(-1)
            low = ~disease.unsafe(physical[..., disease.monitored])
            late = torch.arange(start + 1, start + piece + 1) > settled
            safe += (low & late).float().sum(-1)
    return total / horizon, safe / (horizon - math.floor(settled)), x


def constant_scores(bank: SimulatorBank) -> tuple[Tensor, Tensor, Tensor]:
    """The grid of constant treatments (B, treatments), and each patient's mean severity (P, B) and safe share (P,
    B)."""
    grid = torch.tensor(list(itertools.product(*(t.levels for t in bank.disease.treatments))))
    severity, safe, _ = schedule_scores(bank, grid[None, :, None].expand(len(bank), -1, -1, -1))
    return grid, severity, safe


def best_constants(bank: SimulatorBank) -> Tensor:
    """(P, treatments) each patient's constant of the grid with the lowest mean severity in the current world."""
    grid, severity, _ = constant_scores(bank)
    return grid[severity.argmin(1)]


def constant_policies(bank: SimulatorBank, chosen_elsewhere: Tensor | None = None) -> dict[str, Any]:
    """Do treatments matter? Zero, maximal, the clinicians' and the best constant treatments compared.

    Args:
        bank: P patients in one world.
        chosen_elsewhere: (P, treatments) each patient's best constant of another world, to be scored in this one.

    Returns:
        `table` (mean severity and safe share of named policies), `gain` of the per-patient best over the cohort's
        best constant, share of bests at corners, patients whose best has the `needed` treatment, by whether clinicians
        gave it, and the mean regret of another patient's best constant.
    """
    grid, severity, _ = constant_scores(bank)
    best, shared = severity.argmin(1), severity.mean(0).argmin()
    chosen, lowest = grid[best], severity.amin(1)
    policies = {
        "zero": torch.zeros_like(chosen)[:, None],
        "maximal": torch.ones_like(chosen)[:, None],
        "clinician": bank.clinician_treatment,
        "best constant of the cohort": grid[shared].expand_as(chosen)[:, None],
        "best constant of each patient": chosen[:, None],
    }
    if chosen_elsewhere is not None:
        policies["best constant of each patient, chosen in own"] = chosen_elsewhere[:, None]
    table = {}
    for name, u in policies.items():
        points, safe, _ = schedule_scores(bank, u.unsqueeze(1))
        table[name] = {"severity": float(points.mean()), "safe": float(safe.mean())}
    regret = severity[:, best] - lowest[:, None]
    # In a bank of one there is nobody whose policy could be given to another.
    others = regret[~torch.eye(len(bank), dtype=torch.bool)] if len(bank) > 1 else regret.new_zeros(1)
    return {
        "table": table,
        "gain": float(1.0 - lowest.mean() / severity[:, shared].mean()),
        "corners": float(((chosen == 0) | (chosen == 1)).all(1).float().mean()),
        "wrong_patient_regret": float(others.mean()),
        **_needed(bank, chosen),
    }


def _needed(bank: SimulatorBank, chosen: Tensor) -> dict[str, Any]:
    """How many patients' best constant (P, treatments) has the treatment that some of them must need."""
    if not bank.disease.needed:
        return {}
    j = bank.disease.treatment_column(bank.disease.needed)
    has = chosen[:, j] > 0
    given = bank.denormalize_treatment(bank.clinician_treatment)[..., j] > 0.02
    treated = given.float().mean(1) > 0.1
    return {"needed_best": int(has.sum()), "needed_best_treated": [int(has[treated].sum()), int(treated.sum())]}


def response_curves(bank: SimulatorBank, hours: Tensor) -> dict[str, np.ndarray]:
    """Response of every variable to +1 step (normalized 0 to 1) of each treatment, others at the patient's mean.

    Args:
        bank: P patients.
        hours: (T,) hours since the step, ascending.

    Returns:
        Per treatment name, (P, T, V) difference between full and no treatment, normalized.
    """
    mean = bank.clinician_treatment.mean(1, keepdim=True)
    x = bank.initial_state().unsqueeze(1)
    out = {}
    with torch.inference_mode():
        for j, treatment in enumerate(bank.disease.treatments):
            low, high = mean.clone(), mean.clone()
            low[..., j], high[..., j] = 0.0, 1.0
            change = bank.trajectory(x, high, hours) - bank.trajectory(x, low, hours)
            out[treatment.name] = change[:, 0, :, : len(bank.disease.variables)].numpy()
    return out


def noise_partition(
    bank: SimulatorBank, hours: tuple[float, ...] = (1.0, 4.8, 12.0), draws: int = 64, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Is the residual noise the same however an interval is cut? One step of `hours` against two half-steps.

    From the first states under the clinicians' mean doses. The variance of the noise itself is linear in time, so the
    halves add up to the whole exactly. What is measured here is what the dynamics do with the first half's displacement
    (where they contract, two halves spread less; where variables are coupled, a quiet one spreads more) and the bounds.

    Returns:
        {hours: {"mean_difference": largest over variables of |mean of two - mean of one|, averaged over patients (SD);
        "spread": {variable: [standard deviation after one step, after two]}, median over patients (SD)}}.
    """
    g = torch_generator(seed, "noise-partition")
    u = bank.clinician_treatment.mean(1, keepdim=True).expand(-1, draws, -1)
    x = bank.initial_state().unsqueeze(1).expand(-1, draws, -1)
    seen = len(bank.disease.variables)
    out: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for h in hours:
            whole, half = torch.full(x.shape[:2], h), torch.full(x.shape[:2], h / 2.0)
            one = bank.step(x, u, whole, g)[..., :seen]
            two = bank.step(bank.step(x, u, half, g), u, half, g)[..., :seen]
            shift = (two.mean(1) - one.mean(1)).mean(0).abs()
            spread = torch.stack([one.std(1).median(0).values, two.std(1).median(0).values], 1)
            names = [v.name for v in bank.disease.variables]
            out[f"{h:g}"] = {
                "mean_difference": round(float(shift.max()), 4),
                "spread": {n: [round(float(a), 4) for a in pair] for n, pair in zip(names, spread)},
            }
    return out


def bounded(bank: SimulatorBank, rows: int = 4, seed: int = 0) -> dict[str, float]:
    """An episode under random, zero and maximal treatment with noise: any NaN, and the share of patients stuck at a
    bound.

    Returns:
        `finite` (1.0 when every state is finite) and, per state component, the share of patients whose final state
        is at a bound under all three.
    """
    g = torch_generator(seed, "bounded")
    stuck, finite = torch.ones(len(bank), bank.state_dim, dtype=torch.bool), True
    with torch.inference_mode():
        for kind in ("random", "zero", "maximal"):
            x = bank.initial_state().unsqueeze(1).repeat(1, rows, 1)
            for _ in range(16):
                u = random_treatments(len(bank), rows, len(bank.disease.treatments), g)
                u = u if kind == "random" else torch.full_like(u, float(kind == "maximal"))
                x = bank.step(x, u, torch.full(x.shape[:2], bank.disease.process.horizon / 16), g)
            finite = finite and bool(torch.isfinite(x).all())
            stuck &= ((x <= bank.lower + 1e-4) | (x >= bank.upper - 1e-4)).all(1)
    shares = stuck.float().mean(0)
    return {"finite": float(finite), **{n: float(s) for n, s in zip(bank.disease.state_names, shares)}}
