"""Verification: a submission is believed after its policies have been run again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.config import to_values
from medgym_offline.errors import SubmissionError
from medgym_offline.files import code_version, json_difference
from medgym_offline.leaderboard.building import build_entry
from medgym_offline.leaderboard.comparison import Row, fresh_rows, rows_of, training_rows
from medgym_offline.leaderboard.entry import Entry, PolicyFile, Verification, learned_from
from medgym_offline.leaderboard.retrain import WITHIN_NOISE, train_again
from medgym_offline.leaderboard.submission import Submission, read_submission
from medgym_offline.patients import people_hash
from medgym_offline.seeds import derive_seed

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.simulators import SimulatorBank

__all__ = ["Reexecution", "verify_submission"]


@dataclass(frozen=True)
class Reexecution:
    """Outcome of re-executing a submission.

    Attributes:
        id: Entry.
        rows: Every number compared.
        result_hash: SHA-256 of what the re-execution gave.
        fresh_seeds: Whether the policies were also evaluated on fresh seeds.
        retrained: If the policies were trained again: `SAME_BYTES` or `WITHIN_NOISE`.
    """

    id: str
    rows: tuple[Row, ...]
    result_hash: str
    fresh_seeds: bool
    retrained: str | None = None

    @property
    def faults(self) -> list[str]:
        """One line per number that does not hold; empty if the submission is accepted."""
        told = "{0.world} {0.metric} ({0.check}): claimed {0.claimed:.5g}, found {0.found:.5g} +- {0.tolerance:.2g}"
        return [told.format(row) for row in self.rows if not row.ok]

    @property
    def accepted(self) -> bool:
        """Whether every number holds."""
        return not self.faults

    @property
    def record(self) -> Verification:
        """What a board stores beside an accepted entry, once `sealed`; never of one that was refused."""
        if not self.accepted:
            raise SubmissionError(f"entry {self.id!r} was refused: {self.faults[0]}")
        shares = [abs(r.claimed - r.found) / r.tolerance for r in self.rows if r.tolerance > 0]
        largest = round(max(shares, default=0.0), 4)
        return Verification(code_version(), self.result_hash, largest, self.fresh_seeds, self.retrained, "")  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [asdict(row) | {"ok": row.ok} for row in self.rows]
        known = {name: getattr(self, name) for name in ("id", "accepted", "faults", "result_hash", "retrained")}
        return {**known, "version": code_version(), "rows": rows}


def verify_submission(
    folder: str | Path,
    bank: str | Path | SimulatorBank | None = None,
    fresh: bool = True,
    progress: bool = True,
    retrain: bool = False,
) -> Reexecution:
    """Re-execute the policies of a submission and compare every number.

    Each run is evaluated as its entry says (same protocol, patients, seeds): runs, means, intervals and values per
    patient must agree within :func:`~medgym_offline.leaderboard.comparison.tolerance`. With `fresh` it is evaluated
    again on an evaluation seed that follows from the policies' sha256, and the headline metrics must agree with the
    first within the noise of the episodes (t test over patients, level 1e-4 for the entry as a whole).

    Args:
        folder: A submission folder.
        bank: The bank, where it does not ship with the release; its content hash must be the entry's.
        fresh: Also evaluate on fresh seeds.
        progress: Show progress on standard error.
        retrain: Train the policies again from what they record, instead of using their files. Where that gives the
            same bytes, all is compared as above. Where it does not (another kind of CPU), every tolerance is wider by
            the noise of training (:func:`~medgym_offline.leaderboard.comparison.training_rows`).

    Raises:
        SubmissionError: the folder is refused (`read_submission`), the entry is of another disease, protocol, bank or
            dataset than this release has, or its policies cannot be trained again (`train_again`).
        MedGymError: a policy does not load or act.
    """
    from medgym_offline.datasets import load_dataset
    from medgym_offline.datasets.trust import require_release_rows

    submission, retrained = read_submission(folder, complete=not retrain), None
    simulators = _bank(submission.entry, bank)
    _require_new_people(submission.entry, simulators)
    if (dataset := submission.entry.dataset) is not None:
        require_release_rows(load_dataset(dataset.id, progress=progress))
    with tempfile.TemporaryDirectory(prefix="medgym-") as work:
        if retrain:
            submission, retrained = train_again(submission, Path(work), progress)
        entry, runs = submission.entry, range(len(submission.policies))
        again = [_evaluate(submission, n, simulators, progress, entry.protocol.settings.seed) for n in runs]
        rebuilt = build_entry(again, submission.policies, entry.name)
        _require_history(submission.folder, entry, rebuilt, retrained)
        rows = list(rows_of(entry, rebuilt))
        if retrained == WITHIN_NOISE:
            rows = training_rows(rows, again)
        if fresh:
            others = [_evaluate(submission, n, simulators, progress, fresh_seed(entry)) for n in runs]
            rows += fresh_rows(again, others, entry.disease)
    text = json.dumps([rebuilt.metrics, rebuilt.runs], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Reexecution(entry.id, tuple(rows), digest, fresh, retrained)


def _bank(entry: Entry, bank: str | Path | SimulatorBank | None) -> SimulatorBank:
    from medgym_offline.simulators import load_simulators

    named = entry.bank.name if bank is None else bank
    found = load_simulators(named) if isinstance(named, str | Path) else named
    wanted, here = (entry.disease, entry.bank.content_hash), (found.disease.name, found.content_hash)
    if wanted != here:
        stated = f"{wanted[0]} in bank {entry.bank.name!r} {wanted[1][:12]}..."
        this = f"this bank is of {here[0]}, {here[1][:12]}...; name the entry's own bank with --bank"
        raise SubmissionError(f"entry {entry.id!r} is of {stated}, {this}, or evaluate in this one")
    return found


def _require_new_people(entry: Entry, bank: SimulatorBank) -> None:
    """The policies of an entry on new people learned from all train people of the bank; `SubmissionError` if not."""
    if entry.split != "test" or entry.scope == "baseline":
        return
    people = bank.people("train")
    for policy in entry.policies:
        if learned_from(policy).get("sha256") != people_hash(people):
            others = f"other people than the {len(people)} of the train split of bank {bank.name!r}"
            raise SubmissionError(f"{policy.identity[:12]} learned from {others}; train it with --split train")


def _evaluate(submission: Submission, number: int, bank: SimulatorBank, progress: bool, seed: int) -> Evaluation:
    from medgym_offline.evaluation import evaluate

    entry, policy, described = submission.entry, submission.policies[number], submission.entry.policies[number]
    settings = entry.protocol.settings
    return evaluate(
        str(policy),
        timing=entry.timing,
        view=entry.view,
        decisions=entry.decisions,
        patients=list(entry.patients) if "patients" in entry.protocol.deviations else None,
        episodes=settings.episodes,
        seed=seed,
        bank=bank,
        split=entry.split,
        worlds=settings.worlds,
        dataset=entry.dataset.id if entry.dataset else None,
        progress=progress,
        # The policy's name as the entry's file has it, without what `build_entry` appends.
        name=Path(described.file).stem.rsplit("-", 2)[0] if isinstance(described, PolicyFile) else described.builtin,
        workers=None,
    )


def _require_history(folder: Path, entry: Entry, rebuilt: Entry, retrained: str | None) -> None:
    """What an entry says of its making is what this release runs and what its policies say."""
    names = ["disease", "dataset", "protocol", "scope", "timing", "decisions", "patients", "seeds", "policies"]
    for name in names[:-1] if retrained == WITHIN_NOISE else names:
        stated, found = getattr(entry, name), getattr(rebuilt, name)
        if stated != found:
            here, there = ({name: to_values(v) if is_dataclass(v) else v} for v in (found, stated))
            lines = json_difference(here, there)
            raise SubmissionError(f"{folder}: run again, it differs in {lines[0][:200]}; evaluate and submit it again")


def fresh_seed(entry: Entry) -> int:
    """An evaluation seed that nobody knew before the policies were fixed, and everybody finds again."""
    policies = [policy.identity for policy in entry.policies]
    return derive_seed(entry.protocol.settings.seed, "leaderboard-fresh", *policies) % 2**31
