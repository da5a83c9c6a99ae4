"""What pages are made of: plain data, of which one HTML file is made; tables also for the terminal and in Markdown."""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from medgym_offline.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Block", "COLORS", "Cell", "Details", "Estimate", "Facts", "Figure", "Legend", "Link", "Page", "Section", "Shade",
    "Table", "Warn", "markdown", "page_html", "print_table", "write_page",
]  # fmt: skip

_TEMPLATE = Path(__file__).parent / "page.html"
_CONTENTS_FROM = 5  # sections, from which on a page begins with links to them
_PROSE = 30  # characters, from which on a cell may wrap

COLORS = {
    "page": ("#fefefe", "#14171a"),
    "panel": ("#f6f7f8", "#1d2125"),
    "ink": ("#1a1d21", "#e8eaed"),
    "muted": ("#5a626b", "#a3abb4"),
    "line": ("#d5d9de", "#3a4047"),
    "mark": ("#8a4b00", "#f0b266"),
    "series-1": ("#0063a8", "#5db3f0"),
    "series-2": ("#c2410c", "#ff8f5c"),
    "series-3": ("#00776a", "#3ccfb8"),
    "series-4": ("#9c3587", "#e48bd0"),
    "series-5": ("#8a6500", "#dcb64a"),
    "series-6": ("#5b45c4", "#a99bff"),
}
"""Name of the page's CSS variable -> (light, dark). Text on the page has a contrast of 4.5 or more in both."""


@dataclass(frozen=True)
class Estimate:
    """A number, with its interval where it has one.

    Attributes:
        value: The number; NaN is shown as "-".
        ends: Of its interval, None where there is none.
        digits: After the point.
        signed: Show the sign of positive numbers (gains).
    """

    value: float
    ends: Sequence[float | None] = (None, None)
    digits: int = 2
    signed: bool = False

    def _number(self, value: float) -> str:
        return f"{value:{'+' if self.signed else ''}.{self.digits}f}"

    @property
    def text(self) -> str:
        """The number in words."""
        return "-" if math.isnan(self.value) else self._number(self.value)

    @property
    def interval(self) -> str:
        """The interval in words, "" if there is none."""
        known = [self._number(end) for end in self.ends if end is not None and not math.isnan(self.value)]
        return " to ".join(known)


@dataclass(frozen=True)
class Link:
    """Text that leads to `address`, relative to the page or one of its headings (`#...`)."""

    text: str
    address: str


@dataclass(frozen=True)
class Warn:
    """A sentence, or a cell of a table, that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Shade:
    """A cell of a heat map: text on a background, `share` from 0 (none) to 1 (strongest)."""

    text: str
    share: float


Cell = str | int | float | None | Estimate | Link | Shade | Warn
"""Of a table; None is shown as "-"."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first cell of a row names it.

    Attributes:
        caption: What is shown, in which unit.
        heads: One per column.
        rows: Of cells (:data:`Cell`), each as long as `heads`.
        order: Column to sort by, lowest first; None keeps the order given.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    order: int | None = None

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.heads)]:
            raise ValueError(f"table {self.caption!r}: a row of {len(wrong[0])} cells under {len(self.heads)} heads")
        if self.order is not None:
            object.__setattr__(self, "rows", sorted(self.rows, key=self._place))

    def _place(self, row: Sequence[Any]) -> tuple[bool, float]:
        cell = row[self.order or 0]
        value = cell.value if isinstance(cell, Estimate) else cell
        known = isinstance(value, int | float) and not math.isnan(value)
        return not known, value if known else 0.0


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        title: Its heading.
        svg: An SVG element (:func:`~medgym_offline.reports.figures.draw_figure`); "" where matplotlib is missing.
        description: What it shows, in words with numbers, for those who do not see it.
        caption: How to read it, if that needs saying.
    """

    title: str
    svg: str
    description: str
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Pairs of a word and what it is."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Legend:
    """Line styles that several figures share: (name, color, dash pattern in line widths or (), width in points)."""

    items: Sequence[tuple[str, str, Sequence[float], float]]


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that opens them."""

    summary: str
    blocks: Sequence[Any]
    opened: bool = False


Block = str | Table | Figure | Facts | Warn | Legend | Details
"""Of a section; a text is a paragraph. Figures that follow each other stand side by side where there is room."""


