"""The paper's figures from the results alone: SVG files.

    python -m experiments.figures online offline --output runs/figures

For each timing and world: scores with their intervals (Figure 11), Ind against Pop patient by patient (5, 9, 10, 12),
mean courses of severity and lactate (6, 11), of an online study scores by budget (4), of an offline one the distance to
the data (13).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.common import HERE, Row, Scores, read_scores
from experiments.offline import BEHAVIOR, OfflineRecipe
from experiments.offline import label as offline_label
from experiments.online import OnlineRecipe, label
from medgym_offline.reports.figures import INK, draw_to

__all__ = ["draw"]

COURSES = {"sofa": "SOFA, points", "lactate": "Lactate, mmol/L"}


@dataclass(frozen=True)
class Panel:
    """What a figure is drawn from: scores, a world, the rows shown, and what they are called."""

    scores: Scores
    world: str
    rows: list[Row]
    name: Callable[[Row], str]

    def intervals(self, axes: Any) -> None:
        """Mean severity of every row."""
        for at, row in enumerate(self.rows):
            one = self.scores.mean(row, self.world, "severity_mean")
            axes.errorbar([one.value], [at], xerr=[[one.value - one.low], [one.high - one.value]], fmt="o")
        axes.set(yticks=range(len(self.rows)), yticklabels=map(self.name, self.rows), xlabel="SOFA (all), points")

    def patients(self, axes: Any) -> None:
        """Gain of Ind over Pop in every patient, where a row has such a partner."""
        pairs = [r for r in self.rows if r.scope != "pop" and r._replace(scope="pop") in self.rows]
        for at, row in enumerate(pairs):
            gain = np.sort(self._severity(row._replace(scope="pop")) - self._severity(row))
            axes.plot(gain, at + np.linspace(-0.3, 0.3, len(gain)), ".", markersize=3)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set(yticks=range(len(pairs)), yticklabels=map(self.name, pairs), xlabel="SOFA of Pop minus SOFA of Ind")

    def _severity(self, row: Row) -> np.ndarray:
        found = self.scores.frame.filter(**row._asdict(), world=self.world, metric="severity_mean")
        return found.group_by("patient").agg(pl.mean("value")).sort("patient")["value"].to_numpy()

    def courses(self, axes: Any, variable: str) -> None:
        """Mean over patients."""
        for row in self.rows:
            axes.plot(*self.scores.course(row, self.world, variable), label=self.name(row))
        axes.set(xlabel="Hours", ylabel=COURSES[variable], xticks=range(0, 97, 24))
        axes.legend(fontsize=6)

    def support(self, axes: Any) -> None:
        """Share of decisions within a distance of the behavior data."""
        for row in self.rows:
            share, distance = self.scores.course(row, self.world, "support_distance")
            axes.plot(np.maximum(distance, 1e-3), share, label="the data" if row.method == "data" else self.name(row))
        axes.set(xscale="log", xlabel="Distance to the nearest behavior data (SD)", ylabel="Decisions within it, %")
        axes.legend(fontsize=6)


def draw(recipe: OnlineRecipe | OfflineRecipe, frame: pl.DataFrame, home: Path, resamples: int = 10_000) -> list[Path]:
    """Write the figures of a study's tidy table below `home`."""
    scores, found = Scores(frame, resamples), []
    name = partial(label, recipe=recipe) if isinstance(recipe, OnlineRecipe) else offline_label
    trained = [row for row in scores.rows if row.scope != "baseline"]
    for world, timing in ((w, t) for w in scores.worlds for t in dict.fromkeys(row.timing for row in trained)):
        rows = [row for row in trained if row.timing == timing]
        if isinstance(recipe, OnlineRecipe):
            rows = [row for row in rows if row.decisions == recipe.decisions]
        panel = Panel(scores, world, rows, name)
        figures = {"scores": panel.intervals, "patients": panel.patients}
        figures |= {variable: partial(panel.courses, variable=variable) for variable in COURSES}
        if isinstance(recipe, OnlineRecipe):
            family = recipe.budget_algorithm, recipe.budget_scope, timing
            figures["budget"] = Panel(scores, world, [Row(*family, k) for k in recipe.budget_decisions], name).intervals
        else:
            ind = [row for row in rows if row.scope == "ind"] or [row for row in rows if row.method != BEHAVIOR]
            shown = [*ind, Row("data", "data", timing, rows[0].decisions)]
            figures["support"] = Panel(scores, world, shown, name).support
        for kind, on in figures.items():
            path = home / f"{kind}-{timing}-{world}.svg"
            draw_to(path, lambda canvas, on=on: on(canvas.subplots()), (6.0, 5.0))
            found.append(path)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="recipes of the online or offline study")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of NAME.parquet")
    parser.add_argument("--output", type=Path, default=Path("runs/figures"))
    options = parser.parse_args()
    for name in options.names:
        kind = OnlineRecipe if Path(name).stem.startswith("online") else OfflineRecipe
        scored = read_scores(options.results / f"{Path(name).stem}.parquet")
        print(*draw(kind.load(name), scored, options.output / Path(name).stem), sep="\n")
