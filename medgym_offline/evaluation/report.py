"""One self-contained HTML page from several evaluations, with its figures: policies over time, away from the data, in
subgroups, and patient by patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation import tables
from medgym_offline.evaluation.comparison import Comparison, behavior_name, pairs_of
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.evaluation.tables import Evaluations
from medgym_offline.reports.blocks import Details, Facts, Figure, Legend, Page, Section, Warn, write_page
from medgym_offline.reports.figures import INK, MUTED, SERIES, draw_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve_figure", "line_styles", "pair_figure", "support_figure", "write_report"]

_BAND_POLICIES = 3  # with more lines than this, bands hide each other
_BASELINE_DASHES = ((1, 2), (4, 2, 1, 2), (8, 3), (2, 4), (6, 2, 1, 2, 1, 2))
_SCOPE_WORDS = {"ind", "pop", "adaptive", "fixed"}
_DISTANCE = "Distance to the nearest behavior data (SD)"


@dataclass(frozen=True)
class Style:
    """How one policy is drawn in every figure: color, dash pattern (empty: solid), width in points."""

    color: str
    dash: tuple[float, ...]
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's `plot`."""
        dashes = (0, self.dash) if self.dash else "-"
        return {"color": self.color, "linewidth": self.width, "linestyle": dashes, "dash_capstyle": "butt"}


def line_styles(evaluations: Evaluations) -> dict[str, Style]:
    """Color by algorithm, solid for Ind and dashed for Pop; behavior in ink, baselines gray with their own dashes."""
    behavior, baselines = behavior_name(list(evaluations)), 0
    styles: dict[str, Style] = {}
    families: dict[str, int] = {}
    for name, evaluation in evaluations.items():
        words = re.split(r"[\s\-_/:.]+", name.lower())
        family = " ".join(w for w in words if w not in _SCOPE_WORDS)
        dash: tuple[float, ...] = (5, 2) if "pop" in words else (3, 1) if "fixed" in words else ()
        if name == behavior:
            styles[name] = Style(INK, (), 2.4)
        elif evaluation.policy.get("scope") == "baseline":
            styles[name] = Style(MUTED, _BASELINE_DASHES[baselines % len(_BASELINE_DASHES)], 1.4)
            baselines += 1
        else:
            number = families.setdefault(family, len(families)) % len(SERIES)
            styles[name] = Style(SERIES[number], dash, 1.7)
    return styles


def curve_figure(evaluations: Evaluations, key: str, label: str, styles: Mapping[str, Style]) -> Figure:
    """Mean over patients of the curve `key` ("severity", "monitored") over time, one line per policy.

    With few policies a band shows the 10 % to 90 % range over patients.
    """
    first = next(iter(evaluations.values()))
    process, cost, settled = first.disease.process, first.disease.cost, first.protocol["settled"]
    horizon = first.protocol["horizon"]

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        for name, e in evaluations.items():
            curve, times = e.curves[key], e.curves["times"]
            if len(evaluations) <= _BAND_POLICIES:
                axes.fill_between(times, curve["q10"], curve["q90"], color=styles[name].color, alpha=0.12, linewidth=0)
            axes.plot(times, curve["mean"], **styles[name].line)
        if key == "monitored":
            axes.axhline(cost.limit, color=MUTED, linewidth=0.8)
            axes.axvline(settled, color=MUTED, linewidth=0.8)
        ticks = np.linspace(0, horizon, 5)
        axes.set(xlim=(0, horizon), xticks=ticks, xlabel=f"Time ({process.unit})", ylabel=label)

    ends = (f"{n} from {m[0]:.1f} to {m[-1]:.1f}" for n, e in evaluations.items() if (m := e.curves[key]["mean"]))
    description = f"Line chart of mean {label} from 0 to {horizon:g} {process.unit}: {'; '.join(ends)}."
    caption = "Band: the middle 80 % of patients. " if len(evaluations) <= _BAND_POLICIES else ""
    if key == "monitored":
        caption += f"Horizontal line: the limit of {cost.limit:g}. "
        caption += f"Vertical line: {settled:g} {process.unit}, after which safety is counted."
    return draw_figure(f"{label.partition(' (')[0]} over time", draw, description, caption=caption)


def support_figure(evaluations: Evaluations, styles: Mapping[str, Style]) -> Figure | None:
    """Cumulative distribution of support distances, and the behavior data's own; None if nobody has them."""
    measured = {n: e.support["policy"]["quantiles"] for n, e in evaluations.items() if "policy" in e.support}
    if not measured:
        return None
    own = next((e.support["behavior"]["quantiles"] for e in evaluations.values() if "behavior" in e.support), None)
    share = np.arange(101)

    def draw(canvas: Any) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        axes = canvas.add_subplot()
        if own is not None:
            axes.plot(own, share, color=INK, linewidth=5, alpha=0.22, solid_capstyle="butt")
        for name, quantiles in measured.items():
            axes.plot(quantiles, share, **styles[name].line)
        low = min(np.quantile(q, 0.01) for q in [*measured.values(), *([own] if own is not None else [])])
        axes.set(xscale="log", ylim=(0, 100), xlabel=_DISTANCE, ylabel="Share of decisions within it (%)")
        axes.set_xlim(left=max(low, 0.02))
        # 1, 2, 5 steps: a range of one decade would otherwise show a single tick.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    middle = "; ".join(f"{n} {q[50]:.2f}" for n, q in measured.items())
    middle += "" if own is None else f"; the behavior data's other half {own[50]:.2f} (the wide gray line)"
    description = f"Cumulative distribution of support distance over all decisions and patients. Medians: {middle}."
    caption = "Further left is closer to the data. The wide gray line is the data's own other half."
    return draw_figure("Support distance", draw, description, caption=caption)


