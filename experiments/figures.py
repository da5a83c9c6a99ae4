"""The paper's figures from the results alone: a page per study.

    python -m experiments.figures online offline --output runs/figures

For each world and timing: scores with their intervals (Figure 11), Ind against Pop patient by patient (5, 9, 10, 12),
mean courses of severity and lactate (6, 11), of an online study scores by budget (4), of an offline one the distance to
the data (13).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.common import HERE, Row, Scores, label, read_scores
from medgym_offline.reports.blocks import Page, Section, write_page
from medgym_offline.reports.figures import INK, draw_figure


def _intervals(axes: Any, scores: Scores, world: str, rows: list[Row]) -> None:
    """Mean severity of every row."""
    for at, row in enumerate(rows):
        value, low, high = scores.mean(row, world, "severity_mean") or (np.nan,) * 3
        axes.errorbar([value], [at], xerr=[[value - low], [high - value]], fmt="o")
    names = [f"{label(row)}, K = {row.decisions}" for row in rows]
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel="SOFA (all), points")


def _patients(axes: Any, scores: Scores, world: str, rows: list[Row]) -> None:
    """Gain of Ind over Pop in every patient, where a row has such a partner."""

    found = scores.frame.filter(world=world, metric="severity_mean").group_by("patient", *Row._fields)
    mean = found.agg(pl.mean("value")).sort("patient")
    pairs = [row for row in rows if row.scope != "pop" and row._replace(scope="pop") in rows]
    for at, row in enumerate(pairs):
        ind, pop = (mean.filter(**one._asdict())["value"] for one in (row, row._replace(scope="pop")))
        gain = (pop - ind).sort()
        axes.plot(gain, at + np.linspace(-0.3, 0.3, len(gain)), ".", markersize=3)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set(yticks=range(len(pairs)), yticklabels=map(label, pairs), xlabel="SOFA of Pop minus SOFA of Ind")


def _courses(axes: Any, scores: Scores, world: str, rows: list[Row], variable: str) -> None:
    """Mean over patients."""
    for row in rows:
        axes.plot(*scores.course(row, world, variable), label=label(row))
    axes.set(xlabel="Hours", ylabel={"sofa": "SOFA, points", "lactate": "Lactate, mmol/L"}[variable])
    axes.legend(fontsize=6)


def _support(axes: Any, scores: Scores, world: str, rows: list[Row]) -> None:
    """Share of decisions within a distance of the behavior data."""
    for row in (*rows, Row("data", "data", rows[0].timing, rows[0].decisions)):
        share, distance = scores.course(row, world, "support_distance")
        axes.plot(np.maximum(distance, 1e-3), share, label=label(row))
    axes.set(xscale="log", xlabel="Distance to the nearest behavior data (SD)", ylabel="Decisions within it, %")
    axes.legend(fontsize=6)


def page(scores: Scores, title: str) -> Page:
    """The figures of a study."""
    sections = []
    trained = [row for row in scores.rows if row.scope != "baseline"]
    most = max(row.decisions for row in trained)
    for world, timing in ((w, t) for w in scores.worlds for t in dict.fromkeys(row.timing for row in trained)):
        rows = [row for row in trained if row.timing == timing and row.decisions == most]
        kinds = {"Scores": (_intervals, rows), "Ind against Pop": (_patients, rows)}
        kinds["Severity over time"] = partial(_courses, variable="sofa"), rows
        kinds["Lactate over time"] = partial(_courses, variable="lactate"), rows
        if budget := [row for row in trained if row.timing == timing and row.decisions < most]:
            kinds["Scores by budget"] = _intervals, [*budget, budget[0]._replace(decisions=most)]
        if "support_distance" in scores.frame["metric"]:
            kinds["Distance to the data"] = _support, [row for row in rows if row.scope == "ind"] or rows
        figures = []
        for name, (draw, shown) in kinds.items():
            fill = partial(draw, scores=scores, world=world, rows=shown)
            figures.append(draw_figure(name, lambda canvas, fill=fill: fill(canvas.subplots()), name, (6.0, 5.0)))
        sections.append(Section(f"{world.capitalize()} world, {timing} timing", *figures))
    return Page(title, sections)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="recipes of the online or offline study")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of NAME.parquet")
    parser.add_argument("--output", type=Path, default=Path("runs/figures"))
    options = parser.parse_args()
    for name in options.names:
        scored = Scores(read_scores(options.results / f"{name}.parquet"))
        write_page(options.output / f"{name}.html", page(scored, f"Figures of {name}"))
        print(options.output / f"{name}.html")
