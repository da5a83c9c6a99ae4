"""Figures of a report as inline SVG that follows the page's colours (`medgym_offline.svg`).

Text stays text. Every figure comes with a description for those who do not see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.evaluation.comparison import Comparison, behavior_name
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.svg import INK, LINE, MUTED, SERIES, VARIABLES, Figure, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Figure",
    "Style",
    "curve_figure",
    "line_styles",
    "pair_figure",
    "subgroup_figure",
    "support_figure",
    "support_parts_figure",
    "support_time_figure",
    "transfer_figure",
]

BAND_POLICIES = 3  # with more lines than this, bands hide each other

_BASELINE_DASHES = ((1, 2), (4, 2, 1, 2), (8, 3), (2, 4), (6, 2, 1, 2, 1, 2))
_SCOPE_WORDS = {"ind", "pop", "adaptive", "fixed"}
_SIZE = (5.0, 3.3)  # inches; 360 points wide, so that a phone shows the text at its nominal size


Row = tuple[str, dict[str, tuple[float, ...]]]
"""Of a dot chart: label, and per policy its value, or value, low and high."""


@dataclass(frozen=True)
class Style:
    """How one policy is drawn in every figure: colour placeholder, dash pattern (empty: solid), width in points."""

    color: str
    dash: tuple[float, ...]
    width: float

    @property
    def css(self) -> str:
        """The colour as a CSS value."""
        return VARIABLES[self.color]


def line_styles(evaluations: Mapping[str, Evaluation]) -> dict[str, Style]:
    """Colour by algorithm, solid for Ind and dashed for Pop; behaviour in ink, baselines grey with their own dashes."""
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


def curve_figure(evaluations: Mapping[str, Evaluation], variable: str, styles: Mapping[str, Style]) -> Figure:
    """Mean over patients of `variable` ("sofa" or "lactate") against the hour, one line per policy.

    With few policies a band shows the 10 % to 90 % range over patients.
    """
    label = {"sofa": "SOFA surrogate (points)", "lactate": "Lactate (mmol/L)"}[variable]
    title = {"sofa": "SOFA over time", "lactate": "Lactate over time"}[variable]

    def draw(axes: Axes) -> None:
        for name, evaluation in evaluations.items():
            style, curve, hours = styles[name], evaluation.curves[variable], evaluation.curves["hours"]
            if len(evaluations) <= BAND_POLICIES:
                axes.fill_between(hours, curve["q10"], curve["q90"], color=style.color, alpha=0.12, linewidth=0)
            axes.plot(hours, curve["mean"], **_line(style))
        protocol = next(iter(evaluations.values())).protocol
        if variable == "lactate":
            axes.axhline(protocol["lactate_threshold"], color=MUTED, linewidth=0.8)
            axes.axvline(protocol["critical_hour"], color=MUTED, linewidth=0.8)
        axes.set_xlim(0, protocol["horizon"])
        axes.set_xticks(np.arange(0, protocol["horizon"] + 1, 24))
        axes.set_xlabel("Hours since admission")
        axes.set_ylabel(label)

    ends = (
        f"{name} from {e.curves[variable]['mean'][0]:.1f} to {e.curves[variable]['mean'][-1]:.1f}"
        for name, e in evaluations.items()
    )
    description = f"Line chart of mean {label} over {len(styles)} policies from hour 0 to 96: " + "; ".join(ends) + "."
    return Figure(title, _svg(draw, f"curve-{variable}"), description)


def support_figure(evaluations: Mapping[str, Evaluation], styles: Mapping[str, Style]) -> Figure | None:
    """Cumulative distribution of support distances, and the behaviour data's own; None if nobody has them."""
    measured = {n: e for n, e in evaluations.items() if "policy" in e.support}
    if not measured:
        return None
    own = next((e.support["behavior"] for e in measured.values() if "behavior" in e.support), None)
    share = np.arange(101)

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        if own is not None:
            axes.plot(own["quantiles"], share, color=INK, linewidth=5, alpha=0.22, solid_capstyle="butt")
        for name, evaluation in measured.items():
            axes.plot(evaluation.support["policy"]["quantiles"], share, **_line(styles[name]))
        axes.set_xscale("log")
        low = min(np.quantile(e.support["policy"]["quantiles"], 0.01) for e in measured.values())
        if own is not None:
            low = min(low, np.quantile(own["quantiles"], 0.01))
        axes.set_xlim(left=max(low, 0.02))
        # 1, 2, 5 steps: a range of one decade would otherwise show a single tick.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 100)
        axes.set_xlabel("Distance to the nearest behaviour data (SD)")
        axes.set_ylabel("Share of decisions within it (%)")

    middle = "; ".join(f"{n} {e.support['policy']['quantiles'][50]:.2f}" for n, e in measured.items())
    description = "Cumulative distribution of support distance over all decisions and patients. Medians: " + middle
    if own is not None:
        description += f"; held-out behaviour data {own['quantiles'][50]:.2f} (the wide grey line)"
    return Figure("Support distance", _svg(draw, "support"), description + ".")


