"""Results a person can read in ten seconds: tables for the terminal, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medgym_offline.evaluation.comparison import Comparison, pairs_of
from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.result import Evaluation, WorldResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["comparison_table", "evaluation_table", "gain_table", "metric_label", "metric_text", "print_evaluations"]

_ROWS = (
    "severity_mean", "severity_mean_worst_decile", "severity_end", "safe_hourly", "safe_path", "return", "normalized_score", "",
    "lactate_mean", "lactate_clearance_6h", "hours_lactate_above_4", "vasopressor_total", "fluids_total", "",
    "decisions_used", "dt_q50", "support_distance", "support_outside",
)  # fmt: skip


def metric_label(name: str, unit: bool = True) -> str:
    """Name of a metric for tables, with its unit; derived ones (worst decile, IQM) are named after their base."""
    for suffix, words in (("_worst_decile", ", worst decile"), ("_iqm", ", IQM")):
        if name.endswith(suffix):
            return METRICS[name.removesuffix(suffix)].label + words
    metric = METRICS[name]
    return f"{metric.label} ({metric.unit})" if unit and metric.unit not in ("", "points") else metric.label


def metric_text(result: WorldResult, name: str, interval: bool = True, digits: int | None = None) -> str:
    """`3.12 [3.01, 3.24]`, or a dash where the metric was not measured."""
    if name not in result.metrics:
        return "-"
    if digits is None:
        digits = METRICS[name.removesuffix("_worst_decile").removesuffix("_iqm")].digits
    text = f"{result.metrics[name]:.{digits}f}"
    if not interval or name not in result.intervals:
        return text
    low, high = result.intervals[name]
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def evaluation_table(evaluation: Evaluation) -> Table:
    """One policy: a row per metric, a column per world, bootstrap intervals over patients."""
    from rich.table import Table

    protocol, bank = evaluation.protocol, evaluation.bank
    count = len(evaluation.per_patient["patient"])
    table = Table(
        title=f"{evaluation.name} on {bank['name']}: {count} patients x {protocol['episodes']} episodes, "
        f"{protocol['timing']} timing, K = {protocol['decisions']}",
        title_style="bold",
        caption=provenance_line(evaluation),
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("Metric")
    for world in evaluation.worlds:
        table.add_column(f"{world} world", justify="right")
    for name in _ROWS:
        if not name:
            table.add_section()
        elif name in evaluation.metrics:
            cells = [metric_text(r, name) for r in evaluation.worlds.values()]
            # Three intervals do not fit a line of 80 columns; break where it reads best.
            table.add_row(metric_label(name), *(c.replace(" [", "\n[") if len(cells) > 2 else c for c in cells))
    return table


def comparison_table(evaluations: Mapping[str, Evaluation], title: str = "Results") -> Table:
    """Several policies: a row each, in order of SOFA (all) in the first world, best first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = next(iter(evaluations.values()))
    world = first.world
    others = [w for w in first.worlds if w != world]
    table = Table(
        title=title, title_style="bold", title_justify="left", caption=provenance_line(first), box=SIMPLE_HEAD
    )
    table.caption_justify = "left"
    columns = [
        ("Safe %", "safe_hourly"),
        ("Return", "return"),
        ("Score", "normalized_score"),
        ("Support", "support_distance"),
    ]
    columns = [c for c in columns if any(c[1] in e.metrics for e in evaluations.values())]
    table.add_column("Policy", no_wrap=True)
    table.add_column(f"SOFA, {world}", justify="right", no_wrap=True)
    for label in (*others, *(c[0] for c in columns)):
        table.add_column(label, justify="right", no_wrap=True)
    for name, evaluation in sorted(evaluations.items(), key=lambda item: item[1].metrics["severity_mean"]):
        result = evaluation.worlds[world] if world in evaluation.worlds else evaluation.worlds[evaluation.world]
        cells = [metric_text(result, "severity_mean", digits=2)]
        cells += [
            metric_text(evaluation.worlds[w], "severity_mean", False, 2) if w in evaluation.worlds else "-"
            for w in others
        ]
        cells += [metric_text(result, m, False, 2 if m == "support_distance" else 1) for _, m in columns]
        table.add_row(name, *cells)
    return table


