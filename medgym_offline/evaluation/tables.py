"""Evaluations as tables, for pages and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medgym_offline.diseases.base import Metric
from medgym_offline.evaluation.comparison import Comparison, disagree, pairs_of
from medgym_offline.evaluation.result import Evaluation, WorldResult
from medgym_offline.reports.blocks import Cell, Estimate, Table, print_table

__all__ = [
    "Evaluations", "changes", "comparison_table", "disagreements", "gain_table", "metric_label", "metric_table",
    "plain", "print_evaluations", "provenance_table", "shared_worlds", "subgroup_table",
]  # fmt: skip

_HEADLINE = (
    "severity_end", "safe_hourly", "return", "normalized_score", "support_distance", "support_percentile",
)  # fmt: skip
_SUFFIXES = {"_worst_decile": ", worst decile", "_iqm": ", IQM"}

Evaluations = Mapping[str, Evaluation]


def _definition(definitions: Mapping[str, Metric], name: str) -> tuple[Metric, str]:
    """Definition of a metric, or of the one it summarizes, and what the summary is called."""
    suffix = next((s for s in _SUFFIXES if name.endswith(s)), "")
    return definitions[name.removesuffix(suffix)], _SUFFIXES.get(suffix, "")


def metric_label(definitions: Mapping[str, Metric], name: str) -> str:
    """Name of a metric for tables, with its unit; derived ones (worst decile, IQM) are named after their base."""
    metric, words = _definition(definitions, name)
    return metric.label + words + (f" ({metric.unit})" if metric.unit else "")


def _estimate(result: WorldResult, definitions: Mapping[str, Metric], name: str) -> Estimate | None:
    if name not in result.metrics:
        return None
    return Estimate(result.metrics[name], result.intervals[name], _definition(definitions, name)[0].digits)


def shared_worlds(evaluations: Evaluations) -> list[str]:
    """Worlds that every evaluation has, in the order of the first."""
    first = next(iter(evaluations.values()))
    return [w for w in first.worlds if all(w in e.worlds for e in evaluations.values())]


def comparison_table(evaluations: Evaluations, headline: Sequence[str] = _HEADLINE) -> Table:
    """Several policies: a row each, best first; mean severity in every world, the `headline` metrics in the first."""
    worlds, definitions = shared_worlds(evaluations), next(iter(evaluations.values())).definitions
    names = [n for n in headline if any(n in e.worlds[worlds[0]].metrics for e in evaluations.values())]
    columns = [(w, "severity_mean") for w in worlds] + [(worlds[0], n) for n in names]
    labels = [metric_label(definitions, n) + (f", {w}" if n == "severity_mean" else "") for w, n in columns]
    rows = [[name, *(_estimate(e.worlds[w], definitions, n) for w, n in columns)] for name, e in evaluations.items()]
    caption = f"Mean over patients with its interval, best first; {worlds[0]} world unless a column says otherwise"
    return Table(caption, ["Policy", *labels], rows, order=1)


def metric_table(columns: Mapping[str, WorldResult], definitions: Mapping[str, Metric], caption: str) -> Table:
    """Every metric that any of the `columns` has, a row each."""
    names = [n for n in definitions if any(n in r.metrics for r in columns.values())]
    names[1:1] = [f"severity_mean{suffix}" for suffix in ("_iqm", "_worst_decile")]
    rows = [[metric_label(definitions, n), *(_estimate(r, definitions, n) for r in columns.values())] for n in names]
    return Table(caption, ["Metric", *columns], rows)


def gain_table(by_world: Mapping[str, Sequence[tuple[str, Comparison]]]) -> Table | None:
    """Every paired comparison (world -> those of `pairs_of`), a row each; None if there is none."""
    rows: list[list[Cell]] = []
    for row in zip(*by_world.values()):
        found, first = [c for _, c in row], row[0][1]
        gains = [Estimate(c.percent, c.percent_interval, 1, signed=True) for c in found]
        chance = Estimate(100 * first.probability, [100 * end for end in first.probability_interval], 0)
        shares = [f"{100 * c.share:.0f}" for c in found]
        rows.append([f"{first.method} over {first.reference}", *gains, *shares, chance])
    heads = ["Comparison", *(f"Gain %, {w}" for w in by_world), *(f"Better in %, {w}" for w in by_world)]
    label = next((c.label for pairs in by_world.values() for _, c in pairs if c.label), "")
    caption = "Paired over patients" + (f"; {label}" if label else "")
    return Table(caption, [*heads, "P(better run) %"], rows) if rows else None


def disagreements(by_world: Mapping[str, Sequence[tuple[str, Comparison]]]) -> list[str]:
    """A sentence for every comparison whose sign differs between worlds."""
    lines = []
    for row in zip(*by_world.values()):
        found = [c for _, c in row]
        if disagree([c.percent for c in found]):
            values = ", ".join(f"{c.percent:+.1f} % ({c.world})" for c in found)
            lines.append(f"Worlds disagree: {found[0].method} over {found[0].reference} is {values}.")
    return lines


def subgroup_table(evaluations: Evaluations, world: str) -> Table | None:
    """Mean severity by subgroup, a row each; None where there are none."""
    definitions = next(iter(evaluations.values())).definitions
    order = [(n, e.worlds[world]) for n, e in evaluations.items() if e.worlds[world].subgroups]
    if not order:
        return None
    order.sort(key=lambda item: item[1].metrics["severity_mean"])
    digits = definitions["severity_mean"].digits
    groups: dict[tuple[str, str, int], dict[str, Cell]] = {}
    for name, result in order:
        for row in result.subgroups:
            cells = groups.setdefault((row["by"], row["group"], row["patients"]), {})
            value, *interval = row["severity_mean"]
            cells[name] = Estimate(value, interval, digits)
    names = [name for name, _ in order]
    rows = [[f"{by}: {group}", count, *map(cells.get, names)] for (by, group, count), cells in groups.items()]
    caption = f"{metric_label(definitions, 'severity_mean')} by what is known at the start, {world} world"
    return Table(caption, ["Subgroup", "Patients", *names], rows)


def plain(value: Any) -> str:
    """A setting as text: `a, b` for lists and `key value, ...` for groups, in one order whatever its source."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in sorted(value.items()))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def provenance_table(evaluations: Evaluations) -> Table:
    """Kind, sha256 and training facts of every policy."""
    rows: list[list[Cell]] = []
    for name, e in evaluations.items():
        facts = e.policy.get("provenance") or {}
        made = ", ".join(f"{k} {facts[k]}" for k in ("algorithm", "dataset", "seed", "updates", "code") if k in facts)
        kind = f"{e.policy['kind']}, {e.policy['scope']}, {e.policy['timing']}, K = {e.protocol['decisions']}"
        rows.append([name, kind, e.policy.get("sha256"), made or None])
    return Table("Policies: how they were made, and their files", ["Policy", "Kind", "sha256", "Made by"], rows)


