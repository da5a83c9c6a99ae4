"""Figures of the leaderboard as inline SVG: scatters of a group of entries, curves of one, intervals in table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medgym_offline.leaderboard.ranking import WORLDS, Entry, worlds_of
from medgym_offline.svg import INK, MUTED, SERIES, VARIABLES, Figure, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SCOPES", "bar", "curve_figure", "scatter_figure", "world_legend"]

SCOPES = {"ind": (SERIES[0], "o", "Ind"), "pop": (SERIES[1], "s", "Pop"), "baseline": (MUTED, "D", "baseline")}
"""Scope -> colour, marker, word."""

_DASHES: dict[str, Any] = {"own": "-", "crossfit": (0, (5, 2)), "true": (0, (1.5, 1.5))}


def bar(value: float, low: float, high: float, span: tuple[float, float]) -> dict[str, float]:
    """Positions of an interval and its mean on a line of length 100 that stands for `span`."""
    width = span[1] - span[0] or 1.0
    return {
        name: round(min(100.0, max(0.0, 100 * (x - span[0]) / width)), 1)
        for name, x in (("low", low), ("mean", value), ("high", high))
    }


def scatter_figure(entries: Sequence[Entry], metric: str, key: str) -> Figure | None:
    """SOFA (all) against another metric, every entry in every world; None where fewer than two entries have it.

    The own world's points are filled, the others hollow and joined to it, so that a line's length is what the own world
    alone would hide. Elements of entry n have ids `<key>-e<n>-...`.
    """
    from medgym_offline.evaluation.metrics import METRICS

    shown = [n for n, e in enumerate(entries) if any(metric in e["metrics"].get(w, {}) for w in WORLDS)]
    if len(shown) < 2:
        return None
    label = _axis(metric)

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.grid(True)
        axes.set_xlabel(_axis("severity_mean"))
        axes.set_ylabel(label)
        heads: dict[int, list[tuple[float, float]]] = {}
        for n in shown:
            heads[n] = _points(axes, entries[n], n, metric)
        axes.margins(0.09)
        _labels(canvas, axes, [(n, entries[n]["name"], points) for n, points in heads.items()])

    lines = "; ".join(_told(entries[n], metric) for n in shown)
    against = METRICS[metric].label
    return Figure(f"SOFA against {against}", inline_svg(draw, key, (4.7, 3.9)), f"Scatter, {label}: {lines}.")


def _points(axes: Axes, entry: Entry, number: int, metric: str) -> list[tuple[float, float]]:
    """Draw an entry; returns where its points are, the first world's first."""
    colour, marker, _ = SCOPES[entry["scope"]]
    worlds = [w for w in worlds_of([entry]) if metric in entry["metrics"][w]]
    at = [(entry["metrics"][w]["severity_mean"], entry["metrics"][w][metric]) for w in worlds]
    if len(at) > 1:
        xs, ys = zip(*at)
        axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.6, zorder=2, gid=f"e{number}-line")
    for world, (x, y) in zip(worlds, at):
        face = colour if world == "own" else "none"
        size = 6.5 if world != "true" else 4.0
        axes.plot([x], [y], marker, color=colour, markerfacecolor=face, markersize=size, gid=f"e{number}-{world}")
    return at


def _labels(canvas: Any, axes: Axes, entries: Sequence[tuple[int, str, list[tuple[float, float]]]]) -> None:
    """Names beside the first point of each entry, where they cover neither a point nor another name.

    Where there is no room a name is left out. Widths are estimated, since an SVG is drawn without fonts; the table
    beside the figure has every name.
    """
    canvas.draw_without_rendering()
    frame = axes.get_window_extent()
    spots = [(n, name, axes.transData.transform(points)) for n, name, points in entries]
    taken = [(x - 4, y - 4, x + 4, y + 4) for _, _, at in spots for x, y in at]
    for n, name, at in spots:
        x, y = at[0]
        short = name if len(name) <= 22 else name[:21] + "\u2026"
        width, height = 4.9 * len(short), 9.0
        beside = [("left", x + 6, y - height / 2), ("right", x - 6 - width, y - height / 2)]
        if at[-1][0] > x:
            beside.reverse()  # the entry's line leaves to the right
        above = [("center", x - width / 2, y + 6), ("center", x - width / 2, y - 6 - height)]
        for side, left, bottom in (*beside, *above):
            box = (left, bottom, left + width, bottom + height)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                anchor = {"left": left, "right": left + width, "center": x}[side]
                spot = axes.transData.inverted().transform((anchor, bottom + height / 2))
                axes.annotate(
                    short,
                    (float(spot[0]), float(spot[1])),
                    ha=side,
                    va="center_baseline",
                    fontsize=8.5,
                    color=INK,
                    gid=f"e{n}-name",
                )
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _axis(metric: str) -> str:
    from medgym_offline.evaluation.metrics import METRICS

    found = METRICS[metric]
    return f"{found.label} ({found.unit})" if found.unit else found.label


def _told(entry: Entry, metric: str) -> str:
    from medgym_offline.evaluation.metrics import METRICS

    parts = [
        f"{w} {entry['metrics'][w]['severity_mean']:.2f} and {entry['metrics'][w][metric]:.{METRICS[metric].digits}f}"
        for w in worlds_of([entry])
        if metric in entry["metrics"][w]
    ]
    return f"{entry['name']} ({SCOPES[entry['scope']][2]}): {', '.join(parts)}"


def curve_figure(entry: Entry, variable: str) -> Figure:
    """Mean over patients and runs of "sofa" or "lactate" over time, one line per world."""
    label = {"sofa": "SOFA surrogate (points)", "lactate": "Lactate (mmol/L)"}[variable]
    title = {"sofa": "SOFA over time", "lactate": "Lactate over time"}[variable]
    curves: Mapping[str, Any] = entry["curves"]
    worlds = [w for w in WORLDS if w in curves]
    colours = dict(zip(WORLDS, (SERIES[0], SERIES[1], SERIES[2])))

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.grid(True)
        for world in worlds:
            hours, values = curves[world]["hours"], curves[world][variable]
            axes.plot(hours, values, color=colours[world], linestyle=_DASHES[world], linewidth=1.8)
        threshold = entry["protocol"]["settings"].get("lactate_threshold")
        if variable == "lactate" and threshold is not None:
            axes.axhline(threshold, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, max(curves[worlds[0]]["hours"]))
        axes.set_xticks(range(0, int(max(curves[worlds[0]]["hours"])) + 1, 24))
        axes.set_xlabel("Hours since admission")
        axes.set_ylabel(label)

    ends = "; ".join(f"{w} world from {curves[w][variable][0]:.2f} to {curves[w][variable][-1]:.2f}" for w in worlds)
    return Figure(title, inline_svg(draw, f"curve-{variable}", (5.0, 3.3)), f"Line chart, mean {label}: {ends}.")


def world_legend(entry: Entry) -> list[dict[str, str]]:
    """Colour and dash of every world in :func:`curve_figure`, as CSS values."""
    dashes = {"own": "", "crossfit": "5 2", "true": "1.5 1.5"}
    names = [w for w in WORLDS if w in entry["curves"]]
    return [{"name": w, "color": VARIABLES[SERIES[WORLDS.index(w)]], "dash": dashes[w]} for w in names]
