"""The leaderboard as one static HTML page: no server, no script, nothing fetched from elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from medgym_offline.files import json_text, write_text
from medgym_offline.leaderboard.board import FORMAT

__all__ = ["COLUMNS", "build_page", "groups"]

COLUMNS = ("sofa_all", "safe_hourly", "sofa_96h", "return", "support_distance")
"""Metrics shown, in order; entries are ranked by the first."""

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}
caption{text-align:left;padding:.5rem 0;opacity:.8}
th,td{padding:.4rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:nth-child(-n+5),td:nth-child(-n+5){text-align:left}tbody tr:hover{background:var(--soft)}
small{opacity:.7;display:block;font-weight:normal}
footer{border-top:1px solid var(--line);padding-top:1rem;font-size:.9rem}
"""


def groups(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """Entries that may be compared: same data, bank, protocol with its deviations, and patients.

    Keys are (dataset or bank, how it was evaluated, then hashes that keep groups apart); entries are sorted by mean
    surrogate SOFA in the first world, smallest first.
    """
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        found[_group(entry)].append(entry)
    return {key: sorted(rows, key=lambda e: _first(e)["sofa_all"]) for key, rows in sorted(found.items())}


def _group(entry: Mapping[str, Any]) -> tuple[str, ...]:
    protocol = entry["protocol"]
    settings = protocol["settings"]
    data = entry["dataset"]["id"] if entry["dataset"] else f"bank {entry['bank']['name']}"
    count = f"{len(protocol['patients'])} patients" if protocol["patients"] else "all patients"
    how = f"{settings['name']}: {count}, {settings['episodes']} episodes each, seed {settings['seed']}"
    if departs := sorted(set(protocol["deviations"]) - {"bank"}):
        how += f" (departs from the protocol in {', '.join(departs)})"
    return data, how, protocol["hash"], entry["bank"]["content_hash"], ",".join(protocol["patients"] or [])


def _first(entry: Mapping[str, Any]) -> Mapping[str, float]:
    """Metrics of the first world; which that is, only the protocol's list says."""
    metrics: Mapping[str, float] = entry["metrics"][entry["protocol"]["settings"]["worlds"][0]]
    return metrics


def build_page(entries: Sequence[Mapping[str, Any]], output: str | Path) -> Path:
    """Write `index.html`, and `leaderboard.json` with the raw entries, into the folder `output`.

    Everything in an entry was written by a stranger: all of it is escaped.

    Returns:
        The page.
    """
    folder = Path(output)
    body = "".join(_table(key, rows) for key, rows in groups(entries).items()) or "<p>No entries yet.</p>"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>MedGym Offline leaderboard</title><style>{_STYLE}</style></head><body>"
        "<header><h1>MedGym Offline leaderboard</h1><p>Treatment policies learned offline, scored on patient "
        "simulators. A research benchmark, not clinical decision support.</p></header>"
        f"<main>{body}</main><footer><p>Means over patients and training seeds with bootstrap 95 % intervals. Tables "
        "are ranked by mean surrogate SOFA (lower is better); while an entry's interval reaches that of the entry that "
        "leads its rank, it shares the rank. "
        'Raw data: <a href="leaderboard.json">leaderboard.json</a>.</p></footer></body></html>\n'
    )
    write_text(folder / "leaderboard.json", json_text({"format": FORMAT, "entries": list(entries)}))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _table(key: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> str:
    from medgym_offline.evaluation.metrics import METRICS

    worlds = list(dict.fromkeys(w for row in rows for w in row["protocol"]["settings"]["worlds"]))
    # Worlds side by side: the own world alone is never the headline.
    shown = [(w, m) for m in COLUMNS for w in worlds if any(m in row["metrics"].get(w, {}) for row in rows)]
    units = {m: ", ".join(filter(None, ("{}", METRICS[m].unit))) for m in COLUMNS}
    heads = "".join(
        f'<th scope="col">{escape(METRICS[m].label)}<small>{escape(units[m].format(w))}</small></th>' for w, m in shown
    )
    title = escape(key[0])
    ranks = _ranks(rows)
    lines = "".join(f"<tr><td>{rank}</td>{_cells(row, shown)}</tr>" for rank, row in zip(ranks, rows))
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table><caption>{escape(key[1])}</caption><thead><tr>"
        f"{''.join(f'<th scope=col>{h}</th>' for h in ('Rank', 'Method', 'Scope', 'Timing', 'Verified'))}{heads}"
        f"</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _ranks(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A row shares the rank of the row that leads it while its interval reaches that leader's."""
    ranks: list[int] = []
    top = -float("inf")
    for number, row in enumerate(rows, 1):
        world = row["protocol"]["settings"]["worlds"][0]
        value = row["metrics"][world]["sofa_all"]
        low, high = row["intervals"].get(world, {}).get("sofa_all", (value, value))
        if low > top:
            ranks.append(number)
            top = high
        else:
            ranks.append(ranks[-1])
    return ranks


def _cells(row: Mapping[str, Any], shown: Sequence[tuple[str, str]]) -> str:
    from medgym_offline.evaluation.metrics import METRICS

    name = escape(row["name"])
    if row["links"]:
        name = f'<a href="{escape(row["links"][0])}" rel="nofollow noopener">{name}</a>'
    seeds = f"{len(row['seeds'])} training seed{'s' if len(row['seeds']) > 1 else ''}"
    who = escape(", ".join([*row["authors"][:3], *(["..."] if len(row["authors"]) > 3 else [])]))
    detail = seeds if row["scope"] != "baseline" else "no training"
    cells = [
        f'<th scope="row">{name}<small>{who + ", " if who else ""}{detail}</small></th>',
        f"<td>{escape(row['scope'])}</td>",
        f"<td>{escape(row['timing'])}<small>K = {row['decisions']}</small></td>",
        f"<td>{'yes' if row['verification'] else 'not yet'}</td>",
    ]
    for world, metric in shown:
        value = row["metrics"].get(world, {}).get(metric)
        if value is None:
            cells.append("<td>-</td>")
            continue
        digits = METRICS[metric].digits
        interval = row["intervals"].get(world, {}).get(metric)
        text = "" if interval is None else f"<small>{interval[0]:.{digits}f} to {interval[1]:.{digits}f}</small>"
        cells.append(f"<td>{value:.{digits}f}{text}</td>")
    return "".join(cells)
