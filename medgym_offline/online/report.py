"""The training report: curves of every policy of a run, and how the policies time treatment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.reports import (
    INK,
    MUTED,
    SERIES,
    Cell,
    Estimate,
    Figure,
    Page,
    Section,
    Table,
    draw_figure,
    write_page,
)

if TYPE_CHECKING:
    from medgym_offline.online.behavior import BehaviorRun
    from medgym_offline.policies.protocol import Policy

__all__ = ["QUANTILES", "interval_table", "log_figures", "training_page", "write_training_report"]

QUANTILES = (5, 25, 50, 75, 95)
EPISODES = 8
"""Episodes per patient from which the intervals of a finished policy are described."""

_CURVES = {
    "return": "Return per episode",
    "cost": "Cost per decision",
    "multiplier": "Lagrange multiplier",
    "alpha": "Entropy weight",
    "entropy": "Entropy of the policy",
    "kl": "KL of the update",
    "first": "First interval",
    "last": "Last interval",
}


def log_figures(log: Mapping[str, torch.Tensor], limit: float | None = None, unit: str = "h") -> list[Figure]:
    """Curves of a training log over updates: median over policies or simulators, 25-75 % and 5-95 % bands.

    Args:
        log: Name -> `(updates, S or P)`, as in `TrainResult.log` of online training.
        limit: Cost limit, drawn into the figure of the cost.
        unit: Of the intervals.
    """
    return [_log_figure(name, log[name], limit, unit) for name in _CURVES if name in log]


def _log_figure(name: str, values: torch.Tensor, limit: float | None, unit: str) -> Figure:
    title = _CURVES[name] + (f" ({unit})" if name in ("first", "last") else "")
    bands = _quantiles(values.double().numpy())
    updates = np.arange(1, bands.shape[1] + 1)

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.fill_between(updates, bands[0], bands[4], color=SERIES[0], alpha=0.12, linewidth=0)
        axes.fill_between(updates, bands[1], bands[3], color=SERIES[0], alpha=0.22, linewidth=0)
        axes.plot(updates, bands[2], color=SERIES[0], linewidth=1.6)
        if name == "cost" and limit is not None:
            axes.axhline(limit, color=SERIES[1], linewidth=1.0, linestyle=(0, (4, 2)))
            axes.text(updates[-1], limit, "limit", color=INK, ha="right", va="bottom")
        axes.set_xlabel("Update", color=MUTED)
        axes.set_ylabel(title)

    start, end = bands[:, 0], bands[:, -1]
    description = (
        f"{title} over {len(updates)} updates: median {start[2]:.3g} at first, {end[2]:.3g} at the end "
        f"(5 to 95 % of {values.shape[1]}: {end[0]:.3g} to {end[4]:.3g})."
    )
    return draw_figure(title, draw, description, (4.6, 2.9), description)


def _quantiles(values: np.ndarray) -> np.ndarray:
    """(5, updates) quantiles over the last axis; an update at which nobody has a value takes the one before."""
    found = np.full((len(QUANTILES), values.shape[0]), np.nan)
    for update, row in enumerate(values):
        known = row[np.isfinite(row)]
        found[:, update] = np.percentile(known, QUANTILES) if len(known) else found[:, max(update - 1, 0)]
    return found


def interval_table(run: BehaviorRun, actor: Policy, timing: str) -> dict[str, list[float]]:
    """Quantiles (5, 25, 50, 75, 95 %) of every interval, of the first and of the last, and of decisions used.

    From :data:`EPISODES` episodes per patient of the policy's deterministic actions in the patients' own simulators.
    """
    bank, process = run.bank, run.recipe.process(timing, run.bank.disease.name)  # type: ignore[arg-type]
    seeds = episode_seeds(run.recipe.seed, "training-report", bank.patients, EPISODES)
    played = rollout(DecisionProcess(bank, process), actor.act, draw_noise(seeds, bank, process))
    dt, valid = played.dt.numpy(), played.valid.numpy()
    used = valid.sum(-1)
    last = np.take_along_axis(dt, (used - 1)[..., None], -1)
    kinds = {"every interval": dt[valid], "first interval": dt[..., 0], "last interval": last, "decisions used": used}
    return {kind: [float(q) for q in np.percentile(values, QUANTILES)] for kind, values in kinds.items()}


def _section(run: BehaviorRun, scope: str, timing: str) -> Section:
    """The part of the page on one trained scope and timing."""
    result, unit = run.results[scope, timing], run.bank.disease.process.unit
    config = result.policy.provenance["training"]
    limit = config["cost_limit"] if "lag" in config["algorithm"] else None
    rows = [[kind, *map(Estimate, q)] for kind, q in interval_table(run, result.policy, timing).items()]
    stopped = ", ".join(f"{p} (update {u})" for p, u in result.stopped.items()) or "none"
    return Section(
        f"{scope}, {timing}",
        f"{config['algorithm']}, {result.state.update} updates of {config['episodes']} episodes per simulator. "
        f"Stopped by a non-finite number: {stopped}.",
        *log_figures(result.log, limit, unit),
        Table(f"Intervals of the finished policy ({unit}), over patients", ["", *(f"{q} %" for q in QUANTILES)], rows),
    )


def _early_section(run: BehaviorRun) -> Section:
    """The part of the page on early-stopped policies: what share of the gap they reached."""
    rows: list[list[Cell]] = []
    for (name, timing), actor in run.early.items():
        facts = actor.provenance
        share, updates = np.array(facts["share"]), np.array(facts["update"])
        spread = [Estimate(float(v)) for v in np.percentile(share, QUANTILES)]
        first = f"{updates.min()} to {updates.max()}" if len(updates) > 1 else str(updates[0])
        rows.append([f"{name}, {timing}", f"{facts['wanted_share']:g}", *spread, first])
    heads = ["Policy", "Wanted", *(f"{q} %" for q in QUANTILES), "Update"]
    table = Table("Share of the return gap between random and expert, over patients", heads, rows)
    return Section("Early-stopped policies", table if rows else None)


def training_page(run: BehaviorRun) -> Page:
    """The page of a run."""
    bank = run.bank
    lead = (
        f"{len(bank)} patients, bank {bank.content_hash[:12]}, recipe {run.recipe.content_hash[:12]}, seed "
        f"{run.recipe.seed}. Curves: median over patients; bands: 25 to 75 % and 5 to 95 %. Returns in training are "
        "those of the stochastic policy."
    )
    sections = [_section(run, scope, timing) for scope, timing in sorted(run.results)]
    return Page(f"Training of {bank.name}", (*sections, _early_section(run)), lead)


def write_training_report(run: BehaviorRun, path: str | Path) -> Path:
    """Write :func:`training_page` to `path`, atomically."""
    return write_page(path, training_page(run))
