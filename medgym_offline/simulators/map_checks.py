"""Checks of the solution map against the solver: identity, error, composition, and its rate against the field.

All on states and holds the map was not trained on: from every patient's first state (perturbed) three holds in a row
under random, small and extreme treatments. Normalized units; the solver steps by a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.seeds import torch_generator
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.distill import CHECK_SD, random_treatments

__all__ = ["HOURS", "map_checks"]

HOURS = (0.5, 2.0, 6.0, 12.0, 24.0, 36.0)


def _visited(bank: SimulatorBank, rows: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Three lots of states (P, B, D) and treatments (P, B, treatments), each from where the last intervals led."""
    g = torch_generator(seed, "map-checks")
    x = bank.initial_state().unsqueeze(1).repeat(1, rows, 1)
    x = bank.clamp(x + torch.randn(x.shape, generator=g) * x.new_tensor(bank.disease.by_kind(*CHECK_SD)))
    for _ in range(3):
        u = random_treatments(len(bank), rows, len(bank.disease.treatments), g)
        yield x, u
        with torch.no_grad():
            x = bank.flow(x, u, torch.rand(x.shape[:2], generator=g) * 20.0 + 0.5)


def _rate(bank: SimulatorBank, x: Tensor, u: Tensor, times: Tensor) -> Tensor:
    """|dF/dt - f(F, u)| by autograd at each time, (P, B, T, D) per hour; NaN where F is held by a bound."""
    clock = times.expand(*x.shape[:2], -1).clone().requires_grad_(True)
    curve = bank.trajectory(x, u, clock)
    parts = []
    for j in range(curve.shape[-1]):
        # A value depends on its own time only, so the gradient of the sum is each value's derivative.
        (slope,) = torch.autograd.grad(curve[..., j].sum(), clock, retain_graph=j + 1 < curve.shape[-1])
        parts.append(slope)
    with torch.no_grad():
        flat = curve.detach().flatten(1, 2)
        wide = u.unsqueeze(2).expand(-1, -1, len(times), -1).flatten(1, 2)
        field = bank.field(flat, wide).reshape(curve.shape)
        held = (curve <= bank.lower + 1e-5) | (curve >= bank.upper - 1e-5)
        return torch.where(held, torch.nan, (torch.stack(parts, -1) - field).abs())


def map_checks(bank: SimulatorBank, rows: int = 6, seed: int = 1) -> dict[str, Any]:
    """Errors of a bank's solution map; see the module.

    Args:
        bank: Backend "map".
        rows: Holds per patient and lot.
        seed: Another than the training pool's.

    Returns:
        `identity`: largest |F(x, u, 0) - x|. `error`, `composition` (F over a third of the interval, then the rest,
        against the whole) and `rate` (per hour): {hours: [median, p99]} over all variables.
    """
    times = torch.tensor(HOURS)
    found: dict[str, list[Tensor]] = {"error": [], "composition": [], "rate": []}
    identity = 0.0
    solver = bank.with_backend("ode")
    fine = torch.arange(0.25, HOURS[-1] + 0.01, 0.25)
    at = [round(t / 0.25) - 1 for t in HOURS]
    for x, u in _visited(bank, rows, seed):
        found["rate"].append(_rate(bank, x, u, times))
        with torch.no_grad():
            still = bank.trajectory(x, u, torch.zeros(1)).squeeze(-2)
            identity = max(identity, float((still - x).abs().max()))
            learned = bank.trajectory(x, u, times)
            found["error"].append((learned - solver.trajectory(x, u, fine)[:, :, at]).abs())
            parts = []
            for t in HOURS:
                first = bank.flow(x, u, torch.full(x.shape[:2], t / 3.0))
                parts.append(bank.flow(first, u, torch.full(x.shape[:2], 2.0 * t / 3.0)))
            found["composition"].append((torch.stack(parts, -2) - learned).abs())
    out: dict[str, Any] = {"identity": identity}
    for check, tensors in found.items():
        values = torch.cat(tensors, 1).double().numpy()  # (P, 3B, T, D)
        out[check] = {str(h): _quantiles(values[:, :, k]) for k, h in enumerate(HOURS)}
    return out


def _quantiles(values: np.ndarray) -> list[float]:
    known = values[np.isfinite(values)]
    return [round(float(np.quantile(known, q)), 5) for q in (0.5, 0.99)] if known.size else [0.0, 0.0]
