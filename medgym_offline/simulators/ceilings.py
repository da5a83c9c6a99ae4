"""Open-loop ceilings: how much could changing the treatment, and choosing when, be worth for a patient at all?

For every patient, without noise and from the first state, gradient search minimizes the mean harm over the horizon

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
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.progress import Progress
from medgym_offline.seeds import generator
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import constant_scores
from medgym_offline.simulators.schedules import (
    CELLS,
    CeilingConfig,
    Schedules,
    interval_logits,
    intervals,
    schedule_harm,
)

__all__ = ["CeilingConfig", "Ceilings", "ceilings"]

GROUPS = ((0.0, 0.0), (0.01, 0.06), (0.06, 0.15), (0.15, 1.0))
"""Ranges of the treatment that some need: the best grid constant within each is a start, as optima differ by it."""

GROWTH = (1.4, 2.0, 0.75)
"""Ratios of an interval to the one before that adaptive searches start from, besides 1."""

FINER = 4
"""Intervals of the fine class per interval of the fixed one."""


@dataclass(frozen=True)
class Ceilings:
    """Ceilings of every patient of a bank.

    Attributes:
        bank, content_hash, world, patients: What was searched.
        config: How.
        classes: `constant`, `fixed`, `adaptive`, `fine`.
        seconds: Wall time.
    """

    bank: str
    content_hash: str
    world: str
    patients: tuple[str, ...]
    config: CeilingConfig
    classes: dict[str, Schedules]
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {
            "bank": self.bank,
            "content_hash": self.content_hash,
            "world": self.world,
            "patients": list(self.patients),
            "config": asdict(self.config),
            "seconds": round(self.seconds, 1),
            "summary": self.summary,
            "classes": {name: s.to_dict() for name, s in self.classes.items()},
        }


class _Search:
    """Adam on the logits of doses and intervals of P x S schedules, all at once; each keeps its own best."""

    def __init__(self, bank: SimulatorBank, config: CeilingConfig, progress: Progress):
        self.bank, self.config, self.progress = bank, config, progress
        self.solver = bank.with_backend("ode")

    def run(
        self, bank: SimulatorBank, u: Tensor, hours: Tensor, free: bool, steps: int, lr: float
    ) -> tuple[Tensor, Tensor]:
        """Improve schedules (P, S, k, treatments), (P, S, K); k = 1 is one dose for all intervals.

        `free` moves intervals too.
        """
        config, holds = self.config, hours.shape[-1]
        dose = torch.logit(u.clamp(0.005, 0.995)).requires_grad_(True)
        clock = interval_logits(hours, config).requires_grad_(free) if free else None
        moved = [dose] if clock is None else [dose, clock]
        optimizer = torch.optim.Adam(moved, lr=lr, betas=(0.9, 0.98))
        best = torch.full(u.shape[:2], torch.inf)
        best_u, best_hours = u.expand(-1, -1, holds, -1).clone(), hours.clone()
        for step in range(steps + 1):
            now = torch.sigmoid(dose).expand(-1, -1, holds, -1)
            dt = hours if clock is None else intervals(clock, config)
            cells = max(2, config.cells * config.decisions // holds)
            if bank.backend == "ode":
                cells = max(cells, round(config.horizon / holds))
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
            self.progress.advance(1, harm=float(best.amin(1).mean()))
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
            u_all.append(known.treatment.unsqueeze(1))
            all_hours.append(known.hours.unsqueeze(1))
        best = self.best(torch.cat(u_all, 1), torch.cat(all_hours, 1))
        if config.refine and self.bank.backend == "map":
            one = best.treatment[:, None, :1] if u.shape[2] == 1 else best.treatment[:, None]
            u_fine, fine = self.run(self.solver, one, best.hours[:, None], free, config.refine, 0.4 * config.lr)
            both = torch.cat([best.treatment[:, None], u_fine], 1), torch.cat([best.hours[:, None], fine], 1)
            best = self.best(*both)
        return best


def _constant_starts(bank: SimulatorBank) -> Tensor:
    """(P, S, 1, treatments): the best grid constant within each of `GROUPS`."""
    grid, severity, _ = constant_scores(bank)
    harm = severity + bank.disease.severity.burden(grid)
    disease = bank.disease
    j = disease.treatment_column(disease.needed) if disease.needed else 0
    starts = []
    for low, high in GROUPS:
        inside = torch.nonzero((grid[:, j] >= low) & (grid[:, j] <= high)).squeeze(1)
        if len(inside):
            starts.append(grid[inside[harm[:, inside].argmin(1)]])
    return torch.stack(starts, 1).unsqueeze(2)


def _fixed_starts(bank: SimulatorBank, constant: Tensor, best: Schedules, config: CeilingConfig) -> Tensor:
    """(P, S, K, treatments): the best constant, falling and front-loaded versions of it, other constants, a random
    one."""
    holds, u_count = config.decisions, len(bank.disease.treatments)
    base = best.treatment[:, None, :1].expand(-1, 1, holds, -1)
    fall = torch.linspace(1.5, 0.5, holds)[:, None]
    bolus = torch.linspace(1.0, 0.0, holds)
    front = base.clone()
    front[..., -1] = bolus
    noise = np.stack(
        [generator(config.seed, "ceiling-start", p).normal(0.0, 1.0, (holds, u_count)) for p in bank.patients]
    )
    random = torch.sigmoid(torch.logit(base.clamp(0.02, 0.98)) + torch.from_numpy(noise).float().unsqueeze(1))
    others = constant.expand(-1, -1, holds, -1)[:, 1:3]
    return torch.cat([base, (base * fall).clamp(0.0, 1.0), front, random, others], 1)


def _adaptive_starts(fixed: Schedules, config: CeilingConfig) -> tuple[Tensor, Tensor]:
    """The best fixed schedule, and it read at other break points: (P, S, K, treatments), (P, S, K)."""
    holds = config.decisions
    clocks = [fixed.hours[0]]
    for ratio in GROWTH:
        clock = ratio ** torch.arange(float(holds))
        clocks.append(intervals(interval_logits(config.horizon * clock / clock.sum(), config), config))
    treatments = []
    for clock in clocks:
        middle = clock.cumsum(0) - 0.5 * clock
        at = (middle / config.horizon * holds).long().clamp(max=holds - 1)
        treatments.append(fixed.treatment[:, at])
    hours = torch.stack(clocks)[None].expand(len(fixed.harm), -1, -1)
    return torch.stack(treatments, 1), hours


def _fine_starts(fixed: Schedules, adaptive: Schedules, config: CeilingConfig) -> Tensor:
    """(P, 2, 4K, treatments): the best fixed schedule, and the adaptive one read amid each short interval."""
    count = FINER * config.decisions
    middle = (torch.arange(count) + 0.5) * config.horizon / count
    at = (adaptive.hours.cumsum(1).unsqueeze(1) <= middle[:, None]).sum(-1).clamp(max=config.decisions - 1)
    read = torch.take_along_dim(adaptive.treatment, at.unsqueeze(-1), 1)
    return torch.stack([fixed.treatment.repeat_interleave(FINER, 1), read], 1)


@own_defaults()
def ceilings(bank: SimulatorBank, config: CeilingConfig | None = None, show: bool = True) -> Ceilings:
    """Search the best constant, fixed and adaptive schedules of every patient of the bank's current world.

    Args:
        bank: P patients; searched through its backend, scored by the solver.
        config: See :class:`CeilingConfig`.
        show: Progress on standard error.
    """
    config = config or CeilingConfig.of(bank.disease)
    started = time.monotonic()
    holds = config.decisions
    equal = torch.full((holds,), config.horizon / holds)
    refine = config.refine if bank.backend == "map" else 0
    with Progress("open-loop ceilings", 4 * (config.steps + refine), enabled=show) as progress:
        search = _Search(bank, config, progress)
        starts = _constant_starts(bank)
        hours = equal.expand(*starts.shape[:2], holds)
        constant = search.search(starts, hours, False, None)
        starts = _fixed_starts(bank, starts, constant, config)
        hours = equal.expand(*starts.shape[:2], holds)
        fixed = search.search(starts, hours, False, constant)
        adaptive = search.search(*_adaptive_starts(fixed, config), True, fixed)
        short = torch.full((FINER * holds,), config.horizon / (FINER * holds)).expand(len(bank), -1)
        cut = Schedules(fixed.harm, fixed.treatment.repeat_interleave(FINER, 1), short)
        starts = _fine_starts(fixed, adaptive, config)
        fine = search.search(starts, short.unsqueeze(1).expand(-1, 2, -1), False, cut)
    classes = {"constant": constant, "fixed": fixed, "adaptive": adaptive, "fine": fine}
    return Ceilings(
        bank=bank.name,
        content_hash=bank.content_hash,
        world=bank.current_world,
        patients=bank.patients,
        config=config,
        classes=classes,
        seconds=time.monotonic() - started,
        summary=_summary(classes),
    )


def _summary(classes: dict[str, Schedules]) -> dict[str, Any]:
    """Means of J, and quantiles over patients of the gains between classes and of the free intervals."""
    harm = {n: s.harm.double().numpy() for n, s in classes.items()}
    out: dict[str, Any] = {"harm": {n: round(float(h.mean()), 4) for n, h in harm.items()}}
    for better, worse in (("fixed", "constant"), ("adaptive", "fixed"), ("adaptive", "constant"), ("fine", "fixed")):
        gain = 100.0 * (1.0 - harm[better] / harm[worse])
        out[f"{better} over {worse}"] = {
            "median": round(float(np.median(gain)), 3),
            "mean": round(float(gain.mean()), 3),
            "q90": round(float(np.quantile(gain, 0.9)), 3),
            "share_above_2": round(float((gain > 2.0).mean()), 3),
        }
    hours = classes["adaptive"].hours
    out["adaptive_hours"] = {
        "quantiles": [round(float(q), 2) for q in np.quantile(hours.numpy(), (0.05, 0.25, 0.5, 0.75, 0.95))],
        "median_per_decision": [round(float(h), 2) for h in hours.median(0).values],
    }
    return out
