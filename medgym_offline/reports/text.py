"""A :class:`~medgym_offline.reports.Table` in the terminal and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgym_offline.reports.blocks import Cell, Estimate, Link, Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["markdown", "print_table"]


def _words(cell: Cell, between: str) -> str:
    if isinstance(cell, Estimate):
        return cell.text + (f"{between}({cell.interval})" if cell.interval else "")
    if isinstance(cell, Link):
        return cell.text
    return "-" if cell is None else f"{cell:g}" if isinstance(cell, float) else cell if isinstance(cell, str) else str(cell)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print the table for a person."""
    from rich.console import Console as Terminal
    from rich.table import Table as RichTable

    rows = [[_words(cell, " ") for cell in row] for row in table.rows]
    shown = RichTable(title=table.caption, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for n, head in enumerate(table.heads):
        numeric = n > 0 and all(row[n][:1] in "0123456789-+." for row in rows if row[n])
        shown.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    (console or Terminal()).print(shown, markup=False)


def markdown(table: Table) -> str:
    """The table in Markdown, its caption above."""
    lines = [list(table.heads), ["---"] + ["---:"] * (len(table.heads) - 1)]
    lines += [[_words(cell, " ").replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.rows]
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
