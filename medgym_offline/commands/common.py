"""What commands share: printing, tables, and options that appear in several of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from medgym_offline.errors import MedGymError

__all__ = ["Bank", "Json", "Patients", "parse_list", "parse_patients", "print_json", "print_table", "say"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for another program to read.")]
Bank = Annotated[str, typer.Option("--bank", help="Simulator bank: a name, or the path of a bank file.")]
Patients = Annotated[
    str | None, typer.Option("--patients", help="How many patients (the first N), or ids separated by commas.")
]


def say(text: str = "") -> None:
    """A line for a person, on standard output."""
    print(text, flush=True)


def print_json(value: Any) -> None:
    """`value` as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True, allow_nan=False)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table for a person; columns whose cells look like numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for n, column in enumerate(columns):
        numeric = bool(cells) and all(row[n][:1] in "0123456789-+." for row in cells if row[n])
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    # Piped into a file, lines are not cut at 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)


def parse_list(text: str) -> list[str]:
    """The non-empty parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_patients(text: str | None, known: Sequence[str]) -> list[str] | None:
    """Patient ids from "N" (the first N of `known`) or "id,id"; None for all.

    Raises:
        MedGymError: more patients than there are, fewer than one, or an unknown id.
    """
    if text is None or text == "all":
        return None
    if text.lstrip("+-").isdigit():
        count = int(text)
        if not 1 <= count <= len(known):
            raise MedGymError(f"--patients {count}: there are {len(known)} patients; choose 1 to {len(known)}, or ids")
        return list(known[:count])
    ids = parse_list(text)
    if not ids:
        raise MedGymError("--patients names nobody; give a number or ids separated by commas")
    from medgym_offline.errors import unknown_name

    for name in ids:
        if name not in known:
            raise unknown_name("patient", name, known)
    return list(dict.fromkeys(ids))
