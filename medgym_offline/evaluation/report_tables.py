"""Tables of the report: several evaluations as rows of cells, and the table they are written into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgym_offline.evaluation.comparison import Comparison
from medgym_offline.evaluation.console import metric_label
from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.result import Evaluation, WorldResult

__all__ = [
    "Cell", "Table", "curve_table", "gain_table", "metric_table", "plain", "provenance_table", "result_table", "share",
    "subgroup_table", "transfer_table",
]  # fmt: skip

_HEADLINE = (
    "severity_mean", "severity_end", "safe_hourly", "return", "normalized_score", "support_distance", "support_percentile",
)  # fmt: skip
_TABLE_HOURS = (0, 6, 12, 24, 48, 72, 96)

Cell = str | tuple[str, str]


@dataclass(frozen=True)
class Table:
    """A table of the page: rows of a row header and cells; a cell is a text, or (number, interval)."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: bool = False
    """Whether cells are prose, which wraps, rather than numbers."""


def _cell(result: WorldResult, name: str) -> Cell:
    if name not in result.metrics:
        return "-"
    digits = METRICS[name.removesuffix("_worst_decile").removesuffix("_iqm")].digits
    low, high = result.intervals[name]
    return f"{result.metrics[name]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def _ordered(evaluations: Mapping[str, Evaluation], world: str) -> list[tuple[str, Evaluation]]:
    return sorted(evaluations.items(), key=lambda item: item[1].worlds[world].metrics["severity_mean"])


def result_table(evaluations: Mapping[str, Evaluation], worlds: Sequence[str]) -> Table:
    """Headline metrics of every evaluation, best first; SOFA in every world."""
    base = worlds[0]
    names = [n for n in _HEADLINE if any(n in e.worlds[base].metrics for e in evaluations.values())]
    heads = ["Policy", metric_label("severity_mean"), *(f"SOFA (all), {w}" for w in worlds[1:])]
    heads += [metric_label(n) for n in names[1:]]
    rows = [
        [name, *(_cell(e.worlds[w], "severity_mean") for w in worlds), *(_cell(e.worlds[base], n) for n in names[1:])]
        for name, e in _ordered(evaluations, base)
    ]
    return Table(
        f"Mean over patients with its interval, best first; {base} world unless a column says otherwise", heads, rows
    )


def metric_table(evaluations: Mapping[str, Evaluation], world: str) -> Table:
    """Every metric that any evaluation has, in one world."""
    shown = [n for n in METRICS if any(n in e.worlds[world].metrics for e in evaluations.values())]
    shown[1:1] = ["severity_mean_iqm", "severity_mean_worst_decile"]
    order = _ordered(evaluations, world)
    rows = [[metric_label(n), *(_cell(e.worlds[world], n) for _, e in order)] for n in shown]
    return Table(f"Every metric, {world} world", ["Metric", *(name for name, _ in order)], rows)


def subgroup_table(evaluations: Mapping[str, Evaluation], world: str) -> Table | None:
    """Surrogate SOFA by subgroup; None for results made before subgroups were."""
    order = [(n, e) for n, e in _ordered(evaluations, world) if e.worlds[world].subgroups]
    if not order:
        return None
    digits = METRICS["severity_mean"].digits
    found = {(r["by"], r["group"]): r["patients"] for _, e in order for r in e.worlds[world].subgroups}
    rows: list[list[Cell]] = []
    for by, group in found:
        cells: list[Cell] = []
        for _, evaluation in order:
            row = next((r for r in evaluation.worlds[world].subgroups if (r["by"], r["group"]) == (by, group)), None)
            if row is None:
                cells.append("-")
                continue
            mean, low, high = row["severity_mean"]
            cells.append(
                f"{mean:.{digits}f}"
                if low is None
                else (f"{mean:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}")
            )
        rows.append([f"{by}: {group}", str(found[by, group]), *cells])
    heads = ["Subgroup", "Patients", *(name for name, _ in order)]
    return Table(f"Surrogate SOFA (all) by what is known at admission, {world} world", heads, rows)


