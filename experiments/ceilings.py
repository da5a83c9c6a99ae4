"""Open-loop ceilings: how much changing the treatment, and choosing when, could be worth at all.

    python -m experiments.ceilings ceilings-all

Without noise, from each patient's first state, gradient search minimizes the mean harm over the horizon

    J = 1/T integral_0^T [ severity(x(t), u(t)) + burden(u(t)) ] dt

over nested classes of treatment: one constant; K doses at equal intervals; K doses at intervals chosen freely, as the
decision process allows (each within its limits, summing to the horizon T); and, to show what more decisions would be
worth, 4K doses at equal intervals. What a search finds is attained, so it bounds the optimum
from one side; a gain between two classes is a difference of two such bounds. No learned policy needs to reach it (a
policy does not know the patient), and a claim that timing pays beyond it is wrong.

The search follows gradients through the solution map (multi-start Adam), continues the best start through the solver,
and every value reported is an accurate solve. A class always contains the best of the one before, so J never rises
along constant, fixed, adaptive, nor along constant, fixed, fine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from pydantic import NonNegativeInt, PositiveInt
from scipy.stats import bootstrap
from torch import Tensor

from experiments.common import Recipe, Row, Scores, digest, main, markdown_table, shown, spread, tidy_rows, units
from medgym_offline import SimulatorBank, load_simulators
from medgym_offline.diseases.base import Process
from medgym_offline.seeds import generator
from medgym_offline.simulators.checks import constant_scores

PAIRS = (("fixed", "constant"), ("adaptive", "fixed"), ("adaptive", "constant"), ("fine", "fixed"))
DECISIONS = 5
"""K."""
CELLS, SEARCHED = 36, 12
"""Quadrature cells of an interval where values are reported (at most an hour each for the longest), and in a search."""
GROUPS = ((0.0, 0.0), (0.01, 0.06), (0.06, 0.15), (0.15, 1.0))
"""Ranges of the treatment that some need: the best grid constant within each is a start, as optima differ by it."""
GROWTH = (1.4, 2.0, 0.75)
"""Ratios of an interval to the one before that adaptive searches start from, besides 1."""
FINER = 4
"""Intervals of the fine class per interval of the fixed one."""
RATE = 0.15
"""First learning rate, in logits (cosine to 0)."""


class CeilingsRecipe(Recipe):
    """Whose ceilings are searched, how.

    Attributes:
        patients: Evenly spread over the bank; 0: all. Searched in shards of `shard`, which part of the result.
        steps, refine: Adam steps through the solution map per class, and of the best start through the solver.
    """

    bank: str = "sepsis-v0"
    patients: NonNegativeInt = 22
    steps: PositiveInt = 150
    refine: PositiveInt = 60
    shard: PositiveInt = 11


class Schedules(NamedTuple):
    """The best schedule found for every patient within one class.

    Attributes:
        harm: (P,) J, from the solver.
        treatment: (P, K, treatments) in [0, 1].
        hours: (P, K) holds, summing to the horizon.
    """

    harm: Tensor
    treatment: Tensor
    hours: Tensor


# -- schedules ---------------------------------------------------------------------------------------------------------


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
    total, share = x.new_zeros(x.shape[:2]), torch.arange(1, cells + 1) / cells
    for u, dt in zip(treatment.unbind(2), hours.unbind(2)):
        curve = bank.trajectory(x, u, dt.unsqueeze(-1) * share)
        path = torch.cat([x.unsqueeze(2), curve], 2)
        dose = bank.denormalize_treatment(u).unsqueeze(2).expand(*path.shape[:-1], -1)
        severity = bank.disease.severity.score(bank.denormalize(path), dose)
        mean = (severity.sum(-1) - 0.5 * (severity[..., 0] + severity[..., -1])) / cells
        total = total + dt * (mean + bank.disease.severity.burden(u))
        x = curve[:, :, -1]
    return total / hours.sum(-1)


# -- the search --------------------------------------------------------------------------------------------------------


def _improved(
    bank: SimulatorBank, u: Tensor, hours: Tensor, free: bool, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """Adam on the logits of schedules (P, S, k, treatments), (P, S, K), all at once; each keeps its own best.

    k = 1 is one dose for all intervals; `free` moves intervals too.
    """
    holds, process = hours.shape[-1], bank.disease.process
    dose = torch.logit(u.clamp(0.005, 0.995)).requires_grad_(True)
    clock = interval_logits(hours, process).requires_grad_(free)
    optimizer = torch.optim.Adam([dose, clock] if free else [dose], lr=rate, betas=(0.9, 0.98))
    best = torch.full(u.shape[:2], torch.inf)
    best_u, best_hours = u.expand(-1, -1, holds, -1).clone(), hours.clone()
    least = round(process.horizon / holds) if bank.backend == "ode" else 2
    cells = max(least, SEARCHED * DECISIONS // holds)
    for step in range(steps + 1):
        now = torch.sigmoid(dose).expand(-1, -1, holds, -1)
        dt = intervals(clock, process) if free else hours
        harm = schedule_harm(bank, now, dt, cells)
        with torch.no_grad():
            better = harm < best
            best = torch.where(better, harm, best)
            best_u = torch.where(better[..., None, None], now, best_u)
            best_hours = torch.where(better[..., None], dt, best_hours)
        if step < steps:
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.zero_grad(set_to_none=True)
            # Rows do not depend on each other, so the sum's gradient is each row's own.
            harm.sum().backward()
            optimizer.step()
    return best_u, best_hours


def _best(bank: SimulatorBank, *tried: tuple[Tensor, Tensor]) -> Schedules:
    """The best schedule per patient among several lots (P, S, K, treatments), (P, S, K), scored by the solver."""
    u, hours = (torch.cat(parts, 1) for parts in zip(*tried))
    # Cells of the same length in every class of equal intervals, so that quadrature favors none.
    cells = max(1, CELLS * DECISIONS // hours.shape[-1])
    with torch.no_grad():
        harm = schedule_harm(bank.with_backend("ode"), u, hours, cells)
    row, pick = torch.arange(len(u)), harm.argmin(1)
    return Schedules(harm[row, pick], u[row, pick].detach(), hours[row, pick].detach())


def _searched(
    bank: SimulatorBank, recipe: CeilingsRecipe, u: Tensor, hours: Tensor, known: Schedules | None, free: bool = False
) -> Schedules:
    """Search from the starts, refine the best through the solver, and never do worse than `known`."""
    hours = hours.expand(*u.shape[:2], -1)
    # The starts compete as they are: a logit never reaches a dose of exactly 0.
    tried = [_improved(bank, u, hours, free, recipe.steps, RATE), (u.expand(-1, -1, hours.shape[-1], -1), hours)]
    if known is not None:
        tried.append((known.treatment[:, None], known.hours[:, None]))
    best = _best(bank, *tried)
    before, clock = best.treatment[:, None], best.hours[:, None]
    one = before[:, :, : u.shape[2]]
    refined = _improved(bank.with_backend("ode"), one, clock, free, recipe.refine, 0.4 * RATE)
    return _best(bank, (before, clock), refined)


def _constant_starts(bank: SimulatorBank) -> Tensor:
    """(P, S, 1, treatments): the best grid constant within each of `GROUPS`."""
    grid, severity = constant_scores(bank)
    harm = severity + bank.disease.severity.burden(grid)
    needed = grid[:, bank.disease.treatment_column(bank.disease.needed)]
    groups = (torch.nonzero((needed >= low) & (needed <= high)).squeeze(1) for low, high in GROUPS)
    return torch.stack([grid[inside[harm[:, inside].argmin(1)]] for inside in groups], 1).unsqueeze(2)


def _fixed_starts(bank: SimulatorBank, constant: Tensor, best: Schedules) -> Tensor:
    """(P, S, K, treatments): the best constant, falling and front-loaded versions of it, other constants, a random
    one."""
    base = best.treatment[:, None]
    fall, front = torch.linspace(1.5, 0.5, DECISIONS)[:, None], base.clone()
    front[..., -1] = torch.linspace(1.0, 0.0, DECISIONS)
    noise = np.stack([generator(0, "ceiling-start", p).normal(0.0, 1.0, base.shape[2:]) for p in bank.patients])
    random = torch.sigmoid(torch.logit(base.clamp(0.02, 0.98)) + torch.from_numpy(noise).float().unsqueeze(1))
    others = constant.expand(-1, -1, DECISIONS, -1)[:, 1:3]
    return torch.cat([base, (base * fall).clamp(0.0, 1.0), front, random, others], 1)


def _adaptive_starts(fixed: Schedules, process: Process) -> tuple[Tensor, Tensor]:
    """The best fixed schedule, and it read at other break points: (P, S, K, treatments), (S, K)."""
    clocks = torch.tensor(GROWTH)[:, None] ** torch.arange(float(DECISIONS))
    grown = process.horizon * clocks / clocks.sum(-1, keepdim=True)
    hours = torch.cat([fixed.hours[:1], intervals(interval_logits(grown, process), process)])
    at = ((hours.cumsum(1) - 0.5 * hours) / process.horizon * DECISIONS).long().clamp(max=DECISIONS - 1)
    return fixed.treatment[:, at], hours


def ceilings(bank: SimulatorBank, recipe: CeilingsRecipe) -> dict[str, Schedules]:
    """The best `constant`, `fixed`, `adaptive` and `fine` schedules of every patient of a bank with a solution map."""
    process, starts = bank.disease.process, _constant_starts(bank)
    equal, short = (torch.full((n,), process.horizon / n) for n in (DECISIONS, FINER * DECISIONS))
    constant = _searched(bank, recipe, starts, equal, None)
    fixed = _searched(bank, recipe, _fixed_starts(bank, starts, constant), equal, constant)
    adaptive = _searched(bank, recipe, *_adaptive_starts(fixed, process), fixed, free=True)
    # The fine search starts from the fixed schedule, and from the adaptive one read amid each short interval.
    cut = Schedules(fixed.harm, fixed.treatment.repeat_interleave(FINER, 1), short.expand(len(bank), -1))
    middle = short.cumsum(0) - 0.5 * short
    at = (adaptive.hours.cumsum(1).unsqueeze(1) <= middle[:, None]).sum(-1).clamp(max=DECISIONS - 1)
    read = torch.take_along_dim(adaptive.treatment, at.unsqueeze(-1), 1)
    fine = _searched(bank, recipe, torch.stack([cut.treatment, read], 1), short, cut)
    return {"constant": constant, "fixed": fixed, "adaptive": adaptive, "fine": fine}


# -- runs and tables ---------------------------------------------------------------------------------------------------


def _shard(bank: SimulatorBank, recipe: CeilingsRecipe) -> pl.DataFrame:
    parts = []
    for name, schedules in ceilings(bank, recipe).items():
        harm = {(patient, "harm"): one for patient, one in zip(bank.patients, schedules.harm.double().tolist())}
        parts.append(tidy_rows(bank.name, Row(name, "ind", "open-loop", DECISIONS), 0, "own", harm))
    return pl.concat(parts)


def run(recipe: CeilingsRecipe, folder: Path, workers: int = 1) -> pl.DataFrame:
    """Harm of the best schedule found of every class, patient by patient; finished shards are kept in `folder`."""
    bank, settings, calls = load_simulators(recipe.bank), recipe.model_dump(exclude={"name"}), {}
    chosen = spread(bank.patients, recipe.patients)
    for first in range(0, len(chosen), recipe.shard):
        part = bank.select(chosen[first : first + recipe.shard])
        calls[f"{first:04d}-{digest(part.content_hash, part.patients, settings)}"] = _shard, part, recipe
    return units(calls, folder, workers)


def markdown(recipe: CeilingsRecipe, scores: Scores) -> str:
    """Gains between classes of schedules."""
    harm = scores.frame.pivot("method", index="patient", values="value")
    body = []
    for one, other in PAIRS:
        gain = (100.0 * (1.0 - harm[one] / harm[other])).to_numpy()
        cells = []
        for statistic in (np.median, np.mean):
            random = np.random.default_rng(0)
            found = bootstrap((gain,), statistic, n_resamples=10_000, method="percentile", random_state=random)
            cells.append(shown((float(statistic(gain)), *found.confidence_interval)))
        quantile, above = f"{np.quantile(gain, 0.9):.2f}", f"{100 * (gain > 2).mean():.0f}"
        body.append([f"{one} over {other}", *cells, quantile, above])
    heads = ["Schedules", "Median", "Mean", "90 % quantile", "Patients above 2 %"]
    caption = f"Gain in mean harm, %, {len(harm)} patients, own world, K = {DECISIONS}"
    title = f"# Open-loop ceilings of {recipe.bank}\n\n    python -m experiments.ceilings {recipe.name}\n\n"
    return title + markdown_table(caption, heads, body) + "\n"


if __name__ == "__main__":
    main(__doc__, CeilingsRecipe, run, markdown)
