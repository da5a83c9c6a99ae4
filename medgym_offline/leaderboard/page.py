"""The leaderboard as static pages: no server, no framework, nothing fetched from elsewhere.

`index.html` has every entry, `entries/` a page and the JSON of each. Without its script the index is a list of sorted
tables; the script sorts and filters them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import atomic_path, json_text
from medgym_offline.leaderboard.board import FORMAT
from medgym_offline.leaderboard.plots import SCOPES, bar, curve_figure, scatter_figure, world_legend
from medgym_offline.leaderboard.ranking import RULE, Entry, deciding_world, groups, interval_of, ranks, worlds_of
from medgym_offline.svg import VARIABLES, Figure

if TYPE_CHECKING:
    from medgym_offline.evaluation.metrics import Metric

__all__ = ["COLUMNS", "build_page", "entry_file", "groups"]

COLUMNS = ("severity_mean", "safe_hourly", "return", "support_distance")
"""Metrics of the index, in order; an entry's page has all."""

_MARK = ".medgym-leaderboard"


def entry_file(entry: Entry) -> str:
    """File name, without suffix, of an entry's page: its id, whose alphabet has no underscore, with "_" for "/"."""
    return str(entry["id"]).replace("/", "_")


def build_page(entries: Sequence[Entry], output: str | Path) -> Path:
    """Write the pages and the raw JSON into the folder `output`, whole or not at all.

    Everything in an entry was written by a stranger: all of it is escaped, and the pages' own policy (CSP) forbids any
    request.

    Returns:
        `index.html`.

    Raises:
        MissingExtraError: If matplotlib or jinja2 is not installed (extra `report`).
        SubmissionError: If `output` holds something that is no leaderboard page.
    """
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / _MARK).is_file())):
        raise SubmissionError(f"{folder} exists and holds something else; choose another --output")
    grouped = [_group(n, key, rows) for n, (key, rows) in enumerate(groups(entries).items())]
    with atomic_path(folder) as temporary:
        (temporary / "entries").mkdir(parents=True)
        (temporary / _MARK).write_text("")
        _write(temporary / "leaderboard.json", json_text({"format": FORMAT, "entries": [dict(e) for e in entries]}))
        _write(temporary / "index.html", _template("board.html.j2").render(groups=grouped, **_index(entries)))
        for group in grouped:
            for row in group["rows"]:
                stem = temporary / "entries" / row["file"]
                _write(stem.with_name(stem.name + ".json"), json_text(dict(row["entry"])))
                _write(stem.with_name(stem.name + ".html"), _entry_html(row, group))
    return folder / "index.html"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _template(name: str) -> Any:
    from medgym_offline.evaluation.report import page_template

    return page_template(name, Path(__file__).parent)


def _index(entries: Sequence[Entry]) -> dict[str, Any]:
    scopes = [s for s in SCOPES if any(e["scope"] == s for e in entries)]
    return {
        "title": "MedGym Offline leaderboard",
        "count": len(entries),
        "verified": sum(e["verification"] is not None for e in entries),
        "datasets": sorted({_data(e) for e in entries}),
        "scopes": [(s, SCOPES[s][2]) for s in scopes],
        "timings": sorted({e["timing"] for e in entries}),
        "rule": RULE,
        "legend": [(SCOPES[s][2], VARIABLES[SCOPES[s][0]], SCOPES[s][1]) for s in scopes],
        "worlds": worlds_of(entries),
    }


def _data(entry: Entry) -> str:
    return str(entry["dataset"]["id"] if entry["dataset"] else f"bank {entry['bank']['name']}")


def _group(number: int, key: tuple[str, ...], entries: Sequence[Entry]) -> dict[str, Any]:
    from medgym_offline.evaluation.metrics import METRICS

    worlds = worlds_of(entries)
    metrics = [METRICS[m] for m in COLUMNS if any(m in e["metrics"][w] for e in entries for w in e["metrics"])]
    spans = {name: _span(entries, worlds, name) for name in METRICS}
    by_world = {w: ranks(entries, w) for w in worlds}
    figures = [scatter_figure(entries, metric, f"g{number}-{metric}") for metric in ("safe_hourly", "support_distance")]
    return {
        "number": number,
        "data": key[0],
        "how": key[1],
        "worlds": worlds,
        "metrics": metrics,
        "spans": spans,
        "sorted_by": (deciding_world(entries[0]), "severity_mean"),
        "rows": [_row(n, entry, worlds, metrics, spans, by_world) for n, entry in enumerate(entries)],
        "figures": [_shown(figure) for figure in figures if figure is not None],
    }


