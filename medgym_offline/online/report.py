"""The training report: one HTML page with the curves of every policy of a run, and how the policies time treatment.

Nothing on the page comes from elsewhere: figures are inline SVG, styles are in the page.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.files import write_text
from medgym_offline.svg import INK, MUTED, SERIES, Figure, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medgym_offline.online.behavior import BehaviorRun
    from medgym_offline.policies.actor import StackedActor

__all__ = ["QUANTILES", "interval_table", "log_figures", "training_report", "write_training_report"]

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
    "first": "First hold (h)",
    "last": "Last hold (h)",
}
_STYLE = """
:root { --ink: #1c2024; --muted: #6b7280; --line: #d9dde3; --page: #ffffff; --series-1: #2563a8; --series-2: #b4541a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --muted: #9aa3af; --line: #3a4048; --page: #14171a;
    --series-1: #7db4ea; --series-2: #eda06b; }
}
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } .scroll { overflow-x: auto; } .note { color: var(--muted); }
"""


def log_figures(log: dict[str, torch.Tensor], key: str, limit: float | None = None) -> list[Figure]:
    """Curves of a training log over updates: median over policies or simulators, 25-75 % and 5-95 % bands.

    Args:
        log: Name -> `(updates, S or P)`, as in `TrainResult.log`.
        key: Prefix of the figures' ids.
        limit: Cost limit, drawn into the figure of the cost.
    """
    found = []
    for name, title in _CURVES.items():
        if name not in log:
            continue
        values = log[name].double().numpy()
        bands = _quantiles(values)

        def draw(canvas: Any, name: str = name, bands: np.ndarray = bands, title: str = title) -> None:
            axes: Axes = canvas.add_subplot()
            x = np.arange(1, bands.shape[1] + 1)
            axes.grid(True)
            axes.fill_between(x, bands[0], bands[4], color=SERIES[0], alpha=0.12, linewidth=0)
            axes.fill_between(x, bands[1], bands[3], color=SERIES[0], alpha=0.22, linewidth=0)
            axes.plot(x, bands[2], color=SERIES[0], linewidth=1.6)
            if name == "cost" and limit is not None:
                axes.axhline(limit, color=SERIES[1], linewidth=1.0, linestyle=(0, (4, 2)))
                axes.text(x[-1], limit, "limit", color=INK, ha="right", va="bottom")
            axes.set_xlabel("Update", color=MUTED)
            axes.set_ylabel(title)

        start, end = bands[:, 0], bands[:, -1]
        description = (
            f"{title} over {bands.shape[1]} updates: median {start[2]:.3g} at first, {end[2]:.3g} at the end "
            f"(5 to 95 % of {values.shape[1]}: {end[0]:.3g} to {end[4]:.3g})."
        )
        found.append(Figure(title, inline_svg(draw, f"{key}-{name}", (4.6, 2.9)), description))
    return found


def _quantiles(values: np.ndarray) -> np.ndarray:
    """(5, updates) quantiles over the last axis; an update at which nobody has a value takes the one before."""
    found = np.full((len(QUANTILES), values.shape[0]), np.nan)
    for update, row in enumerate(values):
        known = row[np.isfinite(row)]
        found[:, update] = np.percentile(known, QUANTILES) if len(known) else found[:, max(update - 1, 0)]
    return found


def interval_table(run: BehaviorRun, actor: StackedActor, timing: str) -> dict[str, list[float]]:
    """Quantiles (5, 25, 50, 75, 95 %) in hours of every hold, of the first and of the last, and of decisions used.

    From :data:`EPISODES` episodes per patient of the policy's deterministic actions in the patients' own simulators.
    """
    bank, process = run.bank, run.recipe.process(timing, run.bank.disease.name)
    seeds = episode_seeds(run.recipe.seed, "training-report", bank.patients, EPISODES)
    noise = draw_noise(seeds, bank, process)
    played = rollout(DecisionProcess(bank, process), actor.act, noise)
    dt, valid = played.dt.numpy(), played.valid.numpy()
    used = valid.sum(-1)
    last = np.take_along_axis(dt, (used - 1)[..., None], -1)
    kinds = {"every hold": dt[valid], "first hold": dt[..., 0], "last hold": last, "decisions used": used}
    return {kind: [float(q) for q in np.percentile(values, QUANTILES)] for kind, values in kinds.items()}


def _section(run: BehaviorRun, scope: str, timing: str) -> str:
    """The part of the page on one trained scope and timing."""
    result = run.results[scope, timing]
    config = result.actor.provenance["training"]
    limit = config["cost_limit"] if "lag" in config["algorithm"] else None
    figures = "".join(
        f'<figure role="img" aria-label="{html.escape(f.description)}"><figcaption>{html.escape(f.title)}</figcaption>'
        f"{f.svg}<p class=note>{html.escape(f.description)}</p></figure>"
        for f in log_figures(result.log, f"{scope}-{timing}", limit)
    )
    rows = [[kind, *(f"{v:.2f}" for v in q)] for kind, q in interval_table(run, result.actor, timing).items()]
    stopped = ", ".join(f"{html.escape(p)} (update {u})" for p, u in result.stopped.items()) or "none"
    return (
        f"<h2>{scope}, {timing}</h2><p>{html.escape(config['algorithm'])}, {result.state.update} updates of "
        f"{config['episodes']} episodes per simulator. Stopped by a non-finite number: {stopped}.</p>"
        f'<div class="figures">{figures}</div><h3>Holds of the finished policy, hours</h3>'
        + _table(["", *(f"{q} %" for q in QUANTILES)], rows)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th scope=col>{html.escape(c)}</th>" for c in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"


def _early_section(run: BehaviorRun) -> str:
    """The part of the page on early-stopped policies: what share of the gap they reached."""
    rows = []
    for (name, timing), actor in run.early.items():
        facts = actor.provenance
        share, updates = np.array(facts["share"]), np.array(facts["update"])
        spread = [f"{v:.2f}" for v in np.percentile(share, QUANTILES)]
        first = f"{updates.min()} to {updates.max()}" if len(updates) > 1 else str(updates[0])
        rows.append([f"{name}, {timing}", f"{facts['wanted_share']:g}", *spread, first])
    if not rows:
        return ""
    head = ["policy", "wanted", *(f"{q} %" for q in QUANTILES), "update"]
    text = "<h2>Early-stopped policies</h2><p>Share of the return gap between random and expert, over patients.</p>"
    return text + _table(head, rows)


def training_report(run: BehaviorRun) -> str:
    """The page, as HTML text."""
    bank = run.bank
    intro = (
        f"<h1>Training of {html.escape(bank.name)}</h1><p class=note>{len(bank)} patients, bank "
        f"{bank.content_hash[:12]}, recipe {run.recipe.content_hash[:12]}, seed {run.recipe.seed}. Curves: median over "
        "patients; bands: 25 to 75 % and 5 to 95 %. Returns in training are those of the stochastic policy.</p>"
    )
    sections = "".join(_section(run, scope, timing) for scope, timing in sorted(run.results))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training of {html.escape(bank.name)}</title><style>{_STYLE}</style></head>"
        f"<body>{intro}{sections}{_early_section(run)}</body></html>\n"
    )


def write_training_report(run: BehaviorRun, path: str | Path) -> Path:
    """Write :func:`training_report` to `path`, atomically.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    write_text(path, training_report(run))
    return Path(path)
