"""The paper's figures from the results alone: a page per study.

    python -m experiments.figures online offline --output runs/figures

For each world and timing: scores with their intervals (Figure 11), Ind against Pop patient by patient (5, 9, 10, 12),
mean courses of severity and lactate (6, 11), of an online study scores by budget (4), of an offline one the distance to
the data (13).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer

from experiments.common import HERE, Row, Scores, label, read_scores
from medgym_offline.reports.blocks import Figure, Page, Section, write_page
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

    def figure(world: str, name: str, draw: Callable[..., None], rows: list[Row], *more: str) -> Figure:
        return draw_figure(name, lambda on: draw(on.subplots(), scores, world, rows, *more), name, (6.0, 5.0))

    for world, timing in product(scores.worlds, dict.fromkeys(row.timing for row in trained)):
        rows = [row for row in trained if row.timing == timing and row.decisions == most]
        kinds: list[Any] = [("Scores", _intervals, rows), ("Ind against Pop", _patients, rows)]
        kinds += [("Severity over time", _courses, rows, "sofa"), ("Lactate over time", _courses, rows, "lactate")]
        if budget := [row for row in trained if row.timing == timing and row.decisions < most]:
            kinds.append(("Scores by budget", _intervals, [*budget, budget[0]._replace(decisions=most)]))
        if "support_distance" in scores.frame["metric"]:
            kinds.append(("Distance to the data", _support, [row for row in rows if row.scope == "ind"] or rows))
        figures = (figure(world, *kind) for kind in kinds)
        sections.append(Section(f"{world.capitalize()} world, {timing} timing", *figures))
    return Page(title, sections)


def main(names: list[str], results: Path = HERE / "results", output: Path = Path("runs/figures")) -> None:
    """Draw NAMES, recipes of the online or offline study, from RESULTS, the folder of NAME.parquet."""
    for name in names:
        write_page(
            output / f"{name}.html", page(Scores(read_scores(results / f"{name}.parquet")), f"Figures of {name}")
        )
        print(output / f"{name}.html")


if __name__ == "__main__":
    typer.run(main)