def changes(evaluation: Evaluation) -> str:
    """Every departure from the protocol, in words; "" if there is none."""
    found = sorted(evaluation.deviations.items())
    return "; ".join(f"{k}: {plain(v['used'])} instead of {plain(v['protocol'])}" for k, v in found)


def print_evaluations(evaluations: Evaluation | Evaluations) -> None:
    """Print one evaluation, or several as a table with their paired comparisons."""
    from rich.console import Console

    out = Console()
    if isinstance(evaluations, Evaluation):
        first, protocol, warnings = evaluations, evaluations.protocol, []
        caption = f"{first.name} on {first.bank['name']}: {len(first.per_patient['patient'])} patients x "
        caption += f"{protocol['episodes']} episodes, {protocol['timing']} timing, K = {protocol['decisions']}"
        caption += f", view {protocol['view']}" if "view" in protocol else ""
        columns = {f"{world} world": result for world, result in first.worlds.items()}
        print_table(metric_table(columns, first.definitions, caption), out)
    else:
        first = next(iter(evaluations.values()))
        by_world = {world: pairs_of(evaluations, world) for world in shared_worlds(evaluations)}
        print_table(comparison_table(evaluations, _HEADLINE[1:5]), out, intervals=1)
        if table := gain_table(by_world):
            print_table(table, out, intervals=1)
        warnings = disagreements(by_world)
    confidence = 100 * first.protocol["bootstrap"]["confidence"]
    made = f"{first.protocol['name']} {first.protocol_hash[:12]}"
    lines = [f"{made}, {confidence:.0f} % bootstrap intervals over patients"]
    lines += [f"Deviates: {text}" for text in [changes(first)] if text] + [f"Note: {note}" for note in first.notes]
    for line in lines:
        out.print(line, highlight=False, markup=False)
    for line in warnings:
        out.print(line, highlight=False, markup=False, style="yellow")