def support_time_figure(
    evaluations: Mapping[str, Evaluation], styles: Mapping[str, Style], reading: str = "distance"
) -> Figure | None:
    """Mean support `reading` ("distance" or "percentile") by the hour a decision began; None if nobody has it."""
    measured = {n: e.support["time"] for n, e in evaluations.items() if e.support.get("time", {}).get(reading)}
    if not measured:
        return None
    title, label = {
        "distance": ("Support distance over the episode", "Support distance (SD)"),
        "percentile": ("Support percentile over the episode", "Percentile among held-out data (%)"),
    }[reading]

    def draw(axes: Axes) -> None:
        for name, found in measured.items():
            edges = np.asarray(found["hours"], float)
            values = np.array([np.nan if v is None else v for v in found[reading]])
            axes.plot((edges[:-1] + edges[1:]) / 2, values, marker="o", markersize=3.5, **_line(styles[name]))
        axes.set_xticks(edges)
        if reading == "percentile":
            axes.axhline(50, color=MUTED, linewidth=0.8)
        axes.set_ylim(0, 103 if reading == "percentile" else None)
        axes.set_xlabel("Hour the decision began")
        axes.set_ylabel(label)

    def ends(values: list[float | None]) -> str:
        known = [v for v in values if v is not None]
        return f"{known[0]:.2f} to {known[-1]:.2f}" if known else "unknown"

    middle = "; ".join(f"{n} {ends(found[reading])}" for n, found in measured.items())
    description = (
        f"Line chart of mean support {reading} over the hours of an episode. From the first to the last hours: "
    )
    return Figure(title, _svg(draw, f"support-time-{reading}"), description + middle + ".")


def support_parts_figure(evaluations: Mapping[str, Evaluation], styles: Mapping[str, Style]) -> Figure | None:
    """Support distance of states and actions together, and of each alone, with intervals; None if nobody has them."""
    parts = {
        "support_distance": "State and action",
        "support_states": "State alone",
        "support_actions": "Action alone",
    }
    rows: list[Row] = []
    for key, label in parts.items():
        measured = [(name, e) for name, e in evaluations.items() if key in e.metrics]
        values: dict[str, tuple[float, ...]] = {name: (e.metrics[key], *e.intervals[key]) for name, e in measured}
        rows.append((label, values))
    if not all(values for _, values in rows):
        return None
    svg = _dots(rows, styles, "Distance to the nearest behaviour data (SD)", "support-parts")
    return Figure("Support distance by part", svg, _told("support distance", rows))


