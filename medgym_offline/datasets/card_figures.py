"""Figures of a dataset card, drawn from its rows: PNG files beside the README."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.reports import MUTED, SERIES, draw_png

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
    lengths = np.diff(np.r_[starts, len(rows)])
    clock = np.insert(np.repeat(offset, lengths) + rows.time, starts, offset)
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


def _shares(axis: Any, values: np.ndarray, bins: np.ndarray, label: str) -> None:
    """A histogram in percent of all values, those beyond the bins left out."""
    counts, _ = np.histogram(values, bins)
    axis.bar(bins[:-1], 100.0 * counts / len(values), width=np.diff(bins), align="edge", color=SERIES[0])
    axis.set(xlabel=label, xlim=(bins[0], bins[-1]))


def _actions(rows: Transitions, canvas: Canvas) -> None:
    treatments = rows.definition.treatments
    names = (*(t.label or t.name for t in treatments), "interval")[: rows.action_dim]
    axes = canvas.subplots(1, len(names))
    for index, (axis, name) in enumerate(zip(axes, names)):
        _shares(axis, rows.actions[:, index], np.linspace(-1.0, 1.0, 41), name)
        axis.set_xticks([-1, 0, 1])
    axes[0].set_ylabel("% of decisions")


def _intervals(rows: Transitions, canvas: Canvas) -> None:
    left, right = canvas.subplots(1, 2)
    process = rows.definition.process
    _shares(left, rows.dt, np.linspace(0.0, process.max_interval, 37), f"dt (length of an interval, {process.unit})")
    left.set(ylabel="% of decisions", xticks=np.linspace(0, process.max_interval, 7))
    lengths = np.diff(np.r_[rows.episode_starts(), len(rows)])
    _shares(right, lengths, np.arange(0.5, rows.decisions + 1.0), "decisions of an episode")
    right.set_ylabel("% of episodes")
    right.xaxis.get_major_locator().set_params(integer=True)


def _patients(rows: Transitions, canvas: Canvas) -> None:
    left, right = canvas.subplots(1, 2)
    starts = rows.episode_starts()
    returns = np.add.reduceat(rows.rewards.astype(np.float64), starts)
    _, index = np.unique(rows.patient[starts], return_inverse=True)
    count = np.bincount(index)

    def by_patient(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, weights=values.astype(np.float64)) / count

    mean = by_patient(returns)
    place = _map(
        np.stack([by_patient(rows.observations[starts, k]) for k in range(len(rows.definition.variables))], axis=1)
    )
    dots = left.scatter(place[:, 0], place[:, 1], c=mean, cmap="viridis", s=22)
    canvas.colorbar(dots, ax=left).ax.set_title("mean return", fontsize=8)
    left.set(xlabel="first state, component 1", ylabel="first state, component 2")
    order = np.argsort(mean)
    spread = np.sqrt(np.maximum(by_patient(returns**2) - mean**2, 0.0))
    right.errorbar(np.arange(1, len(order) + 1), mean[order], spread[order], fmt=".", ms=4, lw=0.7, color=SERIES[1])
    right.set(xlabel="patients, in order of their mean return", ylabel="return")
    right.xaxis.get_major_locator().set_params(integer=True)


def _map(states: np.ndarray) -> np.ndarray:
    """Two principal components of the patients' mean first states (P, V): (P, 2), in which neighbors began alike."""
    centered = states - states.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    place = np.zeros((len(states), 2))
    place[:, : min(2, len(axes))] = centered @ axes[:2].T
    return place


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
        CardFigure("actions.png", "Actions as executed, in percent of the decisions; each has its own scale."),
        _actions,
        2.4,
    ),
    (CardFigure("intervals.png", "How long decisions were held, and how many an episode has."), _intervals, 2.6),
    (
        CardFigure(
            "patients.png",
            "Patients: principal components of their mean first states, colored by mean return (left), and mean and "
            "standard deviation of the return of each (right).",
        ),
        _patients,
        3.2,
    ),
)


def draw_figures(folder: Path, rows: Transitions) -> list[CardFigure]:
    """Draw the figures of a card into a folder (made if missing); the same rows give the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure, draw, height in _FIGURES:
        draw_png(folder / figure.file, partial(draw, rows), (9.0, height))
    return [figure for figure, _, _ in _FIGURES]
