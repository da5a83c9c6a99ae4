"""One self-contained HTML page from several evaluations: no request leaves the page, light and dark, any width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgym_offline.errors import MissingExtraError, ProtocolError
from medgym_offline.evaluation.comparison import Comparison, pairs_of
from medgym_offline.evaluation.console import disagree
from medgym_offline.evaluation.figures import (
    BAND_POLICIES,
    Figure,
    Style,
    curve_figure,
    line_styles,
    pair_figure,
    subgroup_figure,
    support_figure,
    support_parts_figure,
    support_time_figure,
    transfer_figure,
)
from medgym_offline.evaluation.report_tables import (
    curve_table,
    gain_table,
    metric_table,
    plain,
    provenance_table,
    result_table,
    share,
    subgroup_table,
    transfer_table,
)
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.files import write_text

__all__ = ["page_template", "report_html", "write_report"]


def write_report(
    evaluations: Mapping[str, Evaluation],
    path: str | Path,
    title: str = "Evaluation",
    figures: str | Path | None = None,
) -> Path:
    """Write the report of `evaluations` to `path` (HTML), atomically; return the path.

    Args:
        evaluations: Name to show -> result. Pairs are found by their names: `cql-ind` is compared with `cql-pop`,
            `x-adaptive` with `x-fixed`, and every learned policy with the one whose name starts with "behavior".
        path: Of the page.
        title: Heading of the page.
        figures: Folder for the figures as SVG files of their own.

    Raises:
        MissingExtraError: If matplotlib or jinja2 is not installed (extra `report`).
        ProtocolError: If there is nothing to show, or two results to be compared are not comparable.
    """
    target = Path(path)
    shown: list[Figure] = []
    write_text(target, report_html(evaluations, title, shown))
    if figures is not None:
        from medgym_offline.svg import standalone_svg

        # The light colours of the page, which are written there once.
        palette = re.findall(r"--[\w-]+: #\w+;", (Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
        light = " ".join({entry.partition(":")[0]: entry for entry in reversed(palette)}.values())
        for figure in shown:
            stem = re.sub(r"[^a-z0-9]+", "-", figure.title.lower()).strip("-")
            write_text(Path(figures) / f"{stem}.svg", standalone_svg(figure.svg, light))
    return target


def page_template(name: str, folder: Path | None = None) -> Any:
    """A page's template: the file `name` of `folder` (this one by default), which may extend `page.html.j2`.

    Raises:
        MissingExtraError: If jinja2 is not installed (extra `report`).
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.of("jinja2", "report", "the HTML report") from None
    here = Path(__file__).parent
    loader = jinja2.FileSystemLoader([folder or here, here])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(name)


def report_html(
    evaluations: Mapping[str, Evaluation], title: str = "Evaluation", shown: list[Figure] | None = None
) -> str:
    """The page of :func:`write_report` as text; its figures are added to `shown`."""
    try:
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError.of("jinja2", "report", "the HTML report") from None
    if not evaluations:
        raise ProtocolError("a report needs at least one evaluation")
    first = next(iter(evaluations.values()))
    worlds = [w for w in first.worlds if all(w in e.worlds for e in evaluations.values())]
    if not worlds:
        raise ProtocolError(f"the evaluations share no world; evaluate all of them in world {first.world!r}")
    by_world = {w: pairs_of(evaluations, w) for w in worlds}
    styles = line_styles(evaluations)
    figures = [curve_figure(evaluations, variable, styles) for variable in ("sofa", "lactate")]
    support = support_figure(evaluations, styles)
    readings = [
        support,
        support_parts_figure(evaluations, styles),
        support_time_figure(evaluations, styles),
        support_time_figure(evaluations, styles, "percentile"),
    ]
    figures += [f for f in readings if f is not None]
    groups = [f for f in [subgroup_figure(evaluations, styles)] if f is not None]
    exchanged = [transfer_figure(n, e, styles[n], i) for i, (n, e) in enumerate(evaluations.items())]
    transfers = [f for f in exchanged if f is not None]
    individual = [c for kind, c in by_world[worlds[0]] if kind == "PopInd"]
    pairs = [pair_figure(c, styles[c.method], number) for number, c in enumerate(individual)]
    if shown is not None:
        shown += [*figures, *groups, *transfers, *pairs]
    captions = [f"{c.method} is better for {share(c)} of {len(c.per_patient['patient'])} patients." for c in individual]
    return page_template("report.html.j2").render(
        title=title,
        lead=_lead(first, worlds, len(evaluations)),
        notes=sorted({note for e in evaluations.values() for note in e.notes}),
        results=result_table(evaluations, worlds),
        gains=gain_table(by_world) if by_world[worlds[0]] else None,
        disagreements=_disagreements(by_world),
        legend=_legend(styles, support is not None),
        figures=[_shown(f, _caption(f, len(evaluations)), Markup) for f in figures],
        curve_tables=[curve_table(evaluations, v) for v in ("sofa", "lactate")],
        pairs=[_shown(f, caption, Markup) for f, caption in zip(pairs, captions)],
        first_world=worlds[0],
        subgroups=subgroup_table(evaluations, worlds[0]),
        subgroup_figures=[_shown(f, "Dot: mean; line: its interval.", Markup) for f in groups],
        transfer_figures=[_shown(f, "Below the diagonal the own policy is better.", Markup) for f in transfers],
        transfers=transfer_table(evaluations, worlds),
        metrics=[metric_table(evaluations, w) for w in worlds],
        protocol=_protocol(first),
        provenance=provenance_table(evaluations),
        settings=[(k, plain(v)) for k, v in sorted(first.protocol.items())],
    )


