"""`leaderboard.json`: entries sorted by id, added under a lock, and sealed once they were verified.

Entries that may be compared are ranked: paired over patients, corrected for the number of comparisons.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from medgym_offline.config import configuration, read, to_values
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import SubmissionError
from medgym_offline.files import json_text, release_folder, write_text
from medgym_offline.leaderboard.entry import PAIRED, Entry, Verification, World
from medgym_offline.seeds import generator

__all__ = [
    "Board", "FORMAT", "Group", "LEVEL", "RULE", "Ranking", "add_entry", "compare", "default_board", "groups", "holm",
    "rank", "read_board", "sealed",
]  # fmt: skip

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


LEVEL = 0.05
_DRAWS = 10_000
_BLOCK = 2_000_000  # resampled counts held at once

RULE = (
    "Entries of a table were evaluated on the same patients and seeds, so two of them are compared patient by patient, "
    "each entry's score of a patient being the mean over its training seeds. Interval and two-sided p of the mean "
    "difference come from at least 10,000 bootstrap draws that resample patients jointly and the training runs of each "
    "entry independently (one run: patients only); p is never below 2^(1 - patients), which no exact paired test can "
    "be below. Holm's correction runs over all pairs of the table. An entry's rank is 1 + the number of entries that "
    "are better at the 5 % level; equal ranks mean that these numbers do not tell the entries apart."
)
"""The rule of :func:`rank` in words, as pages state it."""


@dataclass(frozen=True)
class Group:
    """What entries of one table have in common.

    Attributes:
        disease, data, timing, decisions: Of all its entries; `data` is a dataset id, or "bank NAME".
        how: Protocol, patients, episodes, seed and departures, in words.
        key: Digest of everything that must be alike.
    """

    disease: str
    data: str
    timing: str
    decisions: int
    how: str
    key: str


@dataclass(frozen=True)
class Pair:
    """Two entries, compared.

    Attributes:
        first, second: Their ids.
        difference: Mean over patients of first - second.
        interval: Its 95 % interval, not corrected for the number of pairs.
        p: Two-sided.
        adjusted: p after Holm's correction over all pairs of the group.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    p: float
    adjusted: float


@dataclass(frozen=True)
class Ranking:
    """Ranks of entries in one world.

    Attributes:
        entries: Those that have the world, by rank, then by mean.
        ranks: Id -> 1 + the number of entries that are better.
        pairs: Every two of the entries, in their order.
        apart: Ids of the better and the worse of every two that are told apart.
    """

    entries: tuple[Entry, ...]
    ranks: Mapping[str, int]
    pairs: tuple[Pair, ...]
    apart: tuple[tuple[str, str], ...]


def groups(entries: Sequence[Entry]) -> dict[Group, list[Entry]]:
    """Entries that may be compared: same disease, data, bank, timing, budget, protocol with its departures, patients.

    Groups that follow the protocol come first.
    """
    found: dict[Group, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[_group(entry)].append(entry)
    order = sorted(found, key=lambda group: ("departs" in group.how, *asdict(group).values()))
    return {group: found[group] for group in order}


def _group(entry: Entry) -> Group:
    protocol, settings = entry.protocol, entry.protocol.settings
    data = entry.dataset and asdict(entry.dataset)
    alike = [data, entry.bank.content_hash, protocol.hash, settings.to_dict(), entry.patients]
    alike += [entry.split] if entry.split else []
    count = f"{len(entry.patients)} patients" if "patients" in protocol.deviations else "all patients"
    count += {None: "", "train": " of the train split", "test": " of the test split, new to all policies"}[entry.split]
    how = f"{settings.name}: {count}, {settings.episodes} episodes each, seed {settings.seed}"
    how += f", view {settings.view}" * (settings.view != FULL)
    how += f" (departs from the protocol in {', '.join(protocol.departures)})" * bool(protocol.departures)
    key = hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()
    return Group(entry.disease, entry.data, entry.timing, entry.decisions, how, key)


def rank(entries: Sequence[Entry], world: World) -> Ranking:
    """Ranks of entries of one group by the rule :data:`RULE`; smaller is better.

    Args:
        entries: Of one group.
        world: Entries without it are left out.
    """
    (metric,) = PAIRED
    rows = sorted((e for e in entries if world in e.metrics), key=lambda e: (e.metrics[world][metric], e.id))
    scores = [np.array(e.per_patient[world][metric], dtype=float) for e in rows]
    pairs = tuple(
        Pair(rows[i].id, rows[j].id, *found)
        for (i, j), found in zip(itertools.combinations(range(len(rows)), 2), compare(scores))
    )
    clear = [pair for pair in pairs if pair.adjusted < LEVEL]
    apart = tuple((p.first, p.second) if p.difference < 0 else (p.second, p.first) for p in clear)
    ranks = {e.id: 1 + sum(worse == e.id for _, worse in apart) for e in rows}
    return Ranking(tuple(sorted(rows, key=lambda e: ranks[e.id])), ranks, pairs, apart)


def compare(scores: Sequence[NDArray[np.float64]]) -> list[tuple[float, tuple[float, float], float, float]]:
    """Every two of several methods, paired over patients by the rule :data:`RULE`.

    Args:
        scores: (runs, patients) of each method; runs may differ in number, patients not.

    Returns:
        Mean difference first - second, its 95 % interval, p, and p after Holm's correction, in the order of
        `itertools.combinations`.
    """
    couples = list(itertools.combinations(range(len(scores)), 2))
    if not couples:
        return []
    # Enough draws for Holm's first step, p times the number of pairs, to go down to 1 %.
    means = _resampled(scores, max(_DRAWS, 200 * len(couples)))
    least = 2.0 ** (1 - scores[0].shape[1])
    drawn = [_compared(means[:, i] - means[:, j], least) for i, j in couples]
    adjusted = holm([p for _, p in drawn])
    return [
        (float(scores[i].mean() - scores[j].mean()), interval, p, corrected)
        for (i, j), (interval, p), corrected in zip(couples, drawn, adjusted)
    ]


def _resampled(scores: Sequence[NDArray[np.float64]], draws: int) -> NDArray[np.float64]:
    """Resampled means (draws, entries) of scores (runs, patients) each.

    The same patients are drawn for all entries; runs are drawn whole, since a policy for all patients errs alike on
    them all.
    """
    rng = generator(0, "leaderboard-ranks")
    patients = scores[0].shape[1]
    blocks = []
    for start in range(0, draws, block := max(1, _BLOCK // patients)):
        size = min(block, draws - start)

        def share(n: int) -> NDArray[np.float64]:
            return rng.multinomial(n, np.full(n, 1 / n), size) / n  # noqa: B023 (called at once)

        drawn = share(patients)
        blocks.append(np.stack([((drawn @ s.T) * share(len(s))).sum(axis=1) for s in scores], axis=1))
    return np.concatenate(blocks)


def _compared(differences: NDArray[np.float64], least: float) -> tuple[tuple[float, float], float]:
    """Percentile interval and two-sided p of resampled differences."""
    low, high = np.quantile(differences, [0.025, 0.975])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return (float(low), float(high)), float(min(1.0, max(least, 2 * (1 + tail) / (1 + len(differences)))))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scand J Stat 6:65, 1979).

    >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(steps, 1.0)
    return [float(x) for x in found]
