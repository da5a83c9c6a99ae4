"""The paper's figures from the results alone: SVG files.

    python -m experiments.figures online offline --output runs/figures

Online: Figure 4 (budgets, courses), 5, 9 and 10 (Ind against Pop, patient by patient), 6 (severity and lactate), 8
(cases). Offline: 11 (scores and courses), 12 (Ind against Pop), 13 (support distances).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.common import HERE, Row, Scores, read_scores
from experiments.offline import BEHAVIOR, OfflineRecipe
from experiments.offline import label as offline_label
from experiments.online import OnlineRecipe, algorithm_label, label

__all__ = ["draw"]

DASH = {"adaptive": "-", "fixed": "--", "ind": "-", "ind-scratch": "-", "pop": "--", "dr": ":"}
MARK = {"adaptive": "o", "fixed": "s"}
UNITS = {
    "sofa": "SOFA, points", "lactate": "Lactate, mmol/L", "vasopressor": "Vasopressor, ug/kg/min",
    "fluids": "Fluids, L/h",
}  # fmt: skip


def _save(path: Path, title: str, on: Callable[[Any], None], size: tuple[float, float] = (5.0, 3.5)) -> Path:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "medgym", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        on(axes)
        axes.set_title(title, fontsize=10)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _interval(axes: Any, found: Any, at: float, vertical: bool = False, **style: Any) -> None:
    ends = [[found.value - found.low], [found.high - found.value]]
    x, y = ([at], [found.value]) if vertical else ([found.value], [at])
    axes.errorbar(x, y, **{"yerr" if vertical else "xerr": ends}, **style)


def _courses(
    axes: Any, scores: Scores, lines: Sequence[tuple[Row, str]], world: str, name: str, who: str = "all"
) -> None:
    for row, words in lines:
        hours, values = scores.course(row, world, name, who)
        axes.plot(hours, values, DASH[row.timing if who != "all" else row.scope], label=words)
    axes.set(xlabel="Hours", ylabel=UNITS[name], xticks=range(0, 97, 24))


def _wins(axes: Any, scores: Scores, rows: Sequence[Row], world: str, names: Callable[[Row], str]) -> None:
    """Gain of Ind over Pop, patient by patient, and its mean."""
    for at, row in enumerate(rows):
        both = [scores.frame.filter(pl.col("metric") == "severity_mean", pl.col("world") == world, pl.col("scope") == s,
                *(pl.col(n) == getattr(row, n) for n in ("method", "timing", "decisions"))).group_by("patient").agg(
                pl.col("value").mean()).sort("patient")["value"].to_numpy() for s in (row.scope, "pop")]  # fmt: skip
        gain = np.sort(both[1] - both[0])
        axes.plot(gain, at + np.linspace(-0.3, 0.3, len(gain)), ".", markersize=3)
        axes.text(gain.max(), at + 0.3, f" {100 * (gain > 0).mean():.0f} % better", fontsize=7)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set(yticks=range(len(rows)), yticklabels=[names(r) for r in rows], xlabel="SOFA of Pop minus SOFA of Ind")


def _online(scores: Scores, recipe: OnlineRecipe, home: Path) -> list[Path]:
    found, k, head = [], recipe.decisions, scores.worlds[0]
    table = [r for r in scores.rows if r.method in recipe.algorithms and r.scope in (recipe.individual, "pop")]
    table = [r for r in table if r.decisions == k]
    for world in scores.worlds:

        def budget(axes: Any, world: str = world) -> None:
            for timing, shift in (("adaptive", 0.2), ("fixed", -0.2)):
                for budget in recipe.budget_decisions:
                    row = Row(recipe.budget_algorithm, recipe.budget_scope, timing, budget)
                    words = timing if budget == recipe.budget_decisions[0] else None
                    color = {"adaptive": "C0", "fixed": "C1"}[timing]
                    one = scores.mean(row, world, "severity_mean")
                    _interval(axes, one, budget + shift, True, fmt=MARK[timing], label=words, color=color)
            axes.set(xlabel="Budget K (decisions in 96 h)", ylabel="SOFA (all), points", xticks=recipe.budget_decisions)

        found.append(_save(home / f"budget-{world}.svg", f"SOFA by budget, {world} world", budget))
        for timing in recipe.timings:
            rows = [r for r in table if r.timing == timing and r.scope != "pop"]
            on = partial(_wins, scores=scores, rows=rows, world=world, names=partial(label, recipe=recipe))
            found.append(_save(home / f"patients-{timing}-{world}.svg", f"Ind against Pop, {world} world", on))
    least = [Row(recipe.budget_algorithm, recipe.budget_scope, t, min(recipe.budget_decisions)) for t in recipe.timings]
    family = (recipe.budget_algorithm.removesuffix("-lag"), recipe.budget_algorithm)
    pair = [r for r in table if r.method in family and r.timing == recipe.timings[0]]
    for name, variable, rows in (
        ("budget-course", "sofa", least),
        ("sofa", "sofa", pair),
        ("lactate", "lactate", pair),
    ):
        lines = [(r, label(r, recipe)) for r in rows]
        on = partial(_courses, scores=scores, lines=lines, world=head, name=variable)
        found.append(_save(home / f"{name}.svg", f"Mean course, {head} world", on))

    def trade_off(axes: Any) -> None:
        for row in table:
            x, y = (scores.value(row, head, m) for m in ("severity_mean", "lactate_mean"))
            full = "none" if row.scope == "pop" else "full"
            color = f"C{recipe.algorithms.index(row.method)}"
            words = algorithm_label(row.method) if (row.timing, row.scope) == ("adaptive", "pop") else None
            axes.plot(x, y, MARK[row.timing], fillstyle=full, color=color, label=words)
        axes.set(xlabel="SOFA (all), points", ylabel="Lactate, mmol/L")

    found.append(_save(home / "trade-off.svg", f"{head} world; filled: Ind, circle: adaptive", trade_off))
    for number, patient in enumerate(dict.fromkeys(scores.frame.filter(pl.col("metric") == "case_sofa")["patient"])):
        lines = [(r, label(r, recipe)) for r in scores.rows if r.method == "release" and r.scope != "dr"]
        for variable in UNITS:
            on = partial(_courses, scores=scores, lines=lines, world=head, name=variable, who=patient)
            found.append(_save(home / f"case-{number}-{variable}.svg", f"Patient {patient}, {head} world", on))
    return found


def _offline(scores: Scores, home: Path) -> list[Path]:
    found = []
    for timing, world in [(t, w) for t in dict.fromkeys(r.timing for r in scores.rows) for w in scores.worlds]:
        rows = [r for r in scores.rows if r.timing == timing]
        individual = [r for r in rows if r.scope == "ind"]

        def means(axes: Any, rows: Sequence[Row] = rows, world: str = world) -> None:
            for at, row in enumerate(rows):
                color = "C0" if row.scope == "ind" else "C1"
                _interval(axes, scores.mean(row, world, "severity_mean"), at, fmt="o", color=color)
            axes.set(yticks=range(len(rows)), yticklabels=[offline_label(r) for r in rows], xlabel="SOFA (all), points")

        def support(axes: Any, rows: Sequence[Row] = individual or rows, world: str = world) -> None:
            for row in [*rows, Row("data", "data", rows[0].timing, rows[0].decisions)]:
                share, distance = scores.course(row, world, "support_distance")
                words = "the data" if row.method == "data" else offline_label(row)
                axes.plot(np.maximum(distance, 1e-3), share, label=words)
            axes.set(xscale="log", xlabel="Distance to the nearest behavior data (SD)", ylabel="Decisions within it, %")

        def courses(axes: Any, rows: Sequence[Row] = rows, world: str = world) -> None:
            chosen = [(r, offline_label(r)) for r in rows if r.method in (BEHAVIOR, "gcql", "gcql-discrete")]
            _courses(axes, scores, chosen, world, "sofa")

        figures = [("scores", means, (5.0, 5.0)), ("support", support, (5.0, 4.2)), ("courses", courses, (5.0, 3.5))]
        if len(individual) < len(rows) and individual:
            learned = [r for r in individual if r.method != BEHAVIOR and r._replace(scope="pop") in rows]
            wins = partial(_wins, scores=scores, rows=learned, world=world, names=offline_label)
            figures += [("patients", wins, (5.0, 4.0))] if learned else []
        for name, on, size in figures:
            found.append(_save(home / f"{name}-{timing}-{world}.svg", f"{timing}, {world} world", on, size))
    return found


def draw(recipe: OnlineRecipe | OfflineRecipe, frame: pl.DataFrame, home: Path, resamples: int = 10_000) -> list[Path]:
    """Write the figures of a study's tidy table below `home`."""
    scores = Scores(frame, resamples)
    return _online(scores, recipe, home) if isinstance(recipe, OnlineRecipe) else _offline(scores, home)


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
