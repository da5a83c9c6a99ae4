"""The leaderboard as static pages: an index, one page per table, and the raw JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medgym_offline.config import to_values
from medgym_offline.diseases.base import Metric
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation.metrics import metrics_of
from medgym_offline.files import atomic_path, json_text
from medgym_offline.leaderboard.board import FORMAT, Board
from medgym_offline.leaderboard.entry import Entry, PolicyFile, World, slug
from medgym_offline.leaderboard.ranks import RULE, Group, Ranking, deciding_world, groups, rank
from medgym_offline.reports import (
    SERIES,
    Cell,
    Details,
    Estimate,
    Facts,
    Figure,
    Legend,
    Link,
    Page,
    Section,
    Table,
    draw_figure,
    write_page,
)

__all__ = ["build_page"]

COLUMNS = ("severity_mean", "safe_hourly", "return", "normalized_score", "support_distance")
_MARK = ".medgym-leaderboard"
_SCOPES = {"ind": "a policy per patient", "pop": "one policy for all", "baseline": "baseline"}


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
        for group, members in groups(entries).items():
            first, name = rank(members, deciding_world(members)), _file(group)
            write_page(temporary / name, _group_page(group, members, first))
            leaders = ", ".join(e.name for e in first.entries if first.ranks[e.id] == 1)
            label = find_disease(group.disease).label
            rows.append(
                (Link(group.data, name), label, group.timing, group.decisions, len(members), leaders, group.how)
            )
        verified = sum(e.verification is not None for e in entries)
        heads = ("Data", "Disease", "Timing", "Decisions", "Entries", "Rank 1", "How")
        index = Page(
            "MedGym Offline leaderboard",
            (
                Section(
                    "Tables", Table("Entries of a table were made alike", heads, rows) if rows else "No entries yet."
                ),
                Section("How entries are ranked", RULE),
                Section(
                    "Raw data", Table("For programs", ("File",), [(Link("leaderboard.json", "leaderboard.json"),)])
                ),
            ),
            "Treatment policies learned offline, scored on patient simulators. An entry counts as verified after its "
            f"policies were run again and every number held: {verified} of {len(entries)}. Results concern simulators "
            "learned from records; they say nothing about the care of anyone.",
        )
        write_page(temporary / "index.html", index)
    return folder / "index.html"


def _file(group: Group) -> str:
    return f"{slug(group.data)}-{group.timing}-{group.decisions}-{group.key[:8]}.html"


def _group_page(group: Group, entries: Sequence[Entry], first: Ranking) -> Page:
    worlds = entries[0].worlds[::-1]
    known = metrics_of(find_disease(group.disease))
    sections = []
    for world in worlds:
        ranking = first if world == worlds[0] else rank(entries, world)
        figures = _figures(ranking, world, known) if world == worlds[0] else ()
        sections.append(
            Section(f"Ranks, {world} world", _ranks(ranking, world, known), _pairs(ranking, known), *figures)
        )
    sections.append(Section("Entries", *(Details(f"{e.name} ({e.scope})", [Facts(_facts(e))]) for e in first.entries)))
    sections.append(Section("How entries are ranked", RULE))
    title = f"{group.data}, {group.timing} timing, at most {group.decisions} decisions"
    return Page(title, sections, f"{find_disease(group.disease).label}. {group.how}. The strictest world comes first.")


def _ranks(ranking: Ranking, world: World, known: Mapping[str, Metric]) -> Table:
    entries = ranking.entries
    shown = [known[name] for name in COLUMNS if any(name in e.metrics[world] for e in entries)]
    within = {}
    for scope in _SCOPES:
        within |= rank([e for e in entries if e.scope == scope], world).ranks
    best = entries[0].id
    against = {pair.second: replace(pair, difference=-pair.difference) for pair in ranking.pairs if pair.first == best}
    rows = []
    for entry in entries:
        pair = against.get(entry.id)
        digits = known["severity_mean"].digits
        behind = Estimate(pair.difference, -pair.interval[1], -pair.interval[0], digits, signed=True) if pair else None
        cells: list[Cell] = [
            entry.name,
            ranking.ranks[entry.id],
            within[entry.id],
            entry.scope,
            len(entry.runs),
            behind,
        ]
        rows.append([*cells, *(_cell(entry, world, metric) for metric in shown), "yes" if entry.verification else "no"])
    units = [f"{m.label}{', ' + m.unit if m.unit else ''}" for m in shown]
    heads = ("Method", "Rank", "In its scope", "Scope", "Runs", "Behind the first", *units, "Verified")
    notes = ("", "", "among entries of the same scope", "; ".join(f"{k}: {v}" for k, v in _SCOPES.items()), "")
    notes = (*notes, "paired difference in severity, 95 % interval", *(m.definition for m in shown), "")
    caption = "Means over patients and training runs with 95 % intervals, which are not paired: ranks are"
    return Table(caption, heads, rows, bars=True, notes=notes)


def _cell(entry: Entry, world: World, metric: Metric) -> Estimate:
    low, high = entry.intervals[world].get(metric.name, (None, None))
    return Estimate(entry.metrics[world].get(metric.name, math.nan), low, high, metric.digits)


def _pairs(ranking: Ranking, known: Mapping[str, Metric]) -> Details | None:
    if not ranking.pairs:
        return None
    names, metric = {e.id: f"{e.name} ({e.scope})" for e in ranking.entries}, known["severity_mean"]
    rows = [
        (
            names[p.first],
            names[p.second],
            Estimate(p.difference, *p.interval, metric.digits, signed=True),
            f"{p.adjusted:.2g}",
        )
        for p in ranking.pairs
    ]
    caption = f"{metric.label}, first minus second, with its 95 % interval, and p corrected for {len(rows)} pairs"
    return Details("Every pair", [Table(caption, ("First", "Second", "Difference", "p"), rows)])


def _figures(ranking: Ranking, world: World, known: Mapping[str, Metric]) -> Sequence[Legend | Figure]:
    """Severity and the monitored component over time of the first entries, as many as there are colors."""
    disease = find_disease(ranking.entries[0].disease)
    shown = list(zip(ranking.entries, SERIES))
    watched = disease.components[disease.monitored]
    labels = {
        "severity": (disease.severity.label, disease.severity.unit),
        "monitored": (watched.label or watched.name, watched.unit),
    }

    def figure(key: str) -> Figure:
        label, unit = labels[key]
        curves = [(e, e.curves[world].times, getattr(e.curves[world], key), color) for e, color in shown]

        def draw(canvas: object) -> None:
            axes = canvas.add_subplot()  # type: ignore[attr-defined]
            for _, times, values, color in curves:
                axes.plot(times, values, color=color, linewidth=1.8)
            axes.set_xlabel(f"Time ({disease.process.unit})")
            axes.set_ylabel(f"{label} ({unit})")

        ends = "; ".join(f"{e.name} from {values[0]:.2f} to {values[-1]:.2f}" for e, _, values, _ in curves)
        return draw_figure(f"{label} over time", draw, f"Line chart, mean {label} ({unit}): {ends}.")

    return (
        Legend([(f"{e.name} ({e.scope})", color, (), 1.8) for e, color in shown]),
        figure("severity"),
        figure("monitored"),
    )


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """Where an entry comes from."""
    cost, record = entry.compute, entry.verification
    parts = cost and [
        cost.hardware or "hardware not stated",
        "wall time not stated" if cost.wall_seconds is None else f"{cost.wall_seconds:.0f} s for all runs",
        "updates not stated" if cost.updates is None else f"{cost.updates:,} updates each",
    ]
    checked = record and (
        f"by medgym-offline {record.version}{', on fresh seeds too' * record.fresh_seeds}; largest deviation "
        f"{record.largest_deviation:.3g} of its tolerance"
        + (f"; trained again: {record.retrained}" if record.retrained else "")
    )
    files = [
        p.file + f" ({p.sha256})" if isinstance(p, PolicyFile) else f"{p.builtin}, built in" for p in entry.policies
    ]
    return [
        ("Id", entry.id),
        ("Authors", "; ".join(entry.authors) or "not stated"),
        ("Links", "\n".join(entry.links) or "none"),
        ("Code", entry.code or "not stated"),
        ("Training", "; ".join(parts) if parts else "nothing was trained"),
        ("Policies", "\n".join(files)),
        ("Bank", f"{entry.bank.name}, content {entry.bank.content_hash}"),
        ("Protocol", f"{entry.protocol.settings.name}, hash {entry.protocol.hash}"),
        ("Software", ", ".join(f"{name} {version}" for name, version in sorted(entry.software.items()))),
        ("Verified", checked or "not yet"),
        *(("Note", note) for note in entry.notes),
    ]