def transfer_table(evaluations: Mapping[str, Evaluation], worlds: Sequence[str]) -> Table | None:
    """The patient's own policy against other patients'; None if nobody was asked."""
    rows: list[list[Cell]] = []
    for name, evaluation in evaluations.items():
        for world in worlds:
            if t := evaluation.worlds[world].transfer:
                low, high = t["percent_interval"]
                gain = (f"{t['percent']:+.1f}", f"{low:+.1f} to {high:+.1f}")
                rows.append(
                    [
                        name,
                        world,
                        f"{t['own']:.2f}",
                        f"{t['others']:.2f}",
                        gain,
                        f"{100 * t['share']:.0f} %",
                        str(t["partners"]),
                    ]
                )
    heads = ["Policy", "World", "Own policy", "Others' policies", "Gain %", "Own better in", "Partners"]
    return (
        Table("Surrogate SOFA (all) under the patient's own policy and under other patients'", heads, rows)
        if rows
        else None
    )


def share(comparison: Comparison) -> str:
    """The share of patients in whom the method is better, as a per cent."""
    return f"{100 * comparison.share:.0f} %"


def gain_table(by_world: Mapping[str, list[tuple[str, Comparison]]]) -> Table:
    """Every paired comparison, world by world."""
    base = next(iter(by_world))
    heads = ["Comparison", *(f"Gain %, {w}" for w in by_world), *(f"Better in, {w}" for w in by_world)]
    heads += [f"P(better run), {base}", "Kind"]
    rows: list[list[Cell]] = []
    for row in zip(*by_world.values()):
        cells = [c for _, c in row]
        gains: list[Cell] = [
            (f"{c.percent:+.1f}", f"{c.percent_interval[0]:+.1f} to {c.percent_interval[1]:+.1f}") for c in cells
        ]
        chance, (low, high) = 100 * cells[0].probability, cells[0].probability_interval
        probability = (f"{chance:.0f} %", f"{100 * low:.0f} to {100 * high:.0f}")
        name = f"{cells[0].method} over {cells[0].reference}"
        rows.append([name, *gains, *(share(c) for c in cells), probability, row[0][0]])
    label = next((c.label for pairs in by_world.values() for _, c in pairs if c.label), "")
    return Table("Paired over patients" + (f"; {label}" if label else ""), heads, rows)


def curve_table(evaluations: Mapping[str, Evaluation], variable: str) -> Table:
    """Mean of a variable (`sofa`, `lactate`) at a few hours, by evaluation."""
    label = {"sofa": "SOFA", "lactate": "Lactate (mmol/L)"}[variable]
    rows = []
    for name, evaluation in evaluations.items():
        hours = evaluation.curves["hours"]
        shown = [hours.index(h) for h in map(float, _TABLE_HOURS) if h in hours]
        rows.append([name, *(f"{evaluation.curves[variable]['mean'][i]:.2f}" for i in shown)])
    heads = ["Policy", *(f"{hours[i]:g} h" for i in shown)]
    return Table(f"{label}, mean over patients, by hour", heads, rows)


def plain(value: Any) -> str:
    """A setting as text: `a, b` for lists and `key value, ...` for groups, in one order whatever its source."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in sorted(value.items()))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def provenance_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Kind, sha256 and training facts of every policy."""
    rows: list[list[Cell]] = []
    for name, evaluation in evaluations.items():
        policy = evaluation.policy
        facts = policy.get("provenance") or {}
        made = ", ".join(f"{k} {facts[k]}" for k in ("algorithm", "dataset", "seed", "updates", "code") if k in facts)
        rows.append(
            [
                name,
                f"{policy['kind']}, {policy['scope']}, {policy['timing']}, K = {evaluation.protocol['decisions']}",
                policy.get("sha256") or "-",
                made or "-",
            ]
        )
    return Table(
        "Policies: file hashes and how they were made", ["Policy", "Kind", "sha256", "Made by"], rows, text=True
    )
