"""Verification: a submission is believed after its policies have been run again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import code_version
from medgym_offline.leaderboard.comparison import (
    Row,
    curve_rows,
    fresh_rows,
    interval_rows,
    missing_numbers,
    rows_of,
    training_rows,
)
from medgym_offline.leaderboard.entry import build_entry
from medgym_offline.leaderboard.retrain import WITHIN_NOISE, train_again
from medgym_offline.leaderboard.submission import Submission, read_submission
from medgym_offline.seeds import derive_seed

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.simulators import SimulatorBank

__all__ = ["VerificationReport", "verify_submission"]


@dataclass(frozen=True)
class VerificationReport:
    """Outcome of re-executing a submission.

    Attributes:
        id: Entry.
        rows: Every number compared.
        missing: Numbers that only one side has.
        result_hash: SHA-256 of what the re-execution gave.
        fresh_seeds: Whether the policies were also evaluated on fresh seeds.
        retrained: If the policies were trained again: `SAME_BYTES` or `WITHIN_NOISE`; else empty.
    """

    id: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    result_hash: str
    fresh_seeds: bool
    retrained: str = ""

    @property
    def faults(self) -> list[str]:
        """One line per number that does not hold; empty if the submission is accepted."""
        lines = [
            f"{r.world} {r.metric} ({r.check}): claimed {r.claimed:.5g}, found {r.found:.5g}, "
            f"tolerance {r.tolerance:.2g}"
            for r in self.rows
            if not r.ok
        ]
        return [*self.missing, *lines]

    @property
    def accepted(self) -> bool:
        """Whether every number holds."""
        return not self.faults

    @property
    def record(self) -> dict[str, Any]:
        """What a board stores beside an accepted entry, once `sealed`; never of one that was refused."""
        if not self.accepted:
            raise SubmissionError(f"entry {self.id!r} was refused: {self.faults[0]}")
        same = [abs(r.claimed - r.found) / r.tolerance for r in self.rows if r.tolerance > 0]
        return {
            "accepted": True,
            "version": code_version(),
            "result_hash": self.result_hash,
            "largest_deviation": round(max(same, default=0.0), 4),
            "fresh_seeds": self.fresh_seeds,
            **({"retrained": self.retrained} if self.retrained else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [asdict(row) | {"ok": row.ok} for row in self.rows]
        return {
            "id": self.id,
            "accepted": self.accepted,
            "faults": self.faults,
            "result_hash": self.result_hash,
            "version": code_version(),
            "retrained": self.retrained or None,
            "rows": rows,
        }


def verify_submission(
    folder: str | Path,
    bank: str | Path | SimulatorBank | None = None,
    fresh: bool = True,
    progress: bool = True,
    retrain: bool = False,
) -> VerificationReport:
    """Re-execute the policies of a submission and compare every metric.

    Each run is evaluated as its entry says (same protocol, patients, seeds): runs, means and intervals must agree
    within :func:`tolerance`. With `fresh` it is evaluated again on an evaluation seed that follows from the policies'
    sha256, and the headline metrics must agree with the first within the noise of the episodes (t test over patients,
    level 1e-4 for the entry as a whole).

    Args:
        folder: A submission folder.
        bank: The bank, where it does not ship with the release; its content hash must be the entry's.
        fresh: Also evaluate on fresh seeds.
        progress: Show progress on standard error.
        retrain: Train the policies again from what they record, instead of using their files. Where that gives the
            same bytes, all is compared as above. Where it does not (another kind of CPU), every tolerance is wider by
            the noise of training (:func:`~medgym_offline.leaderboard.comparison.training_rows`).

    Raises:
        SubmissionError: the folder is refused (`read_submission`), the entry is of another protocol, bank or dataset
            than this release has, or its policies cannot be trained again (`train_again`).
        MedGymError: a policy does not load or act.
    """
    from medgym_offline.datasets import load_dataset
    from medgym_offline.datasets.trust import require_release_rows

    submission, retrained = read_submission(folder, fetch=not retrain), ""
    if (dataset := submission.entry["dataset"]) is not None:
        require_release_rows(load_dataset(dataset["id"], progress=progress))
    with tempfile.TemporaryDirectory(prefix="medgym-") as work:
        if retrain:
            submission, retrained = train_again(submission, Path(work), progress)
        return _verify(submission, bank, fresh, progress, retrained)


def _verify(
    submission: Submission, bank: str | Path | SimulatorBank | None, fresh: bool, progress: bool, retrained: str
) -> VerificationReport:
    entry = submission.entry
    simulators = _bank(entry, bank)
    again = [_evaluate(submission, n, simulators, progress) for n in range(len(submission.policies))]
    _same_protocol(entry, again[0])
    rebuilt = build_entry(again, submission.policies, entry["name"])
    other_bytes = retrained == WITHIN_NOISE
    for name in ("scope", "timing", "decisions", "dataset", "seeds", "policies"):
        if name == "policies" and other_bytes:
            continue
        if rebuilt[name] != entry[name]:
            raise SubmissionError(
                f"{submission.folder}: {name} is {str(entry[name])[:80]} in the entry, "
                f"but the policies say {str(rebuilt[name])[:80]}"
            )
    pairs = [("mean", entry["metrics"], rebuilt["metrics"])]
    pairs += [(f"run {n + 1}", a, b) for n, (a, b) in enumerate(zip(entry["runs"], rebuilt["runs"]))]
    missing = (
        list(missing_numbers(pairs))
        if len(entry["runs"]) == len(rebuilt["runs"])
        else ["runs: one per policy is needed"]
    )
    rows = [row for check, claimed, found in pairs for row in rows_of(check, claimed, found)]
    rows += interval_rows(entry["intervals"], rebuilt["intervals"])
    rows += curve_rows(entry["curves"], rebuilt["curves"])
    if other_bytes:
        rows = training_rows(rows, again)
    if fresh:
        seed = _fresh_seed(entry)
        others = [_evaluate(submission, n, simulators, progress, seed) for n in range(len(again))]
        rows += fresh_rows(again, others)
    text = json.dumps([rebuilt["metrics"], rebuilt["runs"]], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return VerificationReport(entry["id"], tuple(rows), tuple(missing), digest, fresh, retrained)


def _bank(entry: Mapping[str, Any], bank: str | Path | SimulatorBank | None) -> SimulatorBank:
    from medgym_offline.simulators import load_simulators

    wanted = entry["bank"]
    found = (
        load_simulators(wanted["name"] if bank is None else bank)
        if bank is None or isinstance(bank, str | Path)
        else bank
    )
    if found.content_hash != wanted["content_hash"]:
        raise SubmissionError(
            f"entry {entry['id']!r} was evaluated in bank {wanted['name']!r} {wanted['content_hash'][:12]}..., "
            f"this one is {found.content_hash[:12]}...; evaluate in the same bank, or name it with --bank"
        )
    return found


def _evaluate(
    submission: Submission, number: int, bank: SimulatorBank, progress: bool, seed: int | None = None
) -> Evaluation:
    from medgym_offline.evaluation import evaluate

    entry = submission.entry
    settings, dataset = entry["protocol"]["settings"], entry["dataset"]
    policy = submission.policies[number]
    evaluation = evaluate(
        policy if isinstance(policy, str) else str(policy),
        timing=entry["timing"],
        decisions=entry["decisions"],
        patients=entry["protocol"]["patients"],
        episodes=settings["episodes"],
        seed=settings["seed"] if seed is None else seed,
        bank=bank,
        worlds=settings["worlds"],
        dataset=None if dataset is None else dataset["id"],
        progress=progress,
        name=policy if isinstance(policy, str) else _stem(submission, number),
        workers=None,
    )
    if dataset is not None and evaluation.dataset.get("identity") != dataset["identity"]:
        raise SubmissionError(
            f"entry {entry['id']!r}: {dataset['id']} on this machine was made by other means than the entry's "
            f"(identity {str(evaluation.dataset.get('identity'))[:12]}, entry {str(dataset['identity'])[:12]}); "
            "generate it with the release that the entry names"
        )
    return evaluation


def _stem(submission: Submission, number: int) -> str:
    """The policy's name as the entry's file has it, without what `build_entry` appends."""
    return Path(submission.entry["policies"][number]["file"]).stem.rsplit("-", 2)[0]


def _same_protocol(entry: Mapping[str, Any], evaluation: Evaluation) -> None:
    if entry["protocol"]["hash"] != evaluation.protocol_hash:
        raise SubmissionError(
            f"entry {entry['id']!r} was made under protocol {entry['protocol']['hash'][:12]}..., this release has "
            f"{evaluation.protocol['name']} {evaluation.protocol_hash[:12]}...; evaluate again with this release"
        )
    used = evaluation.protocol
    for name, value in entry["protocol"]["settings"].items():
        if used.get(name) != value:
            raise SubmissionError(
                f"entry {entry['id']!r}: protocol setting {name} is {value!r}, this release runs {used.get(name)!r}"
            )
    if entry["protocol"]["deviations"] != evaluation.deviations:
        raise SubmissionError(
            f"entry {entry['id']!r}: its list of deviations from the protocol is not what it ran with"
        )


def _fresh_seed(entry: Mapping[str, Any]) -> int:
    """A seed that nobody knew before the policies were fixed, and everybody finds again."""
    policies = [p.get("sha256") or p["builtin"] for p in entry["policies"]]
    return derive_seed(entry["protocol"]["settings"]["seed"], "leaderboard-fresh", *policies) % 2**31
