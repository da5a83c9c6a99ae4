"""What commands share: printing, tables, and options that appear in several of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from typer import Argument, Option

from medgym_offline.errors import MedGymError
from medgym_offline.patients import NEW_PEOPLE, PatientIndex

__all__ = [
    "Bank", "BankArgument", "Dataset", "Device", "Hours", "Json", "MaybeBank", "Patients", "Record", "Split", "View",
    "Worlds", "ask_patients", "parse_list", "parse_patients", "print_json", "print_table", "require_train_people",
    "say", "terminal_width",
]  # fmt: skip

_BANK = "Simulator bank: the name of a shipped one, or the path of a bank file"

Json = Annotated[bool, Option("--json", help="Print JSON for another program to read.")]
Bank = Annotated[str, Option(help=f"{_BANK}.")]
MaybeBank = Annotated[str | None, Option(help=f"{_BANK} (default: as policy or data say).")]
BankArgument = Annotated[str, Argument(metavar="BANK", help=f"{_BANK}.")]
Dataset = Annotated[str, Option(metavar="ID", help="Dataset id.")]
Patients = Annotated[str | None, Option(help="How many patients (the first N), or ids separated by commas.")]
Split = Annotated[str | None, Option(help="Only the bank's people of this side: train, or test (new people).")]
Record = Annotated[int, Option(min=1, help="Of clu and context: sessions that tell who a patient is.")]
Hours = Annotated[float | None, Option(help="Of each session only the first so many, for eval --takeover.")]
View = Annotated[str | None, Option(help="What policies see: full, noisy, charted (default: as trained).")]
Worlds = Annotated[str | None, Option(help="own, crossfit, true, separated by commas (default: all there are).")]
Device = Annotated[str, Option(help="Torch device of the training: cpu, or cuda.")]


def say(text: str = "") -> None:
    """A line for a person, on standard output."""
    print(text, flush=True)


def print_json(value: Any) -> None:
    """`value`, whose paths become text, as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True, allow_nan=False, default=os.fspath)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table for a person."""
    from rich.console import Console

    from medgym_offline.reports import blocks
    from medgym_offline.reports.blocks import Table

    blocks.print_table(Table(title, columns, list(rows)), Console(width=terminal_width()))


def terminal_width() -> int:
    """Columns of the terminal; 160 where output is piped, so that lines are not cut there."""
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


def require_train_people(scope: str, split: str | None, patients: str | None) -> None:
    """Refuse a scope of :data:`NEW_PEOPLE` unless all train people are learned from."""
    if scope in NEW_PEOPLE and (split != "train" or patients is not None):
        raise MedGymError(f"--scope {scope} is for new patients: it learns from all train people; add --split train")


def parse_patients(text: str | None, known: Sequence[str], whose: str) -> list[str] | None:
    """Patient ids from "N" (the first N of `known`) or "id,id"; None for all.

    Raises:
        UnknownNameError: more patients than there are, nobody, an unknown id, or one twice.
    """
    wanted = ask_patients(text)
    return None if wanted is None else [known[i] for i in PatientIndex(known, whose).resolve(wanted)]
