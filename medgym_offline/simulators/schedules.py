"""Open-loop schedules: K doses at intervals the decision process allows, and the harm they lead to, differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import Disease
from medgym_offline.errors import BankError
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["CELLS", "CeilingConfig", "Schedules", "interval_logits", "intervals", "schedule_harm"]

CELLS = 36
"""Quadrature cells of a hold where values are reported: at most an hour each for the longest hold."""


@dataclass(frozen=True)
class CeilingConfig:
    """How ceilings are searched for.

    Attributes:
        decisions: K.
        horizon, min_interval, max_interval: As in the decision process.
        steps: Adam steps through the solution map per class (a bank without a map uses the solver).
        refine: Further steps through the solver, for the best start only.
        lr: First learning rate, in logits (cosine to 0).
        cells: Quadrature cells per hold during the search; values reported use 36.
        seed: Of the random starts.
    """

    decisions: int = 5
    horizon: float = 96.0
    min_interval: float = 0.5
    max_interval: float = 36.0
    steps: int = 150
    refine: int = 60
    lr: float = 0.15
    cells: int = 12
    seed: int = 0

    @classmethod
    def of(cls, disease: Disease, **settings: Any) -> CeilingConfig:
        """The search over a disease's decision process."""
        process = disease.process
        clock = {n: getattr(process, n) for n in ("horizon", "min_interval", "max_interval")}
        return cls(**{**clock, **settings})

    def __post_init__(self) -> None:
        if not self.decisions * self.min_interval <= self.horizon <= self.decisions * self.max_interval:
            raise BankError(
                f"{self.decisions} decisions of {self.min_interval:g} to {self.max_interval:g} h cannot fill "
                f"{self.horizon:g} h; choose {math.ceil(self.horizon / self.max_interval)} or more"
            )


@dataclass(frozen=True)
class Schedules:
    """The best schedule found for every patient within one class.

    Attributes:
        harm: (P,) J, from the solver.
        treatment: (P, K, treatments) in [0, 1].
        hours: (P, K) holds, summing to the horizon.
    """

    harm: Tensor
    treatment: Tensor
    hours: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Rounded lists, JSON-ready."""
        parts = {"harm": self.harm, "treatment": self.treatment, "hours": self.hours}
        return {k: np.round(t.double().numpy(), 4).tolist() for k, t in parts.items()}


def intervals(logits: Tensor, config: CeilingConfig) -> Tensor:
    """Feasible intervals (..., K) from free numbers (..., K - 1): every schedule the process allows, and no other.

        dt_k = lower + sigmoid(logit_k) (upper - lower),
        lower = max(shortest, t - longest k),  upper = min(longest, t - shortest k)      t the time and k the decisions left after this one

    and the last decision takes what remains.
    """
    remaining = torch.full(logits.shape[:-1], config.horizon)
    parts = []
    for j in range(config.decisions - 1):
        later = config.decisions - 1 - j
        lower, upper = _range(remaining, later, config)
        parts.append(lower + torch.sigmoid(logits[..., j]) * (upper - lower))
        remaining = remaining - parts[-1]
    return torch.stack([*parts, remaining], -1)


def _range(remaining: Tensor, later: int, config: CeilingConfig) -> tuple[Tensor, Tensor]:
    lower = (remaining - config.max_interval * later).clamp(min=config.min_interval)
    upper = (remaining - config.min_interval * later).clamp(max=config.max_interval)
    return lower, upper


def interval_logits(hours: Tensor, config: CeilingConfig) -> Tensor:
    """Inverse of :func:`intervals`, within logits of -6 to 6."""
    remaining, parts = torch.full(hours.shape[:-1], config.horizon), []
    for j in range(config.decisions - 1):
        lower, upper = _range(remaining, config.decisions - 1 - j, config)
        share = ((hours[..., j] - lower) / (upper - lower).clamp(min=1e-6)).clamp(0.0025, 0.9975)
        parts.append(torch.logit(share))
        remaining = remaining - (lower + share * (upper - lower))
    return torch.stack(parts, -1)


def schedule_harm(bank: SimulatorBank, treatment: Tensor, hours: Tensor, cells: int | None = None) -> Tensor:
    """J of schedules from every patient's first state, without noise; differentiable in both arguments.

    Args:
        bank: P patients.
        treatment: (P, B, K, treatments) in [0, 1].
        hours: (P, B, K) holds.
        cells: Quadrature cells per hold (trapezoid); default 36, at most an hour each.

    Returns:
        (P, B).
    """
    x = bank.initial_state().unsqueeze(1).expand(-1, treatment.shape[1], -1)
    total = x.new_zeros(x.shape[:2])
    for k in range(treatment.shape[2]):
        u, dt = treatment[:, :, k], hours[..., k]
        count = cells or CELLS
        share = torch.arange(1, count + 1) / count
        curve = bank.trajectory(x, u, dt.unsqueeze(-1) * share)
        path = torch.cat([x.unsqueeze(2), curve], 2)
        dose = bank.denormalize_treatment(u).unsqueeze(2).expand(*path.shape[:-1], -1)
        severity = bank.disease.severity.score(bank.denormalize(path), dose)
        mean = (severity.sum(-1) - 0.5 * (severity[..., 0] + severity[..., -1])) / count
        total = total + dt * (mean + bank.disease.severity.burden(u))
        x = curve[:, :, -1]
    return total / hours.sum(-1)
