"""`leaderboard.json`: entries sorted by id, added under a lock, and sealed once they were verified."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from medgym_offline.config import configuration, read, to_values
from medgym_offline.errors import SubmissionError
from medgym_offline.files import json_text, release_folder, write_text
from medgym_offline.leaderboard.entry import Entry, Verification

__all__ = ["FORMAT", "Board", "add_entry", "default_board", "read_board", "sealed"]

FORMAT: Final = "medgym-leaderboard/2"
_WAIT = 60.0  # seconds for another process to finish its adding


@configuration("board", SubmissionError)
class Board:
    """Content of a `leaderboard.json`."""

    format: Literal["medgym-leaderboard/2"]
    entries: tuple[Entry, ...]


def default_board() -> Path:
    """The `leaderboard/leaderboard.json` of a checkout; an installed package shows its copy and cannot add to it."""
    return release_folder("leaderboard") / "leaderboard.json"


def read_board(path: str | Path | None = None) -> list[Entry]:
    """Entries of the leaderboard at `path` (the release's if None); an absent file is an empty board.

    Raises:
        SubmissionError: the file is no leaderboard, or an entry does not fit or was changed after its verification.
    """
    source = Path(path) if path is not None else default_board()
    if not source.exists():
        return []
    entries = list(read(Board, source).entries)
    for entry in entries:
        if not _seal_holds(entry):
            edited = "was changed after it was verified (its seal does not fit); restore the file from git"
            raise SubmissionError(f"{source}: entry {entry.id!r} {edited}")
    return entries


def add_entry(entry: Entry, path: str | Path | None = None) -> bool:
    """Add an entry to the board at `path`; True if the file changed, False if the entry was there already.

    Entries stay sorted by id and the file is replaced whole, under a lock, so that two adds at once lose nothing.

    Raises:
        SubmissionError: the id is taken by a different entry, or the same policies are there under another name.
    """
    from filelock import FileLock, Timeout

    target = Path(path) if path is not None else default_board()
    if path is None and "_release" in target.parts:
        raise SubmissionError("an installed package's leaderboard is read-only; name yours with --file")
    if not _seal_holds(entry):
        raise SubmissionError(f"entry {entry.id!r} was changed after it was verified; verify it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A sibling, since the board itself is replaced; hidden, and free again when its process dies.
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=_WAIT):
            entries = read_board(target)
            known = next((e for e in entries if e.id == entry.id), None)
            if known is not None and replace(known, verification=None) != replace(entry, verification=None):
                remedy = "choose another --name, or remove the old one first"
                raise SubmissionError(f"{target} already has a different entry {entry.id!r}; {remedy}")
            if known is not None and (known == entry or entry.verification is None):
                return False
            others = [e for e in entries if e.id != entry.id]
            if twin := next((e for e in others if _evidence(e) == _evidence(entry)), None):
                raise SubmissionError(f"{target} already has these policies, judged alike, as {twin.id!r}")
            board = Board(FORMAT, tuple(sorted([*others, entry], key=lambda e: e.id)))
            write_text(target, json_text(to_values(board)))
    except Timeout:
        raise SubmissionError(f"{target} has been locked by another process for {_WAIT:.0f} s; try again") from None
    return True


def _evidence(entry: Entry) -> tuple[object, ...]:
    """What identifies the policies and how they were judged, whoever submits them."""
    policies = sorted(policy.identity for policy in entry.policies)
    data = entry.data if entry.scope == "baseline" else ""  # everybody has the built-in ones
    return (entry.protocol.hash, entry.timing, entry.decisions, entry.view, data, *policies)


def sealed(entry: Entry, record: Verification) -> Entry:
    """`entry` with the verification `record` and its seal.

    The seal is a plain SHA-256 that anybody can compute: it shows that a number was changed by accident or in a merge.
    """
    return replace(entry, verification=replace(record, seal=_seal(entry, record)))


def _seal_holds(entry: Entry) -> bool:
    return entry.verification is None or entry.verification.seal == _seal(entry, entry.verification)


def _seal(entry: Entry, record: Verification) -> str:
    signed = to_values(replace(entry, verification=replace(record, seal="")))
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
