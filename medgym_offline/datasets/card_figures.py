"""Figures of a dataset card, drawn from its rows: PNG files beside the README."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.transitions import HORIZON, Transitions
from medgym_offline.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["CardFigure", "can_draw", "draw_figures"]

BLUE, ORANGE, GREY = "#2563a8", "#c2570c", "#8a8a8a"
SHOWN = 60
"""Episodes drawn as single lines."""


@dataclass(frozen=True)
class CardFigure:
    """A figure: file name, caption, and what it shows in words."""

    file: str
    caption: str


def can_draw() -> bool:
    """Whether matplotlib is installed (extra `report`)."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _hourly(rows: Transitions, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over episodes of a step function of time, at each hour.

    `values[i]` was read where decision i ended, and is held there until the next one ends.
    """
    hours = np.arange(0.0, HORIZON + 1.0, 4.0)
    starts = rows.episode_starts()
    # Global clock: episode number x 97 h + hour, so that one sorted search serves all episodes.
    number = np.cumsum(np.r_[0, np.diff(rows.episode) != 0])
    clock = number * (HORIZON + 1.0) + rows.time.astype(np.float64)
    asked = np.arange(len(starts))[:, None] * (HORIZON + 1.0) + hours[None, 1:]
    at = np.searchsorted(clock, asked - 1e-4).clip(0, len(rows) - 1)
    grid = values[at].astype(np.float64)
    return hours[1:], np.stack([grid.mean(0), grid.std(0)])


def _trajectories(canvas: Canvas, rows: Transitions) -> None:
    axes = canvas.subplots(1, 2)
    starts = rows.episode_starts()
    ends = np.r_[starts[1:], len(rows)]
    shown = np.unique(np.linspace(0, len(starts) - 1, min(SHOWN, len(starts))).round().astype(int))
    for axis, values, name in zip(axes, (rows.sofa, rows.lactate), ("SOFA surrogate (points)", "lactate (mmol/L)")):
        for number in shown:
            part = slice(starts[number], ends[number])
            axis.plot(rows.time[part], values[part], color=GREY, lw=0.5, alpha=0.35)
        hours, (mean, spread) = _hourly(rows, values)
        axis.fill_between(hours, mean - spread, mean + spread, color=BLUE, alpha=0.2, lw=0)
        axis.plot(hours, mean, color=BLUE, lw=2)
        axis.set(xlabel="hour", ylabel=name, xlim=(0, HORIZON), ylim=(0, None))


def _actions(canvas: Canvas, rows: Transitions) -> None:
    names = ("inspired oxygen", "vasopressor", "fluids", "interval")[: rows.action_dim]
    axes = canvas.subplots(1, len(names), sharey=True)
    bins = np.linspace(-1.0, 1.0, 41)
    for index, (axis, name) in enumerate(zip(axes, names)):
        counts, _ = np.histogram(rows.actions[:, index], bins)
        axis.bar(bins[:-1], 100.0 * counts / len(rows), width=np.diff(bins), align="edge", color=BLUE)
        axis.set(xlabel=f"actions[{index}]: {name}", xlim=(-1, 1))
    axes[0].set_ylabel("% of decisions")


def _intervals(canvas: Canvas, rows: Transitions) -> None:
    left, right = canvas.subplots(1, 2)
    bins = np.arange(0.0, 37.0, 1.0)
    counts, _ = np.histogram(rows.dt, bins)
    left.bar(bins[:-1], 100.0 * counts / len(rows), width=1.0, align="edge", color=BLUE)
    left.set(xlabel="dt (hours a decision was held)", ylabel="% of decisions", xlim=(0, 36))
    lengths = np.diff(np.r_[rows.episode_starts(), len(rows)])
    counts = np.bincount(lengths, minlength=rows.decisions + 1)
    right.bar(np.arange(len(counts)), 100.0 * counts / len(lengths), color=BLUE)
    right.set(xlabel="decisions of an episode", ylabel="% of episodes", xlim=(0, rows.decisions + 1))


def _patients(canvas: Canvas, rows: Transitions) -> None:
    left, right = canvas.subplots(1, 2)
    starts = rows.episode_starts()
    returns = np.add.reduceat(rows.rewards.astype(np.float64), starts)
    owner = rows.patient[starts]
    first = rows.observations[starts]
    present, index = np.unique(owner, return_inverse=True)
    count = np.bincount(index)

    def by_patient(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, weights=values.astype(np.float64)) / count

    mean = by_patient(returns)
    # Principal components of the patients' mean first states: neighbours began alike.
    states = np.stack([by_patient(first[:, k]) for k in range(6)], axis=1)
    centred = states - states.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    place = np.zeros((len(present), 2))
    place[:, : min(2, len(axes))] = centred @ axes[:2].T
    dots = left.scatter(place[:, 0], place[:, 1], c=mean, cmap="viridis", s=22)
    canvas.colorbar(dots, ax=left, label="mean return")
    left.set(xlabel="first state, component 1", ylabel="first state, component 2")
    order = np.argsort(mean)
    spread = np.sqrt(np.maximum(by_patient(returns**2) - mean**2, 0.0))
    right.errorbar(np.arange(len(order)), mean[order], spread[order], fmt=".", ms=4, lw=0.7, color=ORANGE)
    right.set(xlabel="patients, in order of their mean return", ylabel="return (mean +- sd)")


_FIGURES: tuple[tuple[str, str, Callable[[Any, Transitions], None], tuple[float, float]], ...] = (
    (
        "trajectories.png",
        "SOFA surrogate and lactate over the 96 hours: single episodes (grey), mean and standard deviation over all "
        "episodes at every fourth hour (blue), values held until the next decision ends.",
        _trajectories,
        (8.0, 3.0),
    ),
    ("actions.png", "Actions as executed, in percent of the decisions.", _actions, (8.0, 2.4)),
    ("intervals.png", "How long decisions were held, and how many an episode has.", _intervals, (8.0, 2.6)),
    (
        "patients.png",
        "Patients: principal components of their mean first states, coloured by mean return (left), and mean and "
        "standard deviation of the return of each (right).",
        _patients,
        (8.0, 3.0),
    ),
)


def draw_figures(folder: Path, rows: Transitions) -> list[CardFigure]:
    """Draw the figures of a card into a folder (made if missing); the same rows give the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as MplFigure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "report", "the figures of a dataset card") from None
    settings: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for file, caption, draw, size in _FIGURES:
        with matplotlib.rc_context(settings):
            canvas = MplFigure(figsize=size, layout="constrained")
            FigureCanvasAgg(canvas)
            draw(canvas, rows)
            # White, because the Hub's page may be dark; no software version, so that bytes depend on the rows alone.
            canvas.savefig(folder / file, dpi=110, facecolor="white", metadata={"Software": None})
        made.append(CardFigure(file, caption))
    return made
