"""Tables of an online study's page, from its result alone.

Percentages that speak for a method (gains, shares, Safe) are cut, never rounded up; scores and costs are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medgym_offline.evaluation.report_tables import Cell, Table
from medgym_offline.studies.ceiling import gains_in_order
from medgym_offline.studies.figures import budget_rows

__all__ = [
    "budget_table",
    "case_table",
    "ceiling_table",
    "cell_text",
    "claim_cell",
    "cut",
    "cut_cell",
    "lead",
    "main_table",
    "pairs_by_method",
    "percent_cell",
    "provenance",
    "safety_table",
    "score_cell",
    "settings",
    "timing_table",
    "training_table",
    "win_table",
    "world_table",
    "worlds_by_weight",
]

Result = Mapping[str, Any]
NONE = "-"


def cut(value: float, digits: int = 1) -> str:
    """`value` with `digits` decimals, cut downwards.

    >>> cut(49.97), cut(-0.01)
    ('49.9', '-0.1')
    """
    step = 10.0**digits
    # Values such as 33.3 * 3 carry an error in their last bits: they must not fall by a whole digit.
    return f"{math.floor(value * step + 1e-9) / step + 0.0:.{digits}f}"


def score_cell(found: Mapping[str, float], digits: int = 2) -> Cell:
    """A score with its interval, rounded."""
    return f"{found['mean']:.{digits}f}", f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def cut_cell(value: float, interval: Sequence[float]) -> Cell:
    """A percentage with its interval, cut."""
    return cut(value), f"{cut(interval[0])} to {cut(interval[1])}"


def percent_cell(found: Mapping[str, float]) -> Cell:
    """A mean percentage with its interval, cut."""
    return cut_cell(found["mean"], (found["low"], found["high"]))


def pairs_by_method(result: Result, kind: str, world: str) -> dict[str, Mapping[str, Any]]:
    """Key of the method -> its comparison of a kind, in one world."""
    return {p["method"]: p for p in result["pairs"] if p["kind"] == kind and p["world"] == world}


def cell_text(cell: Cell) -> str:
    """A cell in one line.

    >>> cell_text(("3.14", "2.77 to 3.54")), cell_text("-")
    ('3.14 (2.77 to 3.54)', '-')
    """
    if isinstance(cell, str):
        return cell
    return f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]


def worlds_by_weight(result: Result) -> list[str]:
    """The worlds, the headline's first."""
    return sorted(result["worlds"], key=lambda world: world != result["headline_world"])


def claim_cell(found: Mapping[str, Any] | None, measure: str) -> tuple[str, str]:
    """Value with interval, and the verdict in that world."""
    if found is None:
        return NONE, ""
    show = (lambda v: f"{v:.3f}") if measure.startswith("cost") else cut
    return show(found["value"]), f"{show(found['low'])} to {show(found['high'])}, {found['verdict']}"


def lead(result: Result) -> str:
    """What the study is, in two sentences."""
    recipe, made = result["recipe"], result["provenance"]
    count = sum(r["group"] not in ("baseline",) for r in result["rows"].values())
    return (
        f"{count} trained policies and {len(result['rows']) - count} baselines on {len(result['patients']['release'])} "
        f"patients of {made['bank']}, {recipe['episodes']} episodes each of 96 h, in the worlds "
        f"{', '.join(result['worlds'])}. Intervals: 95 % bootstrap over patients"
        + (" and training seeds." if recipe["seeds"] > 1 else ".")
    )


def main_table(result: Result, world: str) -> Table:
    """The paper's Tables 2 and 6 in one world, with win rates."""
    rows: list[list[Cell]] = []
    pop_ind, fix_adap = pairs_by_method(result, "PopInd", world), pairs_by_method(result, "FixAdap", world)
    for key, row in result["rows"].items():
        if row["group"] != "table":
            continue
        found = row["statistics"]["table"][world]
        a, b = pop_ind.get(key), fix_adap.get(key)
        rows.append(
            [
                row["label"],
                score_cell(found["sofa_all"]),
                NONE if a is None else cut_cell(a["percent"], a["percent_interval"]),
                NONE if a is None else cut_cell(100 * a["share"], [100 * v for v in a["share_interval"]]),
                NONE if b is None else cut_cell(b["percent"], b["percent_interval"]),
                score_cell(found["sofa_96h"]),
                percent_cell(found["safe_hourly"]),
            ]
        )
    heads = ["Policy", "SOFA (all)", "PopInd %", "Ind wins %", "FixAdap %", "SOFA (96 h)", "Safe %"]
    return Table(f"{world.capitalize()} world, {len(result['patients']['table'])} patients", heads, rows)


