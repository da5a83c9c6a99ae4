"""Figures of a dataset card, drawn from its rows: PNG files beside the README."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.reports.figures import MUTED, SERIES, draw_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["CardFigure", "draw_figures"]

SHOWN = 60
"""Episodes drawn as single lines."""


@dataclass(frozen=True)
class CardFigure:
    """A figure: file name, caption, and what it shows in words."""

    file: str
    caption: str


def _hourly(rows: Transitions, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """25 times from 0 to the horizon (H,), and the values of all E episodes at them, (E, H).

    `values[i]` was read where decision i ended. Between readings they lie on a straight line, before an episode's
    first on a level one.
    """
    horizon = rows.definition.process.horizon
    hours = np.linspace(0.0, horizon, 25)
    starts = rows.episode_starts()
    # Each episode lies in its own stretch of one long clock, so that one interpolation serves all.
    offset = np.arange(len(starts)) * 2.0 * horizon
    clock = np.insert(np.repeat(offset, rows.episode_lengths()) + rows.time, starts, offset)
    readings = np.insert(values.astype(np.float64), starts, values[starts])
    return hours, np.interp(offset[:, None] + hours, clock, readings)


def _trajectories(rows: Transitions, canvas: Canvas) -> None:
    starts = rows.episode_starts()
    shown = np.unique(np.linspace(0, len(starts) - 1, min(SHOWN, len(starts))).round().astype(int))
    axes = canvas.subplots(1, 2)
    disease = rows.definition
    process, monitored = disease.process, disease.components[disease.monitored]
    labels = (
        f"{disease.severity.label} ({disease.severity.unit})",
        f"{monitored.label or monitored.name} ({monitored.unit})",
    )
    for axis, values, name in zip(axes, (rows.severity, rows.monitored), labels):
        hours, grid = _hourly(rows, values)
        axis.plot(hours, grid[shown].T, color=MUTED, lw=0.6, alpha=0.45)
        low, middle, high = np.quantile(grid, (0.05, 0.5, 0.95), axis=0)
        axis.fill_between(hours, low, high, color=SERIES[0], alpha=0.2, lw=0)
        axis.plot(hours, middle, color=SERIES[0], lw=2)
        ticks = np.linspace(0, process.horizon, 5)
        axis.set(xlabel=f"time ({process.unit})", ylabel=name, xlim=(0, process.horizon), ylim=(0, None), xticks=ticks)


def _decisions(rows: Transitions, canvas: Canvas) -> None:
    """Histograms, in percent: of the doses, of the intervals, of the number of decisions of an episode."""
    disease, process = rows.definition, rows.definition.process
    box = np.linspace(-1.0, 1.0, 41)
    panels = [(rows.actions[:, i], box, t.label or t.name) for i, t in enumerate(disease.treatments)]
    panels.append((rows.dt, np.linspace(0.0, process.max_interval, 37), f"dt ({process.unit})"))
    panels.append((rows.episode_lengths(), np.arange(0.5, rows.decisions + 1.0), "decisions of an episode"))
    for axis, (values, bins, label) in zip(canvas.subplots(1, len(panels)), panels):
        counts, _ = np.histogram(values, bins)
        axis.bar(bins[:-1], 100.0 * counts / len(values), width=np.diff(bins), align="edge", color=SERIES[0])
        axis.set(xlabel=label, xlim=(bins[0], bins[-1]))
    canvas.axes[0].set_ylabel("%")


_FIGURES: tuple[tuple[CardFigure, Callable[[Transitions, Canvas], None], float], ...] = (
    (
        CardFigure(
            "trajectories.png",
            "Severity and the monitored component over the episode: single episodes (gray), and the median and the "
            "middle 90 % of all episodes (blue). Read where decisions end and drawn straight between.",
        ),
        _trajectories,
        3.0,
    ),
    (
        CardFigure(
            "decisions.png",
            "Actions as executed and the length of the intervals, in percent of the decisions, and how many decisions "
            "an episode has, in percent of the episodes.",
        ),
        _decisions,
        2.4,
    ),
)


def draw_figures(folder: Path, rows: Transitions) -> list[CardFigure]:
    """Draw the figures of a card into a folder (made if missing); the same rows give the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure, draw, height in _FIGURES:
        draw_to(folder / figure.file, partial(draw, rows), (9.0, height))
    return [figure for figure, _, _ in _FIGURES]