def _span(entries: Sequence[Entry], worlds: Sequence[str], metric: str) -> tuple[float, float]:
    """What a drawn line of a metric stands for: all intervals of a group, in every world."""
    found = [i for e in entries for w in worlds if (i := interval_of(e, w, metric)) is not None]
    return min((low for low, _ in found), default=0.0), max((high for _, high in found), default=1.0)


def _shown(figure: Figure) -> dict[str, Any]:
    from markupsafe import Markup

    return {"title": figure.title, "svg": Markup(figure.svg), "description": figure.description}


def _row(
    number: int,
    entry: Entry,
    worlds: Sequence[str],
    metrics: Sequence[Metric],
    spans: Mapping[str, tuple[float, float]],
    by_world: Mapping[str, Mapping[str, tuple[int, bool]]],
) -> dict[str, Any]:
    return {
        "number": number,
        "entry": entry,
        "file": entry_file(entry),
        "data": _data(entry),
        "scope": SCOPES[entry["scope"]][2],
        "detail": _detail(entry),
        "ranks": {w: by_world[w][entry["id"]] for w in worlds if entry["id"] in by_world[w]},
        "cells": [
            _cell(entry, w, m, spans[m.name], by_world[w].get(entry["id"]) if m.name == "severity_mean" else None)
            for m in metrics
            for w in worlds
        ],
    }


def _detail(entry: Entry) -> str:
    parts = [SCOPES[entry["scope"]][2], entry["timing"]]
    if "decisions" in entry["protocol"]["deviations"]:
        parts.append(f"K = {entry['decisions']}")
    if entry["scope"] != "baseline":
        parts.append(f"{len(entry['seeds'])} seed{'s' if len(entry['seeds']) > 1 else ''}")
    return ", ".join(parts)


def _cell(
    entry: Entry, world: str, metric: Metric, span: tuple[float, float], rank: tuple[int, bool] | None = None
) -> dict[str, Any] | None:
    interval = interval_of(entry, world, metric.name)
    if interval is None:
        return None
    value = entry["metrics"][world][metric.name]
    return {
        "value": value,
        "text": f"{value:.{metric.digits}f}",
        "interval": f"{interval[0]:.{metric.digits}f} to {interval[1]:.{metric.digits}f}",
        "bar": bar(value, *interval, span),
        "rank": rank,
    }


def _entry_html(row: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    from medgym_offline.evaluation.metrics import METRICS

    entry = row["entry"]
    worlds = worlds_of([entry])
    known = [m for m in METRICS.values() if any(m.name in entry["metrics"][w] for w in worlds)]
    lines = [(m, [_cell(entry, w, m, group["spans"][m.name]) for w in worlds]) for m in known]
    runs = [
        (
            f"run {n}" if seed is None else f"seed {seed}",
            [_number(run.get(w, {}), METRICS[m]) for m in COLUMNS for w in worlds],
        )
        for n, (seed, run) in enumerate(zip(entry["seeds"], entry["runs"]), 1)
    ]
    return str(
        _template("entry.html.j2").render(
            title=f"{entry['name']} on {_data(entry)}",
            entry=entry,
            row=row,
            how=group["how"],
            worlds=worlds,
            lines=lines,
            run_heads=[(METRICS[m], w) for m in COLUMNS for w in worlds],
            runs=runs,
            ranks=list(row["ranks"].items()),
            count=len(group["rows"]),
            figures=[_shown(curve_figure(entry, variable)) for variable in ("sofa", "lactate")],
            legend=world_legend(entry),
            cost=_cost(entry),
            rule=RULE,
        )
    )


def _number(metrics: Mapping[str, float], metric: Metric) -> str:
    return f"{metrics[metric.name]:.{metric.digits}f}" if metric.name in metrics else "-"


def _cost(entry: Entry) -> str:
    """The training's cost in words."""
    found = entry["compute"]
    if found is None:
        return "nothing was trained"
    seconds = found["wall_seconds"]
    long = seconds is not None and seconds >= 600
    parts = [
        found["hardware"] or "hardware not stated",
        "wall time not stated"
        if seconds is None
        else f"{seconds / 60:.0f} min for all runs"
        if long
        else f"{seconds:.0f} s for all runs",
        "updates not stated" if found["updates"] is None else f"{found['updates']:,} updates each",
    ]
    return "; ".join(parts)
