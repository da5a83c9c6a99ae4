"""The search behind `experiments.ceilings`: the best open-loop schedules of every patient, from the first state.

Without noise, gradient search minimizes the mean harm over the horizon

    J = 1/T integral_0^T [ severity(x(t), u(t)) + burden(u(t)) ] dt

over nested classes of treatment: one constant; K doses at equal intervals; K doses at intervals chosen freely, as the
decision process allows (each within its limits, summing to the horizon T); and, to show what more decisions would be
worth, 4K doses at equal intervals. What a search finds is attained, so it bounds the optimum
from one side; a gain between two classes is a difference of two such bounds. No learned policy needs to reach it (a
policy does not know the patient), and a claim that timing pays beyond it is wrong.

The search follows gradients through the solution map where there is one (multi-start Adam), continues the best start
through the solver, and every value reported is an accurate solve. A class always contains the best of the one before,
so J never rises along constant, fixed, adaptive, nor along constant, fixed, fine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline import MedGymError, SimulatorBank
from medgym_offline.diseases.base import Process
from medgym_offline.seeds import generator
from medgym_offline.simulators.checks import constant_scores

__all__ = ["CeilingConfig", "Schedules", "ceilings", "interval_logits", "intervals", "schedule_harm"]

CELLS = 36
"""Quadrature cells of an interval where values are reported: at most an hour each for the longest interval."""

GROUPS = ((0.0, 0.0), (0.01, 0.06), (0.06, 0.15), (0.15, 1.0))
"""Ranges of the treatment that some need: the best grid constant within each is a start, as optima differ by it."""

GROWTH = (1.4, 2.0, 0.75)
"""Ratios of an interval to the one before that adaptive searches start from, besides 1."""

FINER = 4
"""Intervals of the fine class per interval of the fixed one."""


@dataclass(frozen=True)
class CeilingConfig:
    """How ceilings are searched for.

    Attributes:
        decisions: K.
        steps: Adam steps through the solution map per class (a bank without a map uses the solver).
        refine: Further steps through the solver, for the best start only.
        lr: First learning rate, in logits (cosine to 0).
        cells: Quadrature cells per interval during the search; values reported use 36.
        seed: Of the random starts.
    """

    decisions: int = 5
    steps: int = 150
    refine: int = 60
    lr: float = 0.15
    cells: int = 12
    seed: int = 0


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


def intervals(logits: Tensor, process: Process) -> Tensor:
    """Feasible intervals (..., K) from free numbers (..., K - 1): every schedule the process allows, and no other.

        dt_k = lower + sigmoid(logit_k) (upper - lower),
        lower = max(shortest, t - longest k),  upper = min(longest, t - shortest k)      t the time and k the decisions
        left after this one

    and the last decision takes what remains.
    """
    remaining = torch.full(logits.shape[:-1], process.horizon)
    parts = []
    for j in range(logits.shape[-1]):
        lower, upper = _range(remaining, logits.shape[-1] - j, process)
        parts.append(lower + torch.sigmoid(logits[..., j]) * (upper - lower))
        remaining = remaining - parts[-1]
    return torch.stack([*parts, remaining], -1)


def _range(remaining: Tensor, later: int, process: Process) -> tuple[Tensor, Tensor]:
    lower = (remaining - process.max_interval * later).clamp(min=process.min_interval)
    upper = (remaining - process.min_interval * later).clamp(max=process.max_interval)
    return lower, upper


def interval_logits(hours: Tensor, process: Process) -> Tensor:
    """Inverse of :func:`intervals`, within logits of -6 to 6."""
    remaining, parts = torch.full(hours.shape[:-1], process.horizon), []
    for later in range(hours.shape[-1] - 1, 0, -1):
        lower, upper = _range(remaining, later, process)
        share = ((hours[..., -1 - later] - lower) / (upper - lower).clamp(min=1e-6)).clamp(0.0025, 0.9975)
        parts.append(torch.logit(share))
        remaining = remaining - (lower + share * (upper - lower))
    return torch.stack(parts, -1)


def schedule_harm(bank: SimulatorBank, treatment: Tensor, hours: Tensor, cells: int = CELLS) -> Tensor:
    """J of schedules from every patient's first state, without noise; differentiable in both arguments.

    Args:
        bank: P patients.
        treatment: (P, B, K, treatments) in [0, 1].
        hours: (P, B, K) holds.
        cells: Quadrature cells per interval (trapezoid).

    Returns:
        (P, B).
    """
    x = bank.initial_state().unsqueeze(1).expand(-1, treatment.shape[1], -1)
    total = x.new_zeros(x.shape[:2])
    for k in range(treatment.shape[2]):
        u, dt = treatment[:, :, k], hours[..., k]
        share = torch.arange(1, cells + 1) / cells
        curve = bank.trajectory(x, u, dt.unsqueeze(-1) * share)
        path = torch.cat([x.unsqueeze(2), curve], 2)
        dose = bank.denormalize_treatment(u).unsqueeze(2).expand(*path.shape[:-1], -1)
        severity = bank.disease.severity.score(bank.denormalize(path), dose)
        mean = (severity.sum(-1) - 0.5 * (severity[..., 0] + severity[..., -1])) / cells
        total = total + dt * (mean + bank.disease.severity.burden(u))
        x = curve[:, :, -1]
    return total / hours.sum(-1)


class _Search:
    """Adam on the logits of doses and intervals of P x S schedules, all at once; each keeps its own best."""

    def __init__(self, bank: SimulatorBank, config: CeilingConfig):
        self.bank, self.config, self.process = bank, config, bank.disease.process
        self.solver = bank.with_backend("ode")

    def run(
        self, bank: SimulatorBank, u: Tensor, hours: Tensor, free: bool, steps: int, lr: float
    ) -> tuple[Tensor, Tensor]:
        """Improve schedules (P, S, k, treatments), (P, S, K); k = 1 is one dose for all intervals.

        `free` moves intervals too.
        """
        config, holds = self.config, hours.shape[-1]
        dose = torch.logit(u.clamp(0.005, 0.995)).requires_grad_(True)
        clock = interval_logits(hours, self.process).requires_grad_(True) if free else None
        moved = [dose] if clock is None else [dose, clock]
        optimizer = torch.optim.Adam(moved, lr=lr, betas=(0.9, 0.98))
        best = torch.full(u.shape[:2], torch.inf)
        best_u, best_hours = u.expand(-1, -1, holds, -1).clone(), hours.clone()
        for step in range(steps + 1):
            now = torch.sigmoid(dose).expand(-1, -1, holds, -1)
            dt = hours if clock is None else intervals(clock, self.process)
            cells = max(2, config.cells * config.decisions // holds)
            if bank.backend == "ode":
                cells = max(cells, round(self.process.horizon / holds))
            harm = schedule_harm(bank, now, dt, cells)
            with torch.no_grad():
                better = harm < best
                best = torch.where(better, harm, best)
                best_u = torch.where(better[..., None, None], now, best_u)
                best_hours = torch.where(better[..., None], dt, best_hours)
            if step == steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.zero_grad(set_to_none=True)
            # Rows do not depend on each other, so the sum's gradient is each row's own.
            harm.sum().backward()
            optimizer.step()
        return best_u, best_hours

    def best(self, u: Tensor, hours: Tensor) -> Schedules:
        """The best of S schedules per patient, scored by the solver."""
        # Cells of the same length in every class of equal intervals, so that quadrature favors none.
        cells = max(1, CELLS * self.config.decisions // hours.shape[-1])
        with torch.no_grad():
            harm = schedule_harm(self.solver, u, hours, cells)
        row, pick = torch.arange(len(u)), harm.argmin(1)
        return Schedules(harm[row, pick], u[row, pick].detach(), hours[row, pick].detach())

    def search(self, u: Tensor, hours: Tensor, free: bool, known: Schedules | None) -> Schedules:
        """Search from the starts, refine the best through the solver, and never do worse than `known`."""
        config = self.config
        u_found, found = self.run(self.bank, u, hours, free, config.steps, config.lr)
        # The starts compete as they are: a logit never reaches a dose of exactly 0.
        u_all, all_hours = [u_found, u.expand(-1, -1, hours.shape[-1], -1)], [found, hours]
        if known is not None:
            u_all.append(known.treatment[:, None])
            all_hours.append(known.hours[:, None])
        best = self.best(torch.cat(u_all, 1), torch.cat(all_hours, 1))
        if not config.refine or self.bank.backend != "map":
            return best
        before, clock = best.treatment[:, None], best.hours[:, None]
        one = before[:, :, :1] if u.shape[2] == 1 else before
        u_fine, fine = self.run(self.solver, one, clock, free, config.refine, 0.4 * config.lr)
        return self.best(torch.cat([before, u_fine], 1), torch.cat([clock, fine], 1))


def _constant_starts(bank: SimulatorBank) -> Tensor:
    """(P, S, 1, treatments): the best grid constant within each of `GROUPS`."""
    grid, severity = constant_scores(bank)
    harm = severity + bank.disease.severity.burden(grid)
    needed = grid[:, bank.disease.treatment_column(bank.disease.needed) if bank.disease.needed else 0]
    starts = []
    for low, high in GROUPS:
        inside = torch.nonzero((needed >= low) & (needed <= high)).squeeze(1)
        if len(inside):
            starts.append(grid[inside[harm[:, inside].argmin(1)]])
    return torch.stack(starts, 1).unsqueeze(2)


def _fixed_starts(bank: SimulatorBank, constant: Tensor, best: Schedules, config: CeilingConfig) -> Tensor:
    """(P, S, K, treatments): the best constant, falling and front-loaded versions of it, other constants, a random
    one."""
    shape = holds, _ = config.decisions, len(bank.disease.treatments)
    base = best.treatment[:, None, :1].expand(-1, 1, holds, -1)
    fall = torch.linspace(1.5, 0.5, holds)[:, None]
    front = base.clone()
    front[..., -1] = torch.linspace(1.0, 0.0, holds)
    noise = np.stack([generator(config.seed, "ceiling-start", p).normal(0.0, 1.0, shape) for p in bank.patients])
    random = torch.sigmoid(torch.logit(base.clamp(0.02, 0.98)) + torch.from_numpy(noise).float().unsqueeze(1))
    others = constant.expand(-1, -1, holds, -1)[:, 1:3]
    return torch.cat([base, (base * fall).clamp(0.0, 1.0), front, random, others], 1)


def _adaptive_starts(fixed: Schedules, process: Process) -> tuple[Tensor, Tensor]:
    """The best fixed schedule, and it read at other break points: (P, S, K, treatments), (P, S, K)."""
    holds = fixed.hours.shape[1]
    clocks = [fixed.hours[0]]
    for ratio in GROWTH:
        clock = ratio ** torch.arange(float(holds))
        clocks.append(intervals(interval_logits(process.horizon * clock / clock.sum(), process), process))
    hours = torch.stack(clocks)
    at = ((hours.cumsum(1) - 0.5 * hours) / process.horizon * holds).long().clamp(max=holds - 1)
    return fixed.treatment[:, at], hours[None].expand(len(fixed.harm), -1, -1)


def _fine_starts(fixed: Schedules, adaptive: Schedules, horizon: float) -> Tensor:
    """(P, 2, 4K, treatments): the best fixed schedule, and the adaptive one read amid each short interval."""
    holds = fixed.hours.shape[1]
    middle = (torch.arange(FINER * holds) + 0.5) * horizon / (FINER * holds)
    at = (adaptive.hours.cumsum(1).unsqueeze(1) <= middle[:, None]).sum(-1).clamp(max=holds - 1)
    read = torch.take_along_dim(adaptive.treatment, at.unsqueeze(-1), 1)
    return torch.stack([fixed.treatment.repeat_interleave(FINER, 1), read], 1)


def ceilings(bank: SimulatorBank, config: CeilingConfig) -> dict[str, Schedules]:
    """The best `constant`, `fixed`, `adaptive` and `fine` schedules of every patient of the bank's current world.

    Args:
        bank: P patients; searched through its backend, scored by the solver.
        config: See :class:`CeilingConfig`.

    Raises:
        MedGymError: As many decisions cannot fill the horizon.
    """
    holds, process = config.decisions, bank.disease.process
    horizon, shortest, longest = process.horizon, process.min_interval, process.max_interval
    if not holds * shortest <= horizon <= holds * longest:
        raise MedGymError(
            f"{holds} decisions of {shortest:g} to {longest:g} {process.unit} cannot fill {horizon:g} {process.unit}; "
            f"choose {math.ceil(horizon / longest)} or more"
        )
    search = _Search(bank, config)
    equal = torch.full((holds,), horizon / holds)
    starts = _constant_starts(bank)
    constant = search.search(starts, equal.expand(*starts.shape[:2], holds), False, None)
    starts = _fixed_starts(bank, starts, constant, config)
    fixed = search.search(starts, equal.expand(*starts.shape[:2], holds), False, constant)
    adaptive = search.search(*_adaptive_starts(fixed, process), True, fixed)
    short = torch.full((FINER * holds,), horizon / (FINER * holds)).expand(len(bank), -1)
    cut = Schedules(fixed.harm, fixed.treatment.repeat_interleave(FINER, 1), short)
    starts = _fine_starts(fixed, adaptive, horizon)
    fine = search.search(starts, short.unsqueeze(1).expand(-1, 2, -1), False, cut)
    return {"constant": constant, "fixed": fixed, "adaptive": adaptive, "fine": fine}