def world_table(result: Result) -> Table:
    """Release policies and baselines: SOFA (all) in every world, Safe and return in the headline world."""
    head = result["headline_world"]
    rows = [r for r in result["rows"].values() if r["group"] in ("release", "baseline")]
    rows.sort(key=lambda r: r["statistics"]["release"][head]["sofa_all"]["mean"])
    body: list[list[Cell]] = []
    for row in rows:
        found = row["statistics"]["release"]
        cells: list[Cell] = [score_cell(found[w]["sofa_all"]) for w in result["worlds"]]
        body.append(
            [row["label"], *cells, percent_cell(found[head]["safe_hourly"]), score_cell(found[head]["return"], 1)]
        )
    heads = ["Policy", *(f"SOFA (all), {w}" for w in result["worlds"]), f"Safe %, {head}", f"Return, {head}"]
    return Table(f"{len(result['patients']['release'])} patients, best first in the {head} world", heads, body)


def budget_table(result: Result) -> Table:
    """Figure 4 as numbers: SOFA of both timings and FixAdap at every K, every world."""
    rows: list[list[Cell]] = []
    found = budget_rows(result)
    for world in result["worlds"]:
        pairs = pairs_by_method(result, "FixAdap", world)
        for fixed, adaptive in zip(found.get("fixed", []), found.get("adaptive", [])):
            pair = pairs[adaptive["key"]]
            rows.append(
                [
                    f"K = {adaptive['decisions']}, {world}",
                    *(score_cell(r["statistics"]["table"][world]["sofa_all"]) for r in (fixed, adaptive)),
                    cut_cell(pair["percent"], pair["percent_interval"]),
                    cut_cell(100 * pair["share"], [100 * v for v in pair["share_interval"]]),
                    f"{pair['p']:.2g}",
                ]
            )
    heads = ["Budget, world", "SOFA fixed", "SOFA adaptive", "FixAdap %", "Adaptive wins %", "p"]
    return Table("Adaptive against fixed, equally many episodes at every K; p: Wilcoxon signed-rank test", heads, rows)


def win_table(result: Result) -> Table:
    """Ind against Pop, and the release's Ind against dr: gain and share of patients in every world."""
    rows: list[list[Cell]] = []
    pairs: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for pair in result["pairs"]:
        if pair["kind"] in ("PopInd", "DrInd") and result["rows"][pair["method"]]["group"] != "budget":
            pairs.setdefault((pair["method"], pair["reference"]), {})[pair["world"]] = pair
    for (method, reference), by_world in pairs.items():
        cells: list[Cell] = []
        for world in result["worlds"]:
            p = by_world[world]
            cells.append(cut_cell(p["percent"], p["percent_interval"]))
            cells.append(cut_cell(100 * p["share"], [100 * v for v in p["share_interval"]]))
        rows.append([f"{result['rows'][method]['label']} over {result['rows'][reference]['label']}", *cells])
    heads = ["Pair", *(f"{what}, {w}" for w in result["worlds"] for what in ("gain %", "wins %"))]
    return Table("Gain in mean SOFA, and patients in whom the first is better", heads, rows)


def safety_table(result: Result) -> Table:
    """Safe, lactate and cost of every row of the table in the headline world, beside the limit and the multiplier."""
    head = result["headline_world"]
    rows: list[list[Cell]] = []
    for row in result["rows"].values():
        if row["group"] not in ("table", "release"):
            continue
        found, training = row["statistics"]["table"][head], row["training"]
        limit, multiplier = training.get("cost_limit"), training.get("final_multiplier")
        rows.append(
            [
                row["label"],
                percent_cell(found["safe_hourly"]),
                percent_cell(found["safe_dense"]),
                score_cell(found["lactate_mean"]),
                score_cell(found["cost_mean"], 3),
                NONE if limit is None else f"{limit:g}",
                NONE if limit is None or multiplier is None else f"{multiplier:.3f}",
            ]
        )
    heads = ["Policy", "Safe %", "Safe %, 0.25 h", "Lactate, mmol/L", "Cost per decision", "Limit", "Multiplier"]
    return Table(f"Safety, {head} world; multiplier: mean over policies at the end of training", heads, rows)