@dataclass(frozen=True, init=False)
class Section:
    """A heading and what is under it, after a `note` on how to read it; an empty one is left out of the page."""

    heading: str
    blocks: tuple[Block, ...]

    def __init__(self, heading: str, *blocks: Block | None, note: str = "") -> None:
        object.__setattr__(self, "heading", heading)
        shown = tuple(b for b in blocks if b is not None)
        object.__setattr__(self, "blocks", (note, *shown) if note and shown else shown)


@dataclass(frozen=True)
class Page:
    """A title, a paragraph on what this is, and sections."""

    title: str
    sections: Sequence[Section]
    lead: str = ""


def _words(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        # Where a column is narrow the line breaks before the interval, not in it.
        interval = cell.interval.replace(" to ", ",\u00a0")
        return f"{cell.text} [{interval}]" if interval else cell.text
    if isinstance(cell, Link | Shade | Warn):
        return cell.text
    if cell is None:
        return "-"
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def print_table(table: Table, console: Console, intervals: int = 99) -> None:
    """Print the table for a person, with the intervals of the first so many columns."""
    from rich.table import Table as RichTable
    from rich.text import Text

    rows = [
        [cell.text if n > intervals and isinstance(cell, Estimate) else _words(cell) for n, cell in enumerate(row)]
        for row in table.rows
    ]
    shown = RichTable(title=Text(table.caption, style="bold"), title_justify="left", box=None, pad_edge=False)
    for n, head in enumerate(table.heads):
        numeric = n > 0 and all(row[n][:1] in "0123456789-+." for row in rows if row[n])
        shown.add_column(Text(head), justify="right" if numeric else "left", overflow="fold", min_width=0 if n else 10)
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    console.print()


def markdown(table: Table) -> str:
    """The table in Markdown, its caption above."""
    lines = [list(table.heads), ["---"] + ["---:"] * (len(table.heads) - 1)]
    lines += [[_words(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.rows]
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_page(path: str | Path, page: Page) -> Path:
    """Write `page` to `path`, atomically; return the path."""
    write_text(path, page_html(page))
    return Path(path)


def page_html(page: Page) -> str:
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


def _blocks(shown: Sequence[Block]) -> str:
    parts = []
    for kind, group in itertools.groupby(shown, lambda block: isinstance(block, Figure)):
        inside = "\n".join(map(_block, group))
        parts.append(f'<div class="figures">\n{inside}\n</div>\n' if kind else inside + "\n")
    return "".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{_text(block)}</p>"
    if isinstance(block, Warn):
        return f'<p class="warn">{_text(block.text)}</p>'
    if isinstance(block, Facts):
        return f"<dl>{''.join(f'<dt>{_text(k)}</dt><dd>{_text(v)}</dd>' for k, v in block.pairs)}</dl>"
    if isinstance(block, Details):
        opened = " open" if block.opened else ""
        return f"<details{opened}><summary>{_text(block.summary)}</summary>{_blocks(block.blocks)}</details>"
    if isinstance(block, Legend):
        return f'<ul class="legend">{"".join(_line(*item) for item in block.items)}</ul>'
    return _figure(block) if isinstance(block, Figure) else _table(block)


def _figure(figure: Figure) -> str:
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


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, str):
        return not cell or cell[0] in "0123456789-+.<"
    return not isinstance(cell, Link | Shade | Warn)


def _table(table: Table) -> str:
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
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.caption)}"><table>'
        f"<caption><span>{_text(table.caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _wrapped(cell: Cell) -> str:
    return ' class="wrap"' if isinstance(cell, str) and len(cell) > _PROSE else ' class="text"'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{html.escape(cell.address)}">{_text(cell.text)}</a>'
    if isinstance(cell, Shade):
        return f'<span class="shade" style="--share:{min(max(cell.share, 0.0), 1.0):.0%}">{_text(cell.text)}</span>'
    if isinstance(cell, Warn):
        return f'<span class="warn">{_text(cell.text)}</span>'
    if isinstance(cell, Estimate) and cell.interval:
        return f'{_text(cell.text)}<span class="interval">{_text(cell.interval)}</span>'
    return _text(_words(cell))
