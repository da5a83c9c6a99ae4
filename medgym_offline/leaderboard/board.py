"""`leaderboard.json`: sorted, diffable, appended to under a lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import json_text, release_folder, write_text
from medgym_offline.leaderboard.schema import require_valid
from medgym_offline.leaderboard.seal import seal_holds

__all__ = ["FORMAT", "add_entry", "default_board", "read_board"]

FORMAT = "medgym-leaderboard/1"


def default_board() -> Path:
    """The `leaderboard/leaderboard.json` of a checkout; an installed package shows its copy and cannot add to it."""
    return release_folder("leaderboard") / "leaderboard.json"


def read_board(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Entries of the leaderboard at `path` (the release's if None); an absent file is an empty board.

    Raises:
        SubmissionError: if the file is not a leaderboard, or one of its entries does not fit the schema or was changed
            after its verification.
    """
    source = Path(path) if path is not None else default_board()
    if not source.exists():
        return []
    try:
        content = json.loads(source.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SubmissionError(
            f"{source} is not JSON ({error}); restore it from git or name another with --file"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("entries"), list):
        raise SubmissionError(f"{source} is not a leaderboard (format {FORMAT}); name another with --file")
    entries = [require_valid(entry, f"{source}, entry {n + 1}") for n, entry in enumerate(content["entries"])]
    for entry in entries:
        if not seal_holds(entry):
            raise SubmissionError(
                f"{source}: entry {entry['id']!r} was changed after it was verified (its seal does not fit); "
                "restore the file from git"
            )
    return entries


def add_entry(entry: Mapping[str, Any], path: str | Path | None = None) -> bool:
    """Add a validated entry to the board at `path`; True if the file changed, False if the entry was there already.

    Entries stay sorted by id and the file is replaced whole, under a lock, so that two adds at once lose nothing.

    Raises:
        SubmissionError: if the id is taken by a different entry, or the same policy files are there under another name.
    """
    target = Path(path) if path is not None else default_board()
    if path is None and "_release" in target.parts:
        raise SubmissionError(
            "an installed package's leaderboard is read-only; name yours with --file, or use a checkout"
        )
    new = require_valid(entry, f"entry {entry.get('id', '')!r}")
    if not seal_holds(new):
        raise SubmissionError(f"entry {new['id']!r} was changed after it was verified; verify it again")
    with _locked(target):
        entries = read_board(target)
        for known in entries:
            if known["id"] == new["id"]:
                if _claim(known) != _claim(new):
                    raise SubmissionError(
                        f"{target} already has a different entry {new['id']!r}; "
                        "choose another --name, or remove the old one first"
                    )
                if known == new or new["verification"] is None:
                    return False
                entries.remove(known)  # the same claim, now with its verification
                break
            if _evidence(known) == _evidence(new):
                raise SubmissionError(
                    f"{target} already has these policies, under the same protocol, as {known['id']!r}"
                )
        entries.append(new)
        entries.sort(key=lambda e: e["id"])
        write_text(target, json_text({"format": FORMAT, "entries": entries}))
    return True


def _claim(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry claims: everything but who has checked it."""
    return {key: value for key, value in entry.items() if key != "verification"}


def _evidence(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies the policies and how they were judged, whoever submits them."""
    policies = sorted(p.get("sha256") or f"built-in {p['builtin']}" for p in entry["policies"])
    return (entry["protocol"]["hash"], entry["timing"], entry["decisions"], *policies)


@contextmanager
def _locked(target: Path, timeout: float = 60.0) -> Iterator[None]:
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, since the board itself is replaced; hidden, and free again when its process dies.
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=timeout)
    try:
        with lock:
            yield
    except Timeout:
        raise SubmissionError(f"{target} has been locked by another process for {timeout:.0f} s; try again") from None
