"""The page of an offline study: Table 7 and Figures 11 to 13 from its result, one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.evaluation.report import page_template
from medgym_offline.files import write_text
from medgym_offline.studies import figures, offline_tables, tables
from medgym_offline.studies.entries import algorithm_label
from medgym_offline.studies.page import claim_groups, shown_figure, verdict_counts
from medgym_offline.svg import INK, SERIES, Figure

__all__ = ["behaviour_curves", "offline_html", "score_figure", "support_figure", "write_offline_page"]

Result = Mapping[str, Any]

_FAMILIES = ("bc", "dqn", "cql", "gcql")
_DASHED = (0, (5, 2))


def _colour(algorithm: str) -> str:
    """The same for both forms of an algorithm, in every figure; the behaviour in ink."""
    family = algorithm.removesuffix("-discrete")
    return SERIES[_FAMILIES.index(family)] if family in _FAMILIES else INK


def _rows(result: Result, timing: str) -> list[Mapping[str, Any]]:
    return [row for row in result["rows"].values() if row["timing"] == timing]


def score_figure(result: Result, world: str, timing: str) -> Figure:
    """Figure 11, all algorithms: mean SOFA with interval, Ind filled and Pop open; line: the data's behaviour."""
    rows = _rows(result, timing)
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    behaviour = result["rows"][result["behaviour"][timing]]["statistics"]["table"][world]["sofa_all"]["mean"]

    def draw(axes: Any) -> None:
        seen = set()
        for row in rows:
            found, scope = row["statistics"]["table"][world]["sofa_all"], row["scope"]
            y = names.index(row["algorithm"]) + (-0.16 if scope == "ind" else 0.16)
            colour = _colour(row["algorithm"])
            axes.hlines(y, found["low"], found["high"], color=colour, linewidth=1.2)
            axes.plot(found["mean"], y, color=colour, marker="o" if scope == "ind" else "s", markersize=6, linestyle="",
                      fillstyle="full" if scope == "ind" else "none")  # fmt: skip
            if scope not in seen:
                axes.plot([], [], color=INK, marker="o" if scope == "ind" else "s", linestyle="",
                          fillstyle="full" if scope == "ind" else "none", label=scope.capitalize())  # fmt: skip
            seen.add(scope)
        axes.axvline(behaviour, color=INK, linewidth=0.8, linestyle=_DASHED)
        labels = ["behaviour" if name == "trpo-lag" else algorithm_label(name) for name in names]
        axes.set_yticks(range(len(names)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("SOFA (all), points")

    words = "; ".join(f"{r['label']} {r['statistics']['table'][world]['sofa_all']['mean']:.2f}" for r in rows)
    size = (5.0, 1.3 + 0.42 * len(names))
    key = f"scores-{world}-{timing}"
    return figures.one_axes(f"SOFA, {timing} timing, {world} world", f"Mean SOFA: {words}.", key, draw, size)


def behaviour_curves(result: Result, world: str, timing: str) -> Figure | None:
    """Figure 11 over time: the behaviour that made the data, and the last algorithm (GCQL), Ind and Pop."""
    learned = [r for r in _rows(result, timing) if r["algorithm"] in ("gcql", "gcql-discrete")]
    if not learned:
        return None
    behaviour = result["rows"][result["behaviour"][timing]]
    lines: list[tuple[Any, str, str, Any]] = [(behaviour, behaviour["label"], INK, "-")]
    for row in learned:
        colour = SERIES[3] if row["algorithm"] == "gcql" else SERIES[0]
        lines.append((row, row["label"], colour, "-" if row["scope"] == "ind" else _DASHED))
    title = f"GCQL and the behaviour over time, {timing}, {world} world"
    return figures.curves(title, f"curves-{world}-{timing}", lines, world, "sofa")


def support_figure(result: Result, world: str, timing: str) -> Figure:
    """Figure 13: cumulative distribution of the support distance over all decisions, Ind policies."""
    rows = [r for r in _rows(result, timing) if r["scope"] == "ind"] or _rows(result, timing)
    own = rows[0]["support"][world]["behavior"]
    share = np.arange(101)

    def draw(axes: Any) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        if own is not None:
            axes.plot(own, share, color=INK, linewidth=5, alpha=0.22, solid_capstyle="butt", label="the data's own")
        for row in rows:
            dash = (0, (2, 1.5)) if row["algorithm"].endswith("-discrete") else "-"
            name = "behaviour" if row["group"] == "behaviour" else algorithm_label(row["algorithm"])
            values = np.maximum(row["support"][world]["policy"], 1e-3)
            axes.plot(values, share, color=_colour(row["algorithm"]), linestyle=dash, linewidth=1.6, label=name)
        axes.set_xscale("log")
        low = min(row["support"][world]["policy"][1] for row in rows)
        axes.set_xlim(left=max(low, 0.02))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 100)
        axes.set_xlabel("Distance to the nearest behaviour data (SD)")
        axes.set_ylabel("Share of decisions within it (%)")

    words = "; ".join(f"{r['label']} {r['support'][world]['policy'][50]:.2f}" for r in rows)
    title = f"Support distance, {timing} timing, {world} world"
    text = f"Cumulative distribution over all decisions and patients. Medians: {words}."
    return figures.one_axes(title, text, f"support-{world}-{timing}", draw, (5.0, 4.2))


def write_offline_page(result: Result, path: str | Path) -> Path:
    """Write the page of a study's result to `path`, atomically.

    Args:
        result: What `run_offline_study` or `load_offline_study` returned.
        path: HTML file.

    Raises:
        MissingExtraError: If matplotlib or jinja2 is not installed (extra `report`).
    """
    write_text(path, offline_html(result))
    return Path(path)


def offline_html(result: Result) -> str:
    """The page of :func:`write_offline_page` as text."""
    template = page_template("offline.html.j2", Path(__file__).parent)
    head, worlds, timings = result["headline_world"], tables.worlds_by_weight(result), result["timings"]
    win = figures.win_rate_figure(result)
    over_time = [behaviour_curves(result, w, t) for t in timings for w in worlds]
    return template.render(
        title=f"Offline study of {result['provenance']['bank']}",
        lead=offline_tables.offline_lead(result),
        departures=result["departures"],
        headline=head,
        worlds=worlds,
        counts=verdict_counts(result),
        claims=claim_groups(result),
        main=[offline_tables.table7(result, head, t) for t in timings],
        other_tables=[offline_tables.table7(result, w, t) for w in worlds[1:] for t in timings],
        scores=[shown_figure(score_figure(result, w, t)) for t in timings for w in worlds],
        curves=[shown_figure(figure) for figure in over_time if figure is not None],
        wins=None if win is None else shown_figure(win, "Line: 50 %. Bars: intervals over patients and seeds."),
        spreads=[shown_figure(figures.distribution_figure(result, w, t)) for t in timings for w in worlds]
        if win is not None
        else [],
        win_table=None if win is None else tables.win_table(result),
        support=[shown_figure(support_figure(result, w, t)) for t in timings for w in worlds],
        support_tables=[offline_tables.support_table(result, w, t) for t in timings for w in worlds],
        training_table=offline_tables.training_cost_table(result),
        provenance=offline_tables.offline_provenance(result),
        settings=tables.settings(result),
    )