def case_table(case: Mapping[str, Any], result: Result) -> Table:
    """Table 4: model error, and what the policies reach, in every world."""
    rows: list[list[Cell]] = []
    for world in result["worlds"]:
        errors = case["model_error"].get(world)
        for key, one in case["worlds"][world].items():
            row = result["rows"][key]
            error = NONE if errors is None else f"{errors[row['scope']]:.3f}"
            holds = one["holds"]
            rows.append(
                [
                    f"{row['label']}, {world}",
                    error,
                    f"{one['sofa_all']:.2f}",
                    f"{one['lactate_mean']:.2f}",
                    f"{len(holds)}",
                    f"{holds[0]:g}",
                    f"{holds[-1]:g}",
                ]
            )
    heads = ["Policy, world", "Model NMSE", "Mean SOFA", "Mean lactate", "Decisions", "First hold, h", "Last hold, h"]
    text = "Model NMSE: the policy's simulator (Ind or Pop) against that world under the charted treatment"
    return Table(f"{text}; holds: of the first episode", heads, rows)


def ceiling_table(result: Result) -> Table:
    """Gains between classes of schedules."""
    found = result["ceilings"]
    rows: list[list[Cell]] = [
        [name, f"{g['median']:.2f}", (f"{g['mean']:.2f}", f"{g['low']:.2f} to {g['high']:.2f}"), f"{g['q90']:.2f}"]
        for name, g in gains_in_order(found).items()
    ]
    caption = f"Gain in mean harm, %, {len(found['patients'])} patients, own world, K = {found['decisions']}"
    return Table(caption, ["Schedules", "Median", "Mean", "90 % quantile"], rows)


def timing_table(result: Result, world: str) -> Table:
    """Quantiles of the intervals, first and last hold, decisions used, of every adaptive policy."""
    names = ("dt_q05", "dt_q25", "dt_q50", "dt_q75", "dt_q95", "first_hold", "last_hold", "decisions_used")
    rows: list[list[Cell]] = []
    for row in result["rows"].values():
        if row["timing"] == "adaptive" and row["group"] != "baseline":
            found = row["statistics"]["table"][world]
            rows.append([row["label"], f"{row['decisions']}", *(f"{found[n]['mean']:.1f}" for n in names)])
    heads = ["Policy", "K", "5 %", "25 %", "50 %", "75 %", "95 %", "First", "Last", "Decisions"]
    return Table(f"Intervals of adaptive policies, hours, {world} world; mean over patients", heads, rows)


def training_table(result: Result) -> Table:
    """What training cost, beside the paper's budget."""
    rows: list[list[Cell]] = []
    for row in result["rows"].values():
        if row["group"] == "baseline":
            continue
        t = row["training"]
        paper = t.get("paper_steps")
        stopped = ", ".join(t.get("stopped") or {}) or "none"
        rows.append(
            [
                row["label"],
                f"{t['updates']}",
                f"{t['episodes']:,}",
                f"{t['steps']:,}",
                NONE if paper is None else f"{paper:,}",
                f"{row['seeds']}",
                stopped,
            ]
        )
    heads = ["Policy", "Updates", "Episodes", "Steps", "Steps, paper", "Seeds", "Stopped (not finite)"]
    return Table("Training of one policy", heads, rows)


def provenance(result: Result) -> list[tuple[str, str]]:
    """Where everything came from."""
    made = result["provenance"]
    return [
        ("Command", made["command"]),
        ("Code", made["code"]),
        ("Recipe", f"{made['study']} (sha256 {made['recipe_hash']})"),
        ("Bank", f"{made['bank']}, {made['bank_patients']} patients (content {made['bank_hash']})"),
        ("Protocol", f"sha256 {made['protocol_hash']}"),
        ("Training seeds", ", ".join(map(str, made["training_seeds"]))),
        ("Flow", f"training: {made['backend_training']}; scores: {made['backend_scores']}"),
    ]


def settings(result: Result) -> list[tuple[str, str]]:
    """The recipe, one line per entry."""

    def plain(value: Any) -> str:
        if isinstance(value, Mapping):
            return "; ".join(f"{k}: {plain(v)}" for k, v in sorted(value.items())) or "none"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [(name, plain(value)) for name, value in sorted(result["recipe"].items())]
