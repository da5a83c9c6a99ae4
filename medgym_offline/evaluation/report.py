"""One self-contained HTML page from several evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation import figures as draw
from medgym_offline.evaluation import tables
from medgym_offline.evaluation.comparison import pairs_of
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.evaluation.tables import Evaluations
from medgym_offline.reports.blocks import Details, Facts, Legend, Page, Section, Warn
from medgym_offline.reports.figures import INK
from medgym_offline.reports.page import write_page

__all__ = ["write_report"]

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
    return write_page(path, evaluation_page(evaluations, title))


def evaluation_page(evaluations: Evaluations, title: str = "Evaluation") -> Page:
    """The page of :func:`write_report`."""
    if not evaluations:
        raise ProtocolError("a report needs at least one evaluation")
    first = next(iter(evaluations.values()))
    if not (worlds := tables.shared_worlds(evaluations)):
        raise ProtocolError(f"the evaluations share no world; evaluate all of them in world {first.world!r}")
    disease, by_world = first.disease, {w: pairs_of(evaluations, w) for w in worlds}
    styles = draw.line_styles(evaluations)
    severity = tables.metric_label(first.definitions, "severity_mean")
    monitored = disease.components[disease.monitored]
    name = monitored.label or monitored.name
    curves = {"severity": severity, "monitored": f"{name[:1].upper()}{name[1:]} ({monitored.unit})"}
    support = draw.support_figure(evaluations, styles)
    items = [(name, style.color, style.dash, style.width) for name, style in styles.items()]
    items += [("the behavior data's other half (support only)", INK, (), 6.0)] if support else []
    gains, notes = tables.gain_table(by_world), sorted({n for e in evaluations.values() for n in e.notes})
    individual = [c for kind, c in by_world[worlds[0]] if kind == "PopInd"]
    columns = {w: {n: e.worlds[w] for n, e in evaluations.items()} for w in worlds}
    every = [tables.metric_table(columns[w], first.definitions, f"Every metric, {w} world") for w in worlds]
    return Page(
        title,
        (
            Section("Results", *notes, tables.comparison_table(evaluations)),
            Section("Paired comparisons", gains, *map(Warn, tables.disagreements(by_world)), note=_GAIN),
            Section(
                "Over time, and away from the data",
                Legend(items),
                *(draw.curve_figure(evaluations, key, label, styles) for key, label in curves.items()),
                support,
            ),
            Section("Subgroups", tables.subgroup_table(evaluations, worlds[0]), note=_GROUPS),
            Section(
                "Patient by patient: Ind against Pop",
                *(draw.pair_figure(c, styles[c.method], severity) for c in individual),
                note=f"One dot per patient, {worlds[0]} world. Below the diagonal the individual policy is better.",
            ),
            Section("All metrics", *(Details(t.caption, [t], opened=t is every[0]) for t in every)),
            Section(
                "Protocol and provenance",
                Facts(_protocol(first)),
                tables.provenance_table(evaluations),
                Details("Every setting", [Facts([(k, tables.plain(v)) for k, v in sorted(first.protocol.items())])]),
                f"{disease.caution} Results concern simulators; they say nothing about the care of anyone.".strip(),
            ),
        ),
        _lead(first, worlds, len(evaluations)),
    )


def _lead(first: Evaluation, worlds: Sequence[str], policies: int) -> str:
    count, protocol, disease = len(first.per_patient["patient"]), first.protocol, first.disease
    where = f"{worlds[0]} world" if len(worlds) == 1 else f"{', '.join(worlds[:-1])} and {worlds[-1]} worlds"
    return (
        f"{disease.label[:1].upper()}{disease.label[1:]}: {policies} {'policy' if policies == 1 else 'policies'} on "
        f"{count} patients of {first.bank['name']}, {protocol['episodes']} episodes each of {protocol['horizon']:g} "
        f"{disease.process.unit}, at most {protocol['decisions']} decisions, {where}. "
        f"Intervals: {100 * protocol['bootstrap']['confidence']:.0f} % bootstrap over patients."
    )


def _protocol(first: Evaluation) -> list[tuple[str, str]]:
    data = first.dataset
    return [
        ("Protocol", f"{first.protocol['name']} (sha256 {first.protocol_hash})"),
        ("Bank", f"{first.bank['name']}, {first.bank['patients']} patients (content {first.bank['content_hash']})"),
        ("Seed", str(first.protocol["seed"])),
        *([("Behavior data", f"{data['id']} (identity {data['identity']})")] if data else []),
        ("Deviations", tables.changes(first) or "none"),
        ("Software", tables.plain(first.software)),
    ]