def pair_figure(comparison: Comparison, style: Style, label: str) -> Figure:
    """Per-patient scatter of a method against its reference; below the diagonal the method has the lower score."""
    x, y = (np.array(comparison.per_patient[side]) for side in ("reference", "method"))
    method, reference = comparison.method, comparison.reference
    better = f"{method} is better for {100 * comparison.share:.0f} % of {len(x)} patients."
    description = f"Scatter of {label} under {reference} (across) and {method} (up). {better} "
    description += f"Mean gain {comparison.percent:+.1f} %."

    def draw(canvas: Any) -> None:
        axes: Axes = canvas.add_subplot()
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        pad = 0.05 * (high - low) or 0.5
        limits = low - pad, high + pad
        axes.plot(limits, limits, color=MUTED, linewidth=0.8)
        axes.scatter(x, y, s=22, color=style.color, alpha=0.75, linewidths=0)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"{reference}: {label}", ylabel=f"{method}: {label}")

    return draw_figure(f"{method} against {reference}", draw, description, (5.0, 4.4), better)


_GAIN = "Gain over the policy named second, in per cent of its mean severity. Positive: the one named first is better."
_GROUPS = "Groups overlap and are small. Compare policies inside a group, not groups of one policy."


def write_report(evaluations: Evaluations, path: str | Path, title: str = "Evaluation") -> Path:
    """Write the report of `evaluations` to `path` (HTML), atomically; return the path.

    Args:
        evaluations: Name to show -> result. Pairs are found by their names: `cql-ind` is compared with `cql-pop`,
            `x-adaptive` with `x-fixed`, and every learned policy with the one whose name starts with "behavior".
        path: Of the page. Without matplotlib (extra `report`) it has tables, and says that figures are left out.
        title: Heading of the page.

    Raises:
        ProtocolError: If there is nothing to show, or two results to be compared are not comparable.
    """
    if not evaluations:
        raise ProtocolError("a report needs at least one evaluation")
    first = next(iter(evaluations.values()))
    if not (worlds := tables.shared_worlds(evaluations)):
        raise ProtocolError(f"the evaluations share no world; evaluate all of them in world {first.world!r}")
    disease, by_world = first.disease, {w: pairs_of(evaluations, w) for w in worlds}
    styles = line_styles(evaluations)
    severity = tables.metric_label(first.definitions, "severity_mean")
    monitored = disease.components[disease.monitored]
    name = monitored.label or monitored.name
    curves = {"severity": severity, "monitored": f"{name[:1].upper()}{name[1:]} ({monitored.unit})"}
    support = support_figure(evaluations, styles)
    items = [(name, style.color, style.dash, style.width) for name, style in styles.items()]
    items += [("the behavior data's other half (support only)", INK, (), 6.0)] if support else []
    gains, notes = tables.gain_table(by_world), sorted({n for e in evaluations.values() for n in e.notes})
    over_time = [curve_figure(evaluations, key, label, styles) for key, label in curves.items()]
    pairs = [pair_figure(c, styles[c.method], severity) for kind, c in by_world[worlds[0]] if kind == "PopInd"]
    dots = f"One dot per patient, {worlds[0]} world. Below the diagonal the individual policy is better."
    columns = {w: {n: e.worlds[w] for n, e in evaluations.items()} for w in worlds}
    every = [tables.metric_table(columns[w], first.definitions, f"Every metric, {w} world") for w in worlds]
    data = first.dataset
    made = [
        ("Protocol", f"{first.protocol['name']} (sha256 {first.protocol_hash})"),
        ("Bank", f"{first.bank['name']}, {first.bank['patients']} patients (content {first.bank['content_hash']})"),
        ("Seed", str(first.protocol["seed"])),
        *([("Behavior data", f"{data['id']} (identity {data['identity']})")] if data else []),
        ("Deviations", tables.changes(first) or "none"),
        ("Software", tables.plain(first.software)),
    ]
    settings = Facts([(k, tables.plain(v)) for k, v in sorted(first.protocol.items())])
    remark = f"{disease.caution} Results concern simulators; they say nothing about the care of anyone.".strip()
    provenance = (Facts(made), tables.provenance_table(evaluations), Details("Every setting", [settings]), remark)
    sections = (
        Section("Results", *notes, tables.comparison_table(evaluations)),
        Section("Paired comparisons", gains, *map(Warn, tables.disagreements(by_world)), note=_GAIN),
        Section("Over time, and away from the data", Legend(items), *over_time, support),
        Section("Subgroups", tables.subgroup_table(evaluations, worlds[0]), note=_GROUPS),
        Section("Patient by patient: Ind against Pop", *pairs, note=dots),
        Section("All metrics", *(Details(t.caption, [t], opened=t is every[0]) for t in every)),
        Section("Protocol and provenance", *provenance),
    )
    return write_page(path, Page(title, sections, _lead(first, worlds, len(evaluations))))


def _lead(first: Evaluation, worlds: Sequence[str], policies: int) -> str:
    count, protocol, disease = len(first.per_patient["patient"]), first.protocol, first.disease
    where = f"{worlds[0]} world" if len(worlds) == 1 else f"{', '.join(worlds[:-1])} and {worlds[-1]} worlds"
    return (
        f"{disease.label[:1].upper()}{disease.label[1:]}: {policies} {'policy' if policies == 1 else 'policies'} on "
        f"{count} patients of {first.bank['name']}, {protocol['episodes']} episodes each of {protocol['horizon']:g} "
        f"{disease.process.unit}, at most {protocol['decisions']} decisions, {where}. "
        f"Intervals: {100 * protocol['bootstrap']['confidence']:.0f} % bootstrap over patients."
    )
