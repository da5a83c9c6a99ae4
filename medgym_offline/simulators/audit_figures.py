"""Figures of an audit: inline SVG (`medgym_offline.svg`), each with a description in words.

Every figure is as wide as a phone shows at nominal text size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.svg import INK, MUTED, SERIES, Figure, inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from medgym_offline.diseases.base import Disease

__all__ = ["Figure", "bars", "gains", "label", "responses", "rollout"]

_LABELS = {
    "spo2": "SpO2",
    "pao2": "PaO2",
    "gcs": "GCS",
    "fio2": "FiO2",
}


def label(name: str) -> str:
    """A variable's or treatment's name as people write it."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def bars(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Mean severity under constant treatments, one bar per world; {world: {policy: {"severity": ...}}}."""
    names = max((list(t) for t in tables.values()), key=len)
    worlds = list(tables)

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        height = 0.8 / len(worlds)
        for n, world in enumerate(worlds):
            known = [(k, tables[world][p]["severity"]) for k, p in enumerate(names) if p in tables[world]]
            at = [k + (n - (len(worlds) - 1) / 2) * height for k, _ in known]
            axes.barh(at, [v for _, v in known], 0.9 * height, color=SERIES[n], label=f"{world} world")
            for y, (_, value) in zip(at, known):
                axes.text(value + 0.08, y, f"{value:.2f}", va="center", fontsize=8, color=MUTED)
        axes.set_yticks(range(len(names)), [_wrap(n) for n in names])
        axes.invert_yaxis()
        axes.grid(True, axis="x")
        axes.margins(x=0.12)
        axes.set_xlabel("Mean SOFA surrogate over 96 h")
        _legend(canvas, len(worlds))

    described = "; ".join(
        f"{p}: " + ", ".join(f"{w} {tables[w][p]['severity']:.2f}" for w in worlds if p in tables[w]) for p in names
    )
    return Figure(
        "Constant treatments in every world",
        inline_svg(draw, "bars", (5.0, 0.9 + 0.2 * len(names) * (len(worlds) + 1))),
        f"Bar chart of mean severity. {described}.",
    )


def responses(treatment: str, hours: np.ndarray, curves: np.ndarray, disease: Disease) -> Figure:
    """Response to a full step of one treatment: (T,) hours and (P, T, 6) change; all patients and the median."""

    def draw(canvas: Canvas) -> None:
        from matplotlib.collections import LineCollection

        alpha = min(0.9, max(0.35, 15.0 / len(curves)))
        for axes, (j, variable) in zip(_panels(canvas), enumerate(disease.variables)):
            lines = [np.stack([hours, c], 1) for c in curves[:, :, j]]
            axes.add_collection(LineCollection(lines, colors=SERIES[0], linewidths=0.5, alpha=alpha))
            axes.plot(hours, np.median(curves[:, :, j], 0), color=INK, linewidth=2)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            axes.set_title(label(variable.name), fontsize=10.5, loc="left")
            axes.set_xticks((0, 12, 24))
            axes.set_xlim(0, 24)
        canvas.supxlabel("Hours since the step", fontsize=10.5)
        canvas.supylabel("Change (SD)", fontsize=10.5)

    end = curves[:, -1]
    described = "; ".join(
        f"{label(v.name)} rises in {100 * (end[:, j] > 0).mean():.0f} %, median {np.median(end[:, j]):+.2f}"
        for j, v in enumerate(disease.variables)
    )
    return Figure(
        f"{label(treatment)}: none to full",
        inline_svg(draw, f"response-{treatment}", (5.0, 5.4)),
        f"Line charts of the change of six variables over 24 h, a line per patient. Patients after 24 h: {described}.",
    )


def rollout(
    patient: str,
    number: int,
    observed: np.ndarray,
    held_out: np.ndarray,
    paths: Mapping[str, np.ndarray],
    disease: Disease,
) -> Figure:
    """One patient's record and the free rollouts, physical units.

    Args:
        patient: Id.
        number: Makes the ids of this figure its own.
        observed: (T, 6), NaN where nothing was observed.
        held_out: (T,) hours whose observations the simulator was not fitted to.
        paths: "ind" and "pop", (T, 6).
        disease: Names, units.
    """
    hours = np.arange(len(observed))

    def draw(canvas: Canvas) -> None:
        for axes, (j, variable) in zip(_panels(canvas), enumerate(disease.variables)):
            axes.plot(hours, paths["pop"][:, j], color=SERIES[1], linewidth=1.5, linestyle=(0, (5, 2)), label="Pop")
            axes.plot(hours, paths["ind"][:, j], color=SERIES[0], linewidth=1.7, label="Ind")
            for chosen, fill, name in ((~held_out, INK, "fitted to"), (held_out, "none", "held out")):
                axes.scatter(
                    hours[chosen],
                    observed[chosen, j],
                    s=9,
                    facecolors=fill,
                    edgecolors=INK,
                    linewidths=0.7,
                    label=name,
                )
            axes.set_title(f"{label(variable.name)} ({variable.unit})", fontsize=9.5, loc="left")
            axes.set_xticks((0, 48, 96))
            axes.set_xlim(-2, 97)
        canvas.supxlabel("Hours since admission", fontsize=10.5)
        _legend(canvas, 4)

    counts = ", ".join(
        f"{int(np.isfinite(observed[:, j]).sum())} of {label(v.name)}" for j, v in enumerate(disease.variables)
    )
    return Figure(
        f"Patient {patient}",
        inline_svg(draw, f"rollout-{number}", (5.0, 5.6)),
        f"Line charts of six variables over 96 h: individual (solid) and population (dashed) rollouts from the first "
        f"state, and the observations as dots ({counts}).",
    )


def gains(groups: Mapping[str, Sequence[float]]) -> Figure:
    """Gain of one class of schedules over another, %, patients sorted; {statement: (P,) gains}."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for n, (name, values) in enumerate(groups.items()):
            share = 100.0 * (np.arange(len(values)) + 0.5) / len(values)
            axes.plot(
                share, np.sort(values), color=SERIES[n], linewidth=1.8, linestyle=("-", (0, (5, 2)))[n % 2], label=name
            )
        axes.grid(True)
        axes.set_xlim(0, 100)
        axes.set_xlabel("Patients, from least to most to gain (%)")
        axes.set_ylabel("Lower harm (%)")
        _legend(canvas, 1)

    described = "; ".join(f"{n}: median {np.median(v):.1f} %, largest {max(v):.1f} %" for n, v in groups.items())
    return Figure(
        "What schedules could gain", inline_svg(draw, "gains", (5.0, 3.6)), f"Sorted gains per patient. {described}."
    )


def _panels(canvas: Canvas) -> list[Any]:
    """Six small axes, two in a row."""
    panels = list(canvas.subplots(3, 2, sharex=True).flat)
    for axes in panels:
        axes.grid(True)
    return panels


def _legend(canvas: Canvas, columns: int) -> None:
    handles, names = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)


def _wrap(text: str) -> str:
    """At most about 22 characters a line."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 22:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
