"""Verification: a submission is believed after its policies have been run again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import code_version
from medgym_offline.leaderboard.comparison import Row, fresh_rows, missing_numbers, rows_of, training_rows
from medgym_offline.leaderboard.entry import Entry, Verification
from medgym_offline.leaderboard.retrain import WITHIN_NOISE, train_again
from medgym_offline.leaderboard.submission import Submission, read_submission
from medgym_offline.leaderboard.building import build_entry
from medgym_offline.seeds import derive_seed

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.simulators import SimulatorBank

__all__ = ["Reexecution", "fresh_seed", "verify_submission"]


@dataclass(frozen=True)
class Reexecution:
    """Outcome of re-executing a submission.

    Attributes:
        id: Entry.
        rows: Every number compared.
        missing: Numbers that only one side has.
        result_hash: SHA-256 of what the re-execution gave.
        fresh_seeds: Whether the policies were also evaluated on fresh seeds.
        retrained: If the policies were trained again: `SAME_BYTES` or `WITHIN_NOISE`.
    """

    id: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    result_hash: str
    fresh_seeds: bool
    retrained: str | None = None

    @property
    def faults(self) -> list[str]:
        """One line per number that does not hold; empty if the submission is accepted."""
        lines = [
            f"{r.world} {r.metric} ({r.check}): claimed {r.claimed:.5g}, found {r.found:.5g}, tolerance {r.tolerance:.2g}"
            for r in self.rows
            if not r.ok
        ]
        return [*self.missing, *lines]

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

    Each run is evaluated as its entry says (same protocol, patients, seeds): runs, means, intervals, curves and values
    per patient must agree within :func:`~medgym_offline.leaderboard.comparison.tolerance`. With `fresh` it is evaluated
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

    submission, retrained = read_submission(folder, fetch=not retrain), None
    simulators = _bank(submission.entry, bank)
    if (dataset := submission.entry.dataset) is not None:
        require_release_rows(load_dataset(dataset.id, progress=progress))
    with tempfile.TemporaryDirectory(prefix="medgym-") as work:
        if retrain:
            submission, retrained = train_again(submission, Path(work), progress)
        entry, runs = submission.entry, range(len(submission.policies))
        again = [_evaluate(submission, n, simulators, progress) for n in runs]
        _require_protocol(entry, again[0])
        rebuilt = build_entry(again, submission.policies, entry.name)
        _require_history(submission, rebuilt, retrained)
        rows = list(rows_of(entry, rebuilt))
        if retrained == WITHIN_NOISE:
            rows = training_rows(rows, again, entry.disease)
        if fresh:
            others = [_evaluate(submission, n, simulators, progress, fresh_seed(entry)) for n in runs]
            rows += fresh_rows(again, others, entry.disease)
    text = json.dumps([rebuilt.metrics, rebuilt.runs], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Reexecution(entry.id, tuple(rows), tuple(missing_numbers(entry, rebuilt)), digest, fresh, retrained)


def _bank(entry: Entry, bank: str | Path | SimulatorBank | None) -> SimulatorBank:
    from medgym_offline.simulators import load_simulators

    wanted = entry.bank
    named = wanted.name if bank is None else bank
    found = load_simulators(named) if isinstance(named, str | Path) else named
    if found.disease.name != entry.disease:
        raise SubmissionError(
            f"entry {entry.id!r} is of {entry.disease}, bank {found.name!r} of {found.disease.name}; name the entry's "
            "own bank with --bank"
        )
    if found.content_hash != wanted.content_hash:
        raise SubmissionError(
            f"entry {entry.id!r} was evaluated in bank {wanted.name!r} {wanted.content_hash[:12]}..., "
            f"this one is {found.content_hash[:12]}...; evaluate in the same bank, or name it with --bank"
        )
    return found


def _evaluate(
    submission: Submission, number: int, bank: SimulatorBank, progress: bool, seed: int | None = None
) -> Evaluation:
    from medgym_offline.evaluation import evaluate

    entry, policy = submission.entry, submission.policies[number]
    settings, dataset = entry.protocol.settings, entry.dataset
    # The policy's name as the entry's file has it, without what `build_entry` appends.
    name = policy if isinstance(policy, str) else Path(entry.policies[number].file).stem.rsplit("-", 2)[0]  # type: ignore[union-attr]
    evaluation = evaluate(
        str(policy),
        timing=entry.timing,
        decisions=entry.decisions,
        patients=list(entry.patients) if "patients" in entry.protocol.deviations else None,
        episodes=settings.episodes,
        seed=settings.seed if seed is None else seed,
        bank=bank,
        worlds=settings.worlds,
        dataset=None if dataset is None else dataset.id,
        progress=progress,
        name=name,
        workers=None,
    )
    if dataset is not None and evaluation.dataset.get("identity") != dataset.identity:
        raise SubmissionError(
            f"entry {entry.id!r}: {dataset.id} on this machine was made by other means than the entry's "
            f"(identity {str(evaluation.dataset.get('identity'))[:12]}, entry {str(dataset.identity)[:12]}); "
            "generate it with the release that the entry names"
        )
    return evaluation


def _require_protocol(entry: Entry, evaluation: Evaluation) -> None:
    used, protocol = evaluation.protocol, entry.protocol
    if protocol.hash != evaluation.protocol_hash:
        raise SubmissionError(
            f"entry {entry.id!r} was made under protocol {protocol.hash[:12]}..., this release has "
            f"{used['name']} {evaluation.protocol_hash[:12]}...; evaluate again with this release"
        )
    for name, value in protocol.settings.to_dict().items():
        if used.get(name) != value:
            raise SubmissionError(
                f"entry {entry.id!r}: protocol setting {name} is {value!r}, this release runs {used.get(name)!r}"
            )
    if protocol.deviations != evaluation.deviations:
        raise SubmissionError(f"entry {entry.id!r}: its list of deviations from the protocol is not what it ran with")


def _require_history(submission: Submission, rebuilt: Entry, retrained: str | None) -> None:
    """What an entry says of itself is what its policies say."""
    names = ["disease", "scope", "timing", "decisions", "dataset", "patients", "seeds", "policies"]
    for name in names[:-1] if retrained == WITHIN_NOISE else names:
        stated, found = getattr(submission.entry, name), getattr(rebuilt, name)
        if stated != found:
            raise SubmissionError(
                f"{submission.folder}: {name} is {str(stated)[:80]} in the entry, but the policies say {str(found)[:80]}"
            )


def fresh_seed(entry: Entry) -> int:
    """An evaluation seed that nobody knew before the policies were fixed, and everybody finds again."""
    policies = [policy.identity for policy in entry.policies]
    return derive_seed(entry.protocol.settings.seed, "leaderboard-fresh", *policies) % 2**31