def _lead(first: Evaluation, worlds: Sequence[str], policies: int) -> str:
    count, protocol = len(first.per_patient["patient"]), first.protocol
    episodes, decisions = protocol["episodes"], protocol["decisions"]
    where = f"{worlds[0]} world" if len(worlds) == 1 else f"{', '.join(worlds[:-1])} and {worlds[-1]} worlds"
    return (
        f"{policies} {'policy' if policies == 1 else 'policies'} on {count} patients of {first.bank['name']}, "
        f"{episodes} episodes each of {protocol['horizon']:g} h, at most {decisions} decisions, "
        f"{where}. Intervals: {100 * protocol['bootstrap']['confidence']:.0f} % bootstrap over patients."
    )


def _disagreements(by_world: Mapping[str, list[tuple[str, Comparison]]]) -> list[str]:
    lines = []
    for row in zip(*by_world.values()):
        cells = [c for _, c in row]
        if disagree(cells):
            values = ", ".join(f"{c.percent:+.1f} % ({c.world})" for c in cells)
            lines.append(f"Worlds disagree: {cells[0].method} over {cells[0].reference} is {values}.")
    return lines


def _legend(styles: Mapping[str, Style], data: bool) -> list[dict[str, Any]]:
    def item(name: str, style: Style, opacity: float = 1.0) -> dict[str, Any]:
        # Dash lengths of a plot are in units of its line width; those of an SVG are not.
        dash = " ".join(f"{style.width * d:g}" for d in style.dash)
        return {"name": name, "color": style.css, "width": style.width, "dash": dash, "opacity": opacity}

    items = [item(name, style) for name, style in styles.items()]
    if data:
        items.append(item("held-out behaviour data (support only)", Style("#0a0b01", (), 6.0), 0.25))
    return items


def _caption(figure: Figure, policies: int) -> str:
    band = "Band: the middle 80 % of patients. " if policies <= BAND_POLICIES else ""
    if figure.title.startswith("Lactate"):
        return f"{band}Horizontal line: the limit of 4 mmol/L. Vertical line: hour 20, after which safety is counted."
    if figure.title.startswith("Support percentile over"):
        return "50: as far as the behaviour's own held-out data. 100: further than all of it."
    if figure.title == "Support distance by part":
        return "Dot: mean; line: its interval. States far away and actions close: the policy led the patient elsewhere."
    if figure.title.startswith("Support distance over"):
        return "Mean over patients of the decisions that began in each stretch of hours."
    if figure.title.startswith("Support"):
        return (
            "Further left is closer to the data. The wide grey line is what data of the same behaviour, held out, has."
        )
    return band


def _shown(figure: Figure, caption: str, markup: Any) -> dict[str, Any]:
    return {"title": figure.title, "svg": markup(figure.svg), "description": figure.description, "caption": caption}


def _protocol(first: Evaluation) -> list[tuple[str, str]]:
    entries = [
        ("Protocol", f"{first.protocol['name']} (sha256 {first.protocol_hash})"),
        ("Bank", f"{first.bank['name']}, {first.bank['patients']} patients (content {first.bank['content_hash']})"),
        ("Seed", str(first.protocol["seed"])),
    ]
    if first.dataset:
        entries.append(("Behaviour data", f"{first.dataset['id']} (identity {first.dataset['identity']})"))
    changes = [
        f"{k}: {plain(v['used'])} instead of {plain(v['protocol'])}" for k, v in sorted(first.deviations.items())
    ]
    entries.append(("Deviations", "; ".join(changes) or "none"))
    entries.append(("Software", ", ".join(f"{k} {v}" for k, v in sorted(first.software.items()))))
    return entries