def gain_table(evaluations: Mapping[str, Evaluation]) -> Table | None:
    """Paired comparisons: a row each, with a warning where worlds disagree in sign; None if the names form no pair."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    worlds = [w for w in next(iter(evaluations.values())).worlds if all(w in e.worlds for e in evaluations.values())]
    by_world = {world: pairs_of(evaluations, world) for world in worlds}
    if not by_world or not by_world[worlds[0]]:
        return None
    table = Table(title="Gain in SOFA, paired over patients", title_style="bold", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("Comparison")
    table.add_column(f"Gain %, {worlds[0]}", justify="right", no_wrap=True)
    for world in worlds[1:]:
        table.add_column(world, justify="right", no_wrap=True)
    table.add_column("Better in", justify="right", no_wrap=True)
    warned = False
    for row in zip(*by_world.values()):
        first, found = row[0][1], [c for _, c in row]
        mark = "  !" if disagree(found) else ""
        warned = warned or bool(mark)
        low, high = first.percent_interval
        table.add_row(
            f"{first.method} over {first.reference}",
            f"{first.percent:+.1f} [{low:+.1f}, {high:+.1f}]",
            *(f"{c.percent:+.1f}{mark}" for c in found[1:]),
            f"{100 * first.share:.0f} %",
        )
    if warned:
        table.caption, table.caption_justify = (
            "! worlds disagree in sign: do not report the own-world gain alone",
            "left",
        )
    return table


def disagree(comparisons: list[Comparison]) -> bool:
    """Whether the gain is positive in one world and negative in another, beyond what is printed as 0.0 %."""
    return signs_differ([c.percent for c in comparisons])


def signs_differ(percents: list[float]) -> bool:
    """Whether some are positive and others negative, beyond what is printed as 0.0 %."""
    return min(percents, default=0.0) < -0.05 and max(percents, default=0.0) > 0.05


def provenance_line(evaluation: Evaluation) -> str:
    """Protocol, its hash, every deviation and note, for a caption."""
    text = f"{evaluation.protocol['name']} {evaluation.protocol_hash[:12]}"
    text += f", {100 * evaluation.protocol['bootstrap']['confidence']:.0f} % bootstrap intervals over patients"
    if evaluation.deviations:
        changes = (
            f"{k} {_short(v['used'])} instead of {_short(v['protocol'])}"
            for k, v in sorted(evaluation.deviations.items())
        )
        text += "\nDeviates: " + "; ".join(changes)
    return text + "".join(f"\nNote: {note}" for note in evaluation.notes)


def transfer_lines(evaluation: Evaluation) -> list[str]:
    """What the patient's own policy gains over others', a line per world, and a warning where the signs differ."""
    found = {world: result.transfer for world, result in evaluation.worlds.items() if result.transfer}
    lines = []
    for world, t in found.items():
        low, high = t["percent_interval"]
        lines.append(
            f"Own policy over others' ({t['partners']} each), {world}: {t['percent']:+.1f} % [{low:+.1f}, {high:+.1f}]"
        )
    if signs_differ([t["percent"] for t in found.values()]):
        lines.append("! worlds disagree in sign: do not report the own-world gain alone")
    return lines


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_evaluations(evaluations: Evaluation | Mapping[str, Evaluation], console: Console | None = None) -> None:
    """Print one evaluation, or several as a table with their paired comparisons."""
    from rich.console import Console

    out = console or Console()
    if isinstance(evaluations, Evaluation):
        out.print(evaluation_table(evaluations))
        for line in transfer_lines(evaluations):
            out.print(line, highlight=False, style="yellow" if line.startswith("!") else None)
        return
    out.print(comparison_table(evaluations))
    if (gains := gain_table(evaluations)) is not None:
        out.print(gains)
