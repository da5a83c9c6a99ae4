"""What pages are made of: plain data, of which HTML is made elsewhere, and tables for terminal and Markdown here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Block", "Cell", "Details", "Estimate", "Facts", "Figure", "Legend", "Link", "Page", "Section", "Shade", "Table",
    "Warn", "markdown", "print_table",
]  # fmt: skip


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


def print_table(table: Table, console: Console | None = None, intervals: int = 99) -> None:
    """Print the table for a person, with the intervals of the first so many columns."""
    from rich.console import Console as Terminal
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
    out = console or Terminal()
    out.print(shown)
    out.print()


def markdown(table: Table) -> str:
    """The table in Markdown, its caption above."""
    lines = [list(table.heads), ["---"] + ["---:"] * (len(table.heads) - 1)]
    lines += [[_words(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.rows]
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
