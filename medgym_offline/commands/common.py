"""What commands share: printing, tables, and options that appear in several of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from medgym_offline.commands import completion
from medgym_offline.patients import PatientIndex

__all__ = [
    "Address",
    "Bank",
    "BankArgument",
    "Device",
    "Engine",
    "Json",
    "MaybeBank",
    "Patients",
    "Resume",
    "Split",
    "Timing",
    "View",
    "Workers",
    "Worlds",
    "ask_patients",
    "parse_list",
    "parse_patients",
    "print_json",
    "print_table",
    "say",
    "terminal_width",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for another program to read.")]

_BANK = "Simulator bank: the name of a shipped one, or the path of a bank file"
Bank = Annotated[str, typer.Option("--bank", help=f"{_BANK}.", autocompletion=completion.banks)]
MaybeBank = Annotated[
    str | None, typer.Option("--bank", help=f"{_BANK} (default: the one recorded).", autocompletion=completion.banks)
]
BankArgument = Annotated[str, typer.Argument(metavar="BANK", help=f"{_BANK}.", autocompletion=completion.banks)]
Patients = Annotated[
    str | None, typer.Option("--patients", help="How many patients (the first N), or ids separated by commas.")
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Of the bank's people only those of this side: train, or test (new people).",
        autocompletion=completion.one_of("train", "test"),
    ),
]
Timing = Annotated[
    str | None,
    typer.Option(
        "--timing",
        help="adaptive or fixed (default: the policy's).",
        autocompletion=completion.one_of("adaptive", "fixed"),
    ),
]
View = Annotated[
    str | None,
    typer.Option(
        "--view",
        help="What policies see: full, noisy, charted (default: as trained; of a training full).",
        autocompletion=completion.one_of("full", "noisy", "charted"),
    ),
]
Worlds = Annotated[
    str | None,
    typer.Option(
        "--worlds",
        help="own, crossfit, true; several separated by commas (default: all the bank has).",
        autocompletion=completion.several_of("own", "crossfit", "true"),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="Torch device of the training: cpu, or cuda.", autocompletion=completion.one_of("cpu", "cuda")
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local (this process), process (all local cores) or ray.",
        autocompletion=completion.one_of("local", "process", "ray"),
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Jobs at a time (default: every core).")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster, HOST:PORT (default: one started here).")]
Resume = Annotated[
    bool, typer.Option("--resume/--fresh", help="Go on from what --output holds, or forget it and start again.")
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
    Console(width=terminal_width()).print(table, markup=False)


def terminal_width() -> int:
    """Columns of the terminal; 160 where output is piped, so that lines are not cut there."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 160


def parse_list(text: str) -> list[str]:
    """The non-empty parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def ask_patients(text: str | None) -> int | list[str] | None:
    """What `--patients` asks for, where the library looks the ids up: a number, ids, or None for all."""
    if text is None or text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        return parse_list(text)


def parse_patients(text: str | None, known: Sequence[str], whose: str) -> list[str] | None:
    """Patient ids from "N" (the first N of `known`) or "id,id"; None for all.

    Raises:
        UnknownNameError: more patients than there are, nobody, an unknown id, or one twice.
    """
    wanted = ask_patients(text)
    return None if wanted is None else [known[i] for i in PatientIndex(known, whose).resolve(wanted)]
