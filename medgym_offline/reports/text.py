"""A :class:`~medgym_offline.reports.blocks.Table` in the terminal and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgym_offline.reports.blocks import Cell, Estimate, Link, Shade, Table, Warn

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["markdown", "print_table"]


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
