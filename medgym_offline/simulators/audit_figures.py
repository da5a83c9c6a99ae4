"""Figures of an audit, each as wide as a phone shows at nominal text size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.diseases.base import Component, Disease, Treatment
from medgym_offline.reports.blocks import Figure
from medgym_offline.reports.figures import INK, MUTED, SERIES, draw_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label", "responses", "rollout"]


def label(item: Component | Treatment) -> str:
    """A component's or treatment's name as people write it."""
    text = item.label or item.name.replace("_", " ")
    return text[:1].upper() + text[1:]


def responses(treatment: Treatment, times: np.ndarray, curves: np.ndarray, disease: Disease) -> Figure:
    """Response to a full step of one treatment: (T,) times and (P, T, V) change; all patients and the median."""
    unit, last = disease.process.unit, float(times[-1])

    def draw(canvas: Any) -> None:
        alpha = min(0.9, max(0.35, 15.0 / len(curves)))
        for j, axes in _panels(canvas, disease, False):
            axes.plot(times, curves[:, :, j].T, color=SERIES[0], linewidth=0.5, alpha=alpha)
            axes.plot(times, np.median(curves[:, :, j], 0), color=INK, linewidth=2)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            axes.set(xticks=(0, last / 2, last), xlim=(0, last))
        canvas.supxlabel(f"Time since the step ({unit})", fontsize=10.5)
        canvas.supylabel("Change (SD)", fontsize=10.5)

    end = curves[:, -1]
    described = "; ".join(
        f"{label(v)} rises in {100 * (end[:, j] > 0).mean():.0f} %, median {np.median(end[:, j]):+.2f}"
        for j, v in enumerate(disease.variables)
    )
    return draw_figure(
        f"{label(treatment)}: none to full",
        draw,
        f"Line charts of the change of every variable, a line per patient. After {last:g} {unit}: {described}.",
        (5.0, _height(disease)),
        "One line per patient, the median in ink. Own world; the other treatments at the patient's mean dose.",
    )


def rollout(
    patient: str,
    observed: np.ndarray,
    unseen: np.ndarray,
    paths: Mapping[str, np.ndarray],
    disease: Disease,
    caption: str,
) -> Figure:
    """One patient's record and the free rollouts, physical units.

    Args:
        patient: Id.
        observed: (T, V), NaN where nothing was observed.
        unseen: (T,) steps whose observations the simulator was not fitted to.
        paths: "ind" and "pop", (up to T, V).
        disease: Names, units.
        caption: What to say below.
    """
    times, horizon = np.arange(len(observed)), disease.process.horizon

    def draw(canvas: Any) -> None:
        for j, axes in _panels(canvas, disease, True):
            for name, color, dash in (("pop", SERIES[1], (0, (5, 2))), ("ind", SERIES[0], "-")):
                path = paths[name][:, j]
                axes.plot(times[: len(path)], path, color=color, linewidth=1.6, linestyle=dash, label=name.capitalize())
            for chosen, fill, name in ((~unseen, INK, "fitted to"), (unseen, "none", "held out")):
                dots: dict[str, Any] = {"facecolors": fill, "edgecolors": INK, "linewidths": 0.7, "label": name}
                axes.scatter(times[chosen], observed[chosen, j], s=9, **dots)
            axes.set(xticks=(0, horizon / 2, horizon), xlim=(-0.02 * horizon, 1.01 * horizon))
        canvas.supxlabel(f"Time ({disease.process.unit})", fontsize=10.5)
        _legend(canvas, 4)

    counts = ", ".join(f"{np.isfinite(observed[:, j]).sum()} of {label(v)}" for j, v in enumerate(disease.variables))
    description = (
        f"Individual (solid) and population (dashed) rollouts from the first state, observations as dots ({counts})."
    )
    return draw_figure(f"Patient {patient}", draw, description, (5.0, _height(disease) + 0.2), caption)


def _shape(disease: Disease) -> tuple[int, int]:
    """Rows and columns of the small axes."""
    columns = min(2, len(disease.variables))
    return -(-len(disease.variables) // columns), columns


def _height(disease: Disease) -> float:
    return 0.6 + 1.6 * _shape(disease)[0]


def _panels(canvas: Any, disease: Disease, units: bool) -> Iterator[tuple[int, Axes]]:
    """Small axes, two in a row: one per variable, with its title."""
    panels = canvas.subplots(*_shape(disease), sharex=True, squeeze=False).flat
    for j, axes in enumerate(panels):
        if j < len(disease.variables):
            variable = disease.variables[j]
            axes.set_title(label(variable) + (f" ({variable.unit})" if units else ""))
            yield j, axes
        else:
            axes.set_axis_off()


def _legend(canvas: Any, columns: int) -> None:
    handles, names = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside upper left", ncols=columns, fontsize=9.5)
