"""The leaderboard as static pages: an index, one page per table, and the raw JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from medgym_offline.config import to_values
from medgym_offline.diseases.base import Metric
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation.metrics import metrics_of
from medgym_offline.files import atomic_path, json_text
from medgym_offline.leaderboard.board import FORMAT, RULE, Board, Group, Ranking, groups, rank
from medgym_offline.leaderboard.entry import BuiltIn, Entry, World, slug
from medgym_offline.reports.blocks import Cell, Details, Estimate, Facts, Link, Page, Section, Shade, Table, write_page

__all__ = ["build_page"]

COLUMNS = ("severity_mean", "safe_hourly", "return", "normalized_score", "support_distance")
_MARK = ".medgym-leaderboard"
_LEAD = (
    "Treatment policies learned offline, scored on patient simulators. An entry counts as verified after its policies "
    "were run again and every number held. Results concern simulators; they say nothing about the care of anyone."
)


def build_page(entries: Sequence[Entry], output: str | Path) -> Path:
    """Write the pages and the raw JSON into the folder `output`, whole or not at all; returns `index.html`.

    Everything in an entry was written by a stranger: pages escape it all.

    Raises:
        SubmissionError: If `output` holds something that is no leaderboard page.
    """
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / _MARK).is_file())):
        raise SubmissionError(f"{folder} exists and holds something else; choose another --output")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        (temporary / _MARK).write_text("")
        board = json_text(to_values(Board(FORMAT, tuple(entries))))
        (temporary / "leaderboard.json").write_text(board, encoding="utf-8")
        rows: list[Sequence[Cell]] = []
        overview: list[tuple[str, Ranking]] = []  # tables may differ in their bank alone
        for group, members in groups(entries).items():
            name = f"{slug(group.data)}-{group.timing}-{group.decisions}-{group.key[:8]}.html"
            rankings = {world: rank(members, world) for world in reversed(members[0].worlds)}
            write_page(temporary / name, _group_page(group, rankings))
            strictest = next(iter(rankings.values()))
            leaders = ", ".join(e.name for e in strictest.entries if strictest.ranks[e.id] == 1)
            overview.append((f"{group.data}, {group.timing}", strictest))
            rows.append((Link(group.data, name), group.disease, group.timing, len(members), leaders, group.how))
        heads = ("Data", "Disease", "Timing", "Entries", "First", "How")
        tables = Table("Entries of a table were made alike", heads, rows) if rows else "No entries yet."
        raw = Table("For programs", ("File",), [(Link("leaderboard.json", "leaderboard.json"),)])
        glance, how = _overview(overview) if overview else None, Section("How entries are ranked", RULE)
        sections = [Section("Tables", tables), Section("Ranks at a glance", glance), how, Section("Raw data", raw)]
        write_page(temporary / "index.html", Page("MedGym Offline leaderboard", sections, _LEAD))
    return folder / "index.html"


def _overview(rankings: Sequence[tuple[str, Ranking]]) -> Table:
    """A heat map of methods and tables: the darker, the better the rank in the strictest world."""
    columns = []
    for _, ranking in rankings:
        last = max(len(ranking.entries) - 1, 1)
        ranks = {e.title: ranking.ranks[e.id] for e in ranking.entries}
        columns.append({title: Shade(str(place), 1 - (place - 1) / last) for title, place in ranks.items()})
    methods = dict.fromkeys(title for column in columns for title in column)
    rows = [(method, *(column.get(method) for column in columns)) for method in methods]
    heads = ("Method", *(data for data, _ in rankings))
    return Table("Ranks in the strictest world of each table; the stronger the color, the better", heads, rows)


def _group_page(group: Group, rankings: Mapping[World, Ranking]) -> Page:
    definition = find_disease(group.disease)
    known, strictest = metrics_of(definition), next(iter(rankings.values()))
    sections = [Section(f"Ranks, {w} world", _ranks(r, w, known), _pairs(r, known)) for w, r in rankings.items()]
    sections.append(Section("Entries", *(Details(e.title, [_facts(e)]) for e in strictest.entries)))
    title = f"{group.data}, {group.timing} timing, at most {group.decisions} decisions"
    lead = f"{definition.label}. {group.how}. The strictest world comes first."
    return Page(title, [*sections, Section("How entries are ranked", RULE)], lead)


def _ranks(ranking: Ranking, world: World, known: Mapping[str, Metric]) -> Table:
    entries, severity = ranking.entries, known["severity_mean"]
    own = [metric.name for metric in find_disease(entries[0].disease).metrics]
    shown = [known[name] for name in dict.fromkeys((*COLUMNS, *own)) if any(name in e.metrics[world] for e in entries)]
    behind = {
        p.second: Estimate(-p.difference, (-p.interval[1], -p.interval[0]), severity.digits, signed=True)
        for p in ranking.pairs
        if p.first == entries[0].id
    }
    within: dict[str, int] = {}
    for scope in {e.scope for e in entries}:
        within |= rank([e for e in entries if e.scope == scope], world).ranks
    names = {e.id: e.title for e in entries}
    rows = [
        (
            *(e.name, ranking.ranks[e.id], within[e.id], e.scope, len(e.runs), behind.get(e.id)),
            *(_estimate(e, world, metric) for metric in shown),
            "yes" if e.verification else "no",
            "; ".join(names[better] for better, worse in ranking.apart if worse == e.id) or "nobody",
            "; ".join(names[worse] for better, worse in ranking.apart if better == e.id) or "nobody",
        )
        for e in entries
    ]
    units = [f"{m.label}{', ' + m.unit if m.unit else ''}" for m in shown]
    places = ("Rank", "In its scope", "Scope", "Runs", "Behind the first")
    heads = ("Method", *places, *units, "Verified", "Worse than", "Better than")
    caption = (
        f"Behind the first: paired difference in {severity.label} with its 95 % interval. Other columns: "
        "means over patients and training runs with unpaired 95 % intervals, by which entries must not be compared"
    )
    return Table(caption, heads, rows)


def _estimate(entry: Entry, world: World, metric: Metric) -> Estimate:
    ends = entry.intervals[world].get(metric.name, (None, None))
    return Estimate(entry.metrics[world].get(metric.name, math.nan), ends, metric.digits)


def _pairs(ranking: Ranking, known: Mapping[str, Metric]) -> Details | None:
    names, metric = {e.id: e.title for e in ranking.entries}, known["severity_mean"]
    rows = [
        (names[p.first], names[p.second], Estimate(p.difference, p.interval, metric.digits, True), f"{p.adjusted:.2g}")
        for p in ranking.pairs
    ]
    caption = f"{metric.label}, first minus second, with its 95 % interval, and p corrected for {len(rows)} pairs"
    return Details("Every pair", [Table(caption, ("First", "Second", "Difference", "p"), rows)]) if rows else None


def _facts(entry: Entry) -> Facts:
    """Where an entry comes from."""
    cost, record = entry.compute, entry.verification
    trained = cost and f"{cost.hardware or '?'}; {cost.wall_seconds or '?'} s; {cost.updates or '?'} updates each"
    checked = record and (
        f"by medgym-offline {record.version}, fresh seeds: {'yes' if record.fresh_seeds else 'no'}, trained again: "
        f"{record.retrained or 'no'}; largest deviation {record.largest_deviation:.3g} of its tolerance"
    )
    files = [f"{p.builtin}, built in" if isinstance(p, BuiltIn) else f"{p.file} ({p.sha256})" for p in entry.policies]
    pairs = {
        "Id": entry.id,
        "Authors": "; ".join(entry.authors) or "not stated",
        "Links": "\n".join(entry.links) or "none",
        "Code": entry.code or "not stated",
        "Training": trained or "nothing was trained",
        "Policies": "\n".join(files),
        "Bank": f"{entry.bank.name}, content {entry.bank.content_hash}",
        "Protocol": f"{entry.protocol.settings.name}, hash {entry.protocol.hash}",
        "Software": ", ".join(f"{name} {version}" for name, version in sorted(entry.software.items())),
        "Verified": checked or "not yet",
        "Notes": "\n".join(entry.notes) or "none",
    }
    return Facts(list(pairs.items()))
