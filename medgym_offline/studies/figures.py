"""Figures of an online study, drawn from its result (`result.json`) alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medgym_offline.studies.ceiling import gains_in_order
from medgym_offline.studies.entries import algorithm_label
from medgym_offline.svg import INK, MUTED, SERIES, Figure, inline_svg

__all__ = [
    "budget_curves",
    "budget_figure",
    "case_figure",
    "ceiling_figure",
    "curve_pair",
    "curves",
    "distribution_figure",
    "one_axes",
    "trade_off_figure",
    "win_rate_figure",
    "world_figure",
]

Result = Mapping[str, Any]
Row = Mapping[str, Any]

_ORDER = ("trpo", "trpo-lag", "ppo", "ppo-lag", "sac", "sac-lag")
_TIMING = {"adaptive": (SERIES[0], "o", "-"), "fixed": (SERIES[1], "s", (0, (5, 2)))}
_WORLDS = {"own": (MUTED, "o"), "held-out": (SERIES[0], "s"), "true": (SERIES[1], "D")}
_SIZE = (5.0, 3.5)


def algorithm_colour(algorithm: str) -> str:
    """The same colour for an algorithm in every figure; those the paper does not have come last."""
    place = _ORDER.index(algorithm) if algorithm in _ORDER else len(_ORDER) - 1
    return SERIES[place % len(SERIES)]


def one_axes(
    title: str, description: str, key: str, draw: Callable[[Any], None], size: tuple[float, float] = _SIZE
) -> Figure:
    """One pair of axes with a grid, and the legend above them."""

    def on(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.grid(True)
        draw(axes)
        _legend(canvas, axes)

    return Figure(title, inline_svg(on, key, size), description)


def _legend(canvas: Any, axes: Any, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        canvas.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)


def _statistic(row: Row, world: str, metric: str) -> tuple[float, float, float]:
    found = row["statistics"]["table" if "release" not in row["statistics"] else "release"][world][metric]
    return found["mean"], found["low"], found["high"]


def budget_rows(result: Result) -> dict[str, list[Row]]:
    """Timing -> rows of the budget study, by K."""
    recipe = result["recipe"]
    found: dict[str, list[Row]] = {}
    for row in result["rows"].values():
        same = (row["algorithm"], row["scope"]) == (recipe["budget_algorithm"], recipe["budget_scope"])
        if same and row["group"] in ("budget", "table") and row["decisions"] in recipe["budget_decisions"]:
            found.setdefault(row["timing"], []).append(row)
    return {timing: sorted(found[timing], key=lambda r: r["decisions"]) for timing in sorted(found)}


def budget_figure(result: Result, world: str) -> Figure:
    """Figure 4(a): mean SOFA against the budget K, adaptive and fixed, with intervals."""
    rows = budget_rows(result)

    def draw(axes: Any) -> None:
        for shift, (timing, members) in zip((-0.25, 0.25), rows.items()):
            colour, marker, line = _TIMING[timing]
            stats = np.array([_statistic(r, world, "sofa_all") for r in members])
            x = np.array([r["decisions"] for r in members])
            axes.plot(x + shift, stats[:, 0], color=colour, marker=marker, linestyle=line, label=timing)
            axes.vlines(x + shift, stats[:, 1], stats[:, 2], color=colour, linewidth=1.2)
        axes.set_xticks(result["recipe"]["budget_decisions"])
        axes.set_xlabel("Budget K (decisions in 96 h)")
        axes.set_ylabel("SOFA (all), points")

    words = "; ".join(
        f"{timing}: " + ", ".join(f"{_statistic(r, world, 'sofa_all')[0]:.2f} at K = {r['decisions']}" for r in members)
        for timing, members in rows.items()
    )
    return one_axes(f"SOFA by budget, {world} world", f"Mean SOFA by budget. {words}.", f"budget-{world}", draw)


def budget_curves(result: Result, world: str) -> Figure:
    """Figure 4(b): mean SOFA over time at the smallest budget."""
    rows = {timing: members[0] for timing, members in budget_rows(result).items()}
    least = min(result["recipe"]["budget_decisions"])
    lines = [(row, timing, *_TIMING[timing][::2]) for timing, row in rows.items()]
    return curves(f"SOFA over time at K = {least}, {world} world", f"budget-curve-{world}", lines, world, "sofa")


def curves(title: str, key: str, lines: Sequence[tuple[Row, str, str, Any]], world: str, variable: str) -> Figure:
    """Hourly means of "sofa" or "lactate" in one world; a line is (row, name, colour, dash)."""
    label = {"sofa": "SOFA surrogate, points", "lactate": "Lactate, mmol/L"}[variable]

    def draw(axes: Any) -> None:
        for row, name, colour, style in lines:
            values = row["curves"][world][variable]
            axes.plot(np.linspace(0, 96, len(values)), values, color=colour, linestyle=style, label=name, linewidth=1.7)
        if variable == "lactate":
            axes.axhline(4.0, color=MUTED, linewidth=0.8)
            axes.axvline(20.0, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, 96)
        axes.set_xticks(range(0, 97, 24))
        axes.set_xlabel("Hours")
        axes.set_ylabel(label)

    ends = "; ".join(
        f"{name} from {row['curves'][world][variable][0]:.2f} to {row['curves'][world][variable][-1]:.2f}"
        for row, name, _, _ in lines
    )
    return one_axes(title, f"Mean {label} over 96 hours: {ends}.", key, draw)


def curve_pair(result: Result, world: str) -> list[Figure]:
    """Figure 6(a, b): SOFA and lactate over time, base and Lagrangian form, Ind and Pop, of the first timing."""
    recipe = result["recipe"]
    timing = recipe["timings"][0]
    algorithm = recipe["budget_algorithm"]
    family = [a for a in (algorithm.removesuffix("-lag"), algorithm) if a in recipe["algorithms"]]
    lines = []
    for name in dict.fromkeys(family):
        for scope, style in ((recipe["individual"], "-"), ("pop", (0, (5, 2)))):
            row = result["rows"].get(f"{name}-{scope}-{timing}-k{recipe['decisions']}")
            if row is not None:
                lines.append((row, row["label"], algorithm_colour(name), style))
    if not lines:
        return []
    return [
        curves(f"{words} over time, {timing}, {world} world", f"{variable}-{world}", lines, world, variable)
        for variable, words in (("sofa", "SOFA"), ("lactate", "Lactate"))
    ]


def trade_off_figure(result: Result, world: str) -> Figure:
    """Figure 6: mean SOFA against mean lactate, every row of the table."""
    rows = [r for r in result["rows"].values() if r["group"] == "table"]

    def draw(axes: Any) -> None:
        seen = set()
        for row in rows:
            colour = algorithm_colour(row["algorithm"])
            x, y = (_statistic(row, world, m)[0] for m in ("sofa_all", "lactate_mean"))
            name = algorithm_label(row["algorithm"])
            axes.plot(
                x, y, color=colour, marker="o" if row["timing"] == "adaptive" else "s", markersize=8, linestyle="",
                fillstyle="none" if row["scope"] == "pop" else "full", label=None if name in seen else name,
            )  # fmt: skip
            seen.add(name)
        axes.set_xlabel("SOFA (all), points")
        axes.set_ylabel("Mean lactate, mmol/L")

    words = "; ".join(
        f"{r['label']} {_statistic(r, world, 'sofa_all')[0]:.2f} and {_statistic(r, world, 'lactate_mean')[0]:.2f}"
        for r in rows
    )
    return one_axes(f"SOFA against lactate, {world} world", f"SOFA and lactate of {words}.", f"trade-{world}", draw)


def _ind_pop(result: Result, timing: str) -> list[tuple[str, Row, Row]]:
    """(label, Ind row, Pop row) of every pair that differs in scope alone, budgets left out."""
    rows, found = result["rows"], {}
    for pair in result["pairs"]:
        ind, pop = rows[pair["method"]], rows[pair["reference"]]
        if pair["kind"] == "PopInd" and ind["timing"] == timing and ind["group"] != "budget":
            label = algorithm_label(ind["algorithm"]) if ind["group"] == "table" else ind["group"]
            found[ind["key"]] = label, ind, pop
    return list(found.values())


def distribution_figure(result: Result, world: str, timing: str) -> Figure:
    """Figures 5, 9 and 12: SOFA over patients under Ind and Pop, per algorithm."""
    pairs = _ind_pop(result, timing)

    def draw(axes: Any) -> None:
        for place, (_, ind, pop) in enumerate(pairs):
            for shift, row, colour in ((-0.18, ind, SERIES[0]), (0.18, pop, SERIES[1])):
                values = np.array(row["per_patient"][world]["sofa_all"])
                low, q1, middle, q3, high = np.percentile(values, (5, 25, 50, 75, 95))
                y = place + shift
                axes.hlines(y, low, high, color=colour, linewidth=1.2)
                axes.hlines(y, q1, q3, color=colour, linewidth=7, alpha=0.45)
                axes.plot(middle, y, color=colour, marker="o" if row is ind else "s", markersize=5, linestyle="",
                          label=("Ind" if row is ind else "Pop") if place == 0 else None)  # fmt: skip
        axes.set_yticks(range(len(pairs)), [label for label, _, _ in pairs])
        axes.invert_yaxis()
        axes.set_xlabel("SOFA (all) of a patient, points")

    words = "; ".join(
        f"{label} {np.median(i['per_patient'][world]['sofa_all']):.2f} and "
        f"{np.median(p['per_patient'][world]['sofa_all']):.2f}"
        for label, i, p in pairs
    )
    size = (5.0, 1.4 + 0.5 * len(pairs))
    return one_axes(
        f"Ind and Pop over patients, {timing}, {world} world",
        f"Median SOFA over patients under Ind and Pop: {words}. Thick: the middle half, thin: 5 to 95 %.",
        f"spread-{world}-{timing}",
        draw,
        size,
    )


def win_rate_figure(result: Result) -> Figure | None:
    """Figure 10: share of patients in whom Ind beats Pop, per algorithm and timing, in every world."""
    pairs = [p for p in result["pairs"] if p["kind"] == "PopInd" and result["rows"][p["method"]]["group"] != "budget"]
    names = list(dict.fromkeys((p["method"], p["reference"]) for p in pairs))
    if not names:
        return None

    def draw(axes: Any) -> None:
        for number, world in enumerate(result["worlds"]):
            colour, marker = _WORLDS[world]
            for pair in (p for p in pairs if p["world"] == world):
                y = names.index((pair["method"], pair["reference"])) + 0.22 * (number - 1)
                low, high = (100 * v for v in pair["share_interval"])
                axes.hlines(y, low, high, color=colour, linewidth=1.2)
                axes.plot(100 * pair["share"], y, color=colour, marker=marker, markersize=5, linestyle="")
            axes.plot([], [], color=colour, marker=marker, linestyle="", label=world)
        axes.axvline(50, color=MUTED, linewidth=1.0)
        axes.set_yticks(range(len(names)), [result["rows"][m]["label"] for m, _ in names])
        axes.set_xlim(-2, 102)
        axes.invert_yaxis()
        axes.set_xlabel("Patients in whom Ind beats Pop, %")

    words = "; ".join(f"{result['rows'][p['method']]['label']}, {p['world']}: {100 * p['share']:.0f} %" for p in pairs)
    size = (5.0, 1.3 + 0.42 * len(names))
    return one_axes("Win rate of Ind over Pop", f"Share of patients: {words}.", "wins", draw, size)


def world_figure(result: Result) -> Figure:
    """Release policies and baselines in every world."""
    rows = [r for r in result["rows"].values() if r["group"] in ("release", "baseline")]
    head = result["headline_world"]
    rows.sort(key=lambda r: _statistic(r, head, "sofa_all")[0])

    def draw(axes: Any) -> None:
        for number, world in enumerate(result["worlds"]):
            colour, marker = _WORLDS[world]
            for place, row in enumerate(rows):
                middle, low, high = _statistic(row, world, "sofa_all")
                y = place + 0.22 * (number - 1)
                axes.hlines(y, low, high, color=colour, linewidth=1.2)
                axes.plot(middle, y, color=colour, marker=marker, markersize=5, linestyle="")
            axes.plot([], [], color=colour, marker=marker, linestyle="", label=world)
        axes.set_yticks(range(len(rows)), [r["label"] for r in rows])
        axes.invert_yaxis()
        axes.set_xlabel("SOFA (all), points")

    words = "; ".join(f"{r['label']} {_statistic(r, head, 'sofa_all')[0]:.2f}" for r in rows)
    size = (5.0, 1.3 + 0.42 * len(rows))
    return one_axes("Release policies and baselines", f"Mean SOFA in the {head} world: {words}.", "worlds", draw, size)


def ceiling_figure(result: Result) -> Figure | None:
    """Gains between classes of open-loop schedules, one dot per patient."""
    if result["ceilings"] is None:
        return None
    gains = gains_in_order(result["ceilings"])

    def draw(axes: Any) -> None:
        for place, one in enumerate(gains.values()):
            values = np.array(one["per_patient"])
            # Spread by rank, so that dots of equal value can be told apart.
            y = place + 0.3 * (np.argsort(np.argsort(values)) / max(len(values) - 1, 1) - 0.5)
            axes.plot(values, y, color=SERIES[0], marker="o", markersize=4, linestyle="", alpha=0.7)
            axes.plot(one["median"], place, color=INK, marker="|", markersize=18, linestyle="")
        axes.set_yticks(range(len(gains)), list(gains))
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.set_xlabel("Gain, % of the harm of the second")

    words = "; ".join(f"{name} {one['median']:.2f} %" for name, one in gains.items())
    decisions = result["ceilings"]["decisions"]
    return one_axes(f"Open-loop ceilings at K = {decisions}", f"Median gains: {words}.", "ceilings", draw, (5.0, 3.0))


def case_figure(case: Mapping[str, Any], world: str, rows: Mapping[str, Row], number: int) -> Figure:
    """Figure 8: SOFA, lactate, oxygenation and doses of one patient under the four policies."""
    panels = (
        ("sofa", "SOFA"), ("lactate", "Lactate, mmol/L"), ("pao2", "PaO2, mmHg"), ("urine", "Urine, mL/day"),
        ("vasopressor", "Vasopressor, mcg/kg/min"), ("fluids", "Fluids, mL/h"),
    )  # fmt: skip
    policies = case["worlds"][world]

    def draw(canvas: Any) -> None:
        grid = canvas.subplots(3, 2, sharex=True)
        for axes, (name, label) in zip(grid.ravel(), panels):
            axes.grid(True)
            for key, one in policies.items():
                row = rows[key]
                colour = SERIES[0] if row["scope"] == "ind" else SERIES[1]
                style = "-" if row["timing"] == "adaptive" else (0, (4, 2))
                course = one["courses"][name]
                axes.plot(range(len(course)), course, color=colour, linestyle=style, linewidth=1.5, label=row["label"])
            axes.set_title(label, fontsize=10.5, loc="left")
            axes.set_xlim(0, 96)
            axes.set_xticks(range(0, 97, 24))
        for axes in grid[-1]:
            axes.set_xlabel("Hours")
        _legend(canvas, grid[0, 0])

    words = "; ".join(
        f"{rows[key]['label']}: mean SOFA {one['sofa_all']:.2f}, mean lactate {one['lactate_mean']:.2f} mmol/L"
        for key, one in policies.items()
    )
    title = f"Patient {case['patient']}, {world} world"
    return Figure(title, inline_svg(draw, f"case-{number}-{world}", (5.0, 6.2)), f"Closed loop. {words}.")
