"""A :class:`~medgym_offline.reports.blocks.Page` as one HTML file."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from medgym_offline.files import write_text
from medgym_offline.reports import blocks
from medgym_offline.reports.figures import COLORS

__all__ = ["page_html", "write_page"]

_TEMPLATE = Path(__file__).parent / "page.html"
_CONTENTS_FROM = 5  # sections, from which on a page begins with links to them
_PROSE = 30  # characters, from which on a cell may wrap


def write_page(path: str | Path, page: blocks.Page) -> Path:
    """Write `page` to `path`, atomically; return the path."""
    write_text(path, page_html(page))
    return Path(path)


def page_html(page: blocks.Page) -> str:
    """The page as HTML text."""
    sections = [s for s in page.sections if s.blocks]
    names = [re.sub(r"[^a-z0-9]+", "-", s.heading.lower()).strip("-") for s in sections]
    links = "".join(f'<li><a href="#{n}">{_text(s.heading)}</a></li>' for n, s in zip(names, sections))
    body = "".join(
        f'<section><h2 id="{n}">{_text(s.heading)}</h2>\n{_blocks(s.blocks)}</section>\n'
        for n, s in zip(names, sections)
    )
    missing = '<div role="img"></div>' in body
    lead = page.lead + (" Figures are left out: matplotlib is not installed (extra report)." if missing else "")
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in (0, 1))
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(page.title),
        lead=_text(lead.strip()),
        light=light,
        dark=dark,
        contents=f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(sections) >= _CONTENTS_FROM else "",
        body=body,
    )


def _text(value: object) -> str:
    return html.escape(str(value)).replace("\n", "<br>")


def _blocks(shown: Sequence[blocks.Block]) -> str:
    parts = []
    for kind, group in itertools.groupby(shown, lambda block: isinstance(block, blocks.Figure)):
        inside = "\n".join(map(_block, group))
        parts.append(f'<div class="figures">\n{inside}\n</div>\n' if kind else inside + "\n")
    return "".join(parts)


def _block(block: blocks.Block) -> str:
    if isinstance(block, str):
        return f"<p>{_text(block)}</p>"
    if isinstance(block, blocks.Warn):
        return f'<p class="warn">{_text(block.text)}</p>'
    if isinstance(block, blocks.Facts):
        return f"<dl>{''.join(f'<dt>{_text(k)}</dt><dd>{_text(v)}</dd>' for k, v in block.pairs)}</dl>"
    if isinstance(block, blocks.Details):
        opened = " open" if block.opened else ""
        return f"<details{opened}><summary>{_text(block.summary)}</summary>{_blocks(block.blocks)}</details>"
    if isinstance(block, blocks.Legend):
        return f'<ul class="legend">{"".join(_line(*item) for item in block.items)}</ul>'
    return _figure(block) if isinstance(block, blocks.Figure) else _table(block)


def _figure(figure: blocks.Figure) -> str:
    label = f' aria-label="{html.escape(figure.description)}"' if figure.svg else ""
    shown = f'<div role="img"{label}>{figure.svg}</div>' + ("" if figure.svg else f"<p>{_text(figure.description)}</p>")
    caption = f"<figcaption>{_text(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure><h3>{_text(figure.title)}</h3>{shown}{caption}</figure>"


def _line(name: str, color: str, dash: Sequence[float], width: float) -> str:
    variable = next((f"var(--{n})" for n, (light, _) in COLORS.items() if light == color), color)
    dashes = " ".join(f"{width * d:g}" for d in dash)  # of an SVG not in widths of the line, as they are in a plot
    style = f"stroke:{variable};stroke-width:{width:g};stroke-dasharray:{dashes or 'none'}"
    drawn = f'<svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" style="{style}"/></svg>'
    return f"<li>{drawn}{_text(name)}</li>"


def _is_number(cell: blocks.Cell) -> bool:
    return (
        not isinstance(cell, str | blocks.Link | blocks.Shade | blocks.Warn)
        or cell == ""
        or (isinstance(cell, str) and cell[0] in "0123456789-+.<")
    )


def _table(table: blocks.Table) -> str:
    columns = list(zip(*table.rows)) or [()] * len(table.heads)
    prose = [n == 0 or not all(map(_is_number, column)) for n, column in enumerate(columns)]
    head = "".join(
        f'<th scope="col" class="{"text" if is_prose else "number"}">{_text(h)}</th>'
        for h, is_prose in zip(table.heads, prose)
    )
    body = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{_wrapped(cell) * is_prose}>{_cell(cell)}</td>" for cell, is_prose in zip(row[1:], prose[1:]))
        + "</tr>\n"
        for row in table.rows
    )
    caption = _text(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.caption)}"><table>'
        f"<caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _wrapped(cell: blocks.Cell) -> str:
    return ' class="wrap"' if isinstance(cell, str) and len(cell) > _PROSE else ' class="text"'


def _cell(cell: blocks.Cell) -> str:
    if isinstance(cell, blocks.Link):
        return f'<a href="{html.escape(cell.address)}">{_text(cell.text)}</a>'
    if isinstance(cell, blocks.Shade):
        return f'<span class="shade" style="--share:{min(max(cell.share, 0.0), 1.0):.0%}">{_text(cell.text)}</span>'
    if isinstance(cell, blocks.Warn):
        return f'<span class="warn">{_text(cell.text)}</span>'
    if not isinstance(cell, blocks.Estimate):
        return "-" if cell is None else _text(f"{cell:g}" if isinstance(cell, float) else cell)
    interval = f'<span class="interval">{_text(cell.interval)}</span>' if cell.interval else ""
    return _text(cell.text) + interval