def subgroup_figure(evaluations: Mapping[str, Evaluation], styles: Mapping[str, Style]) -> Figure | None:
    """Surrogate SOFA of each subgroup with its interval; None for results made before subgroups were."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for name, evaluation in evaluations.items():
        for row in evaluation.worlds[evaluation.world].subgroups:
            values = tuple(v for v in row["severity_mean"] if v is not None)
            found.setdefault(f"{row['by']}:\n{row['group']}", {})[name] = values
    if not found:
        return None
    rows = list(found.items())
    svg = _dots(rows, styles, "SOFA (all)", "subgroups")
    return Figure("SOFA by subgroup", svg, _told("SOFA (all)", rows))


def _dots(rows: list[Row], styles: Mapping[str, Style], label: str, key: str) -> str:
    """A row per label, in it a dot and its interval per policy: (value,) or (value, low, high)."""
    count = max(len(styles), 1)

    def draw(axes: Axes) -> None:
        for place, (_, values) in enumerate(rows):
            for number, (name, style) in enumerate(styles.items()):
                if name not in values:
                    continue
                y = place + 0.7 * ((number + 0.5) / count - 0.5)
                value, *interval = values[name]
                if interval:
                    axes.plot(interval, (y, y), **_line(style))
                axes.plot([value], [y], marker="o", markersize=4.5, color=style.color)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(False, axis="y")
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color=LINE, linewidth=0.6)
        axes.set_xlabel(label)

    return _svg(draw, key, (_SIZE[0], 0.9 + len(rows) * max(0.42, 0.12 * count)))


def _told(what: str, rows: list[Row]) -> str:
    each = (
        f"{label.replace(chr(10), ' ')}: " + ", ".join(f"{name} {value[0]:.2f}" for name, value in values.items())
        for label, values in rows
    )
    return f"Dot chart of {what} with intervals. " + "; ".join(each) + "."


def pair_figure(comparison: Comparison, style: Style, number: int, metric_label: str = "SOFA (all)") -> Figure:
    """Per-patient scatter of a method against its reference; below the diagonal the method has the lower score."""
    x, y = (np.array(comparison.per_patient[side]) for side in ("reference", "method"))
    method, reference = comparison.method, comparison.reference
    svg = _scatter(x, y, f"{reference}: {metric_label}", f"{method}: {metric_label}", style, f"pair-{number}")
    description = (
        f"Scatter of {len(x)} patients, {metric_label} under {reference} (horizontal) and under {method} (vertical). "
        f"{method} is better for {100 * comparison.share:.0f} % of patients; mean gain {comparison.percent:+.1f} %."
    )
    return Figure(f"{method} against {reference}", svg, description)


def transfer_figure(name: str, evaluation: Evaluation, style: Style, number: int) -> Figure | None:
    """Per-patient scatter of the patient's own policy against the mean of others'; None if nobody was asked."""
    found = evaluation.worlds[evaluation.world].transfer
    if not found:
        return None
    others, own = np.mean(found["scores"], axis=0), np.array(evaluation.per_patient[found["metric"]])
    svg = _scatter(others, own, "Others' policies: SOFA (all)", "Own policy: SOFA (all)", style, f"transfer-{number}")
    description = (
        f"Scatter of {len(own)} patients, SOFA (all) under the mean of {found['partners']} other patients' policies "
        f"(horizontal) and under the own policy (vertical). The own is better for {100 * found['share']:.0f} %; "
        f"mean gain {found['percent']:+.1f} %."
    )
    return Figure(f"{name}: own policy against others'", svg, description)


def _scatter(x: np.ndarray, y: np.ndarray, across: str, up: str, style: Style, key: str) -> str:
    def draw(axes: Axes) -> None:
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        pad = 0.05 * (high - low) or 0.5
        limits = low - pad, high + pad
        axes.plot(limits, limits, color=MUTED, linewidth=0.8)
        axes.scatter(x, y, s=22, color=style.color, alpha=0.75, linewidths=0)
        axes.set_xlim(*limits)
        axes.set_ylim(*limits)
        axes.set_aspect("equal")
        axes.set_xlabel(across)
        axes.set_ylabel(up)

    return _svg(draw, key, (5.0, 4.4))


def _line(style: Style) -> dict[str, Any]:
    return {
        "color": style.color,
        "linewidth": style.width,
        "linestyle": (0, style.dash) if style.dash else "-",
        "dash_capstyle": "butt",
    }


def _svg(draw: Callable[[Any], None], key: str, size: tuple[float, float] = _SIZE) -> str:
    """Run `draw(axes)` on one pair of axes with a grid and return the SVG element."""

    def on(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.grid(True, axis="both")
        draw(axes)

    return inline_svg(on, key, size)
