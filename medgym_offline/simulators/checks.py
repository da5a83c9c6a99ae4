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
from medgym_offline.simulators.distill import CHECK_SD, random_treatments

__all__ = ["bounded", "constant_policies", "constant_scores", "map_checks", "response_curves", "schedule_scores"]

HOURS = (0.5, 2.0, 6.0, 12.0, 24.0, 36.0)
PIECE = 24
"""Steps of a constant treatment that are computed at once."""


def schedule_scores(bank: SimulatorBank, u: Tensor) -> tuple[Tensor, Tensor]:
    """Score treatment schedules without noise, from every patient's first state.

    Args:
        bank: P patients.
        u: (P, B, T, treatments) of each unit of time, or (P, B, 1, treatments) constant.

    Returns:
        Mean severity over the times 1, 2, ... to the horizon (P, B); share of those after `process.settled` at which
        the monitored component is safe (P, B).
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
    return total / horizon, safe / (horizon - math.floor(settled))


def constant_scores(bank: SimulatorBank) -> tuple[Tensor, Tensor]:
    """The grid of constant treatments (B, treatments), and each patient's mean severity under them (P, B)."""
    grid = torch.tensor(list(itertools.product(*(t.levels for t in bank.disease.treatments))))
    return grid, schedule_scores(bank, grid[None, :, None].expand(len(bank), -1, -1, -1))[0]


def constant_policies(bank: SimulatorBank) -> dict[str, Any]:
    """Do treatments matter? Zero, maximal, the clinicians' and the best constant treatments compared.

    Returns:
        `table` (mean severity and safe share of named policies), `gain` of the per-patient best over the cohort's
        best constant, share of bests at corners, and of patients whose best has the `needed` treatment.
    """
    grid, severity = constant_scores(bank)
    chosen, shared = grid[severity.argmin(1)], severity.mean(0).argmin()
    policies = {
        "zero": torch.zeros_like(chosen)[:, None],
        "maximal": torch.ones_like(chosen)[:, None],
        "clinician": bank.clinician_treatment,
        "best constant of the cohort": grid[shared].expand_as(chosen)[:, None],
        "best constant of each patient": chosen[:, None],
    }
    table = {}
    for name, u in policies.items():
        points, safe = schedule_scores(bank, u.unsqueeze(1))
        table[name] = {"severity": float(points.mean()), "safe": float(safe.mean())}
    found = {
        "table": table,
        "gain": float(1.0 - severity.amin(1).mean() / severity[:, shared].mean()),
        "corners": float(((chosen == 0) | (chosen == 1)).all(1).float().mean()),
    }
    if bank.disease.needed:
        needed = chosen[:, bank.disease.treatment_column(bank.disease.needed)]
        found["needed_best"] = float((needed > 0).float().mean())
    return found


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


def bounded(bank: SimulatorBank) -> dict[str, float]:
    """An episode under random, zero and maximal treatment with noise: any NaN, and the share of patients stuck at a
    bound.

    Returns:
        `finite` (1.0 when every state is finite) and, per state component, the share of patients whose final state
        is at a bound under all three.
    """
    g, rows = torch_generator(0, "bounded"), 4
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


def map_checks(bank: SimulatorBank, rows: int = 6) -> dict[str, Any]:
    """Errors of a bank's solution map, on states and intervals it was not trained on.

    From every patient's first state (perturbed) three holds in a row under random, small and extreme treatments;
    normalized units, against a solver that steps by a quarter of an hour.

    Args:
        bank: Backend "map".
        rows: Holds per patient and lot.

    Returns:
        `identity`: largest |F(x, u, 0) - x|. `error`, `composition` (F over a third of the interval, then the rest,
        against the whole) and `rate` (per hour): {hours: [median, p99]} over all variables.
    """
    times, fine = torch.tensor(HOURS), torch.arange(0.25, HOURS[-1] + 0.01, 0.25)
    found: dict[str, list[Tensor]] = {"error": [], "composition": [], "rate": []}
    identity, solver, g = 0.0, bank.with_backend("ode"), torch_generator(1, "map-checks")
    x = bank.initial_state().unsqueeze(1).repeat(1, rows, 1)
    x = bank.clamp(x + torch.randn(x.shape, generator=g) * x.new_tensor(bank.disease.by_kind(*CHECK_SD)))
    for _ in range(3):
        u = random_treatments(len(bank), rows, len(bank.disease.treatments), g)
        found["rate"].append(_rate(bank, x, u, times))
        with torch.no_grad():
            still = bank.trajectory(x, u, torch.zeros(1)).squeeze(-2)
            identity = max(identity, float((still - x).abs().max()))
            learned = bank.trajectory(x, u, times)
            solved = solver.trajectory(x, u, fine)[:, :, [round(t / 0.25) - 1 for t in HOURS]]
            found["error"].append((learned - solved).abs())
            thirds = [bank.flow(x, u, torch.full(x.shape[:2], t / 3.0)) for t in HOURS]
            twice = [bank.flow(y, u, torch.full(x.shape[:2], 2.0 * t / 3.0)) for y, t in zip(thirds, HOURS)]
            found["composition"].append((torch.stack(twice, -2) - learned).abs())
            x = bank.flow(x, u, torch.rand(x.shape[:2], generator=g) * 20.0 + 0.5)
    out: dict[str, Any] = {"identity": identity}
    for check, tensors in found.items():
        values = torch.cat(tensors, 1).double().transpose(0, 2).flatten(1).numpy()  # a row per time
        out[check] = {str(h): np.nanquantile(v, (0.5, 0.99)).round(5).tolist() for h, v in zip(HOURS, values)}
    return out


def _rate(bank: SimulatorBank, x: Tensor, u: Tensor, times: Tensor) -> Tensor:
    """|dF/dt - f(F, u)| by autograd at each time, (P, B, T, D) per hour; NaN where F is held by a bound."""
    clock = times.expand(*x.shape[:2], -1).clone().requires_grad_(True)
    curve = bank.trajectory(x, u, clock)
    # A value depends on its own time only, so the gradient of the sum is each value's derivative.
    sums = [curve[..., j].sum() for j in range(curve.shape[-1])]
    slopes = [torch.autograd.grad(total, clock, retain_graph=True)[0] for total in sums]
    with torch.no_grad():
        wide = u.unsqueeze(2).expand(-1, -1, len(times), -1).flatten(1, 2)
        field = bank.field(curve.detach().flatten(1, 2), wide).reshape(curve.shape)
        held = (curve <= bank.lower + 1e-5) | (curve >= bank.upper - 1e-5)
        return torch.where(held, torch.nan, (torch.stack(slopes, -1) - field).abs())
