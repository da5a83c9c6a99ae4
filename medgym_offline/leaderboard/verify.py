"""Verification: a submission is believed after its policies have been run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.errors import SubmissionError
from medgym_offline.files import code_version
from medgym_offline.leaderboard.entry import build_entry
from medgym_offline.leaderboard.submission import Submission, read_submission
from medgym_offline.seeds import derive_seed

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.simulators import SimulatorBank

__all__ = ["FRESH_METRICS", "Row", "VerificationReport", "tolerance", "verify_submission"]

FRESH_METRICS = ("sofa_all", "sofa_96h", "safe_hourly", "return", "lactate_mean")
"""Metrics that must also hold on evaluation seeds nobody has seen."""

RELATIVE = 0.005
_ABSOLUTE = {"%": 0.5, "h": 0.25}
_FLOOR = 0.005
_FRESH_LEVEL = 1e-4  # chance that an honest entry fails the fresh seeds


@dataclass(frozen=True)
class Row:
    """One compared number.

    Attributes:
        check: "mean" (of all runs), "interval", "curve", "run N", or "fresh seeds run N".
        world, metric: Which number.
        claimed, found: As submitted, and as re-executed.
        tolerance: Largest accepted |claimed - found|.
    """

    check: str
    world: str
    metric: str
    claimed: float
    found: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the two agree (never for a number that is not finite)."""
        return bool(abs(self.claimed - self.found) <= self.tolerance)


@dataclass(frozen=True)
class VerificationReport:
    """Outcome of re-executing a submission.

    Attributes:
        id: Entry.
        rows: Every number compared.
        missing: Numbers that only one side has.
        result_hash: SHA-256 of what the re-execution gave.
        fresh_seeds: Whether the policies were also evaluated on fresh seeds.
    """

    id: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    result_hash: str
    fresh_seeds: bool

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
            "rows": rows,
        }


def tolerance(metric: str, value: float) -> float:
    """Largest accepted difference on the same seeds: 0.5 % of the value, plus what one hour on the edge of a threshold
    moves (0.5 points of a percentage, 0.25 h, 0.005 of anything else). It covers float32 sums on another CPU."""
    from medgym_offline.evaluation.metrics import METRICS

    unit = METRICS[metric].unit if metric in METRICS else ""
    return RELATIVE * abs(value) + _ABSOLUTE.get(unit, _FLOOR)


def verify_submission(
    folder: str | Path,
    bank: str | Path | SimulatorBank | None = None,
    fresh: bool = True,
    progress: bool = True,
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

    Raises:
        SubmissionError: the folder is refused (`read_submission`), or the entry is of another protocol, bank or dataset
            than this release has.
        MedGymError: a policy does not load or act.
    """
    submission = read_submission(folder)
    entry = submission.entry
    simulators = _bank(entry, bank)
    again = [_evaluate(submission, n, simulators, progress) for n in range(len(submission.policies))]
    _same_protocol(entry, again[0])
    rebuilt = build_entry(again, submission.policies, entry["name"])
    for name in ("scope", "timing", "decisions", "dataset", "seeds", "policies"):
        if rebuilt[name] != entry[name]:
            raise SubmissionError(
                f"{submission.folder}: {name} is {str(entry[name])[:80]} in the entry, "
                f"but the policies say {str(rebuilt[name])[:80]}"
            )
    pairs = [("mean", entry["metrics"], rebuilt["metrics"])]
    pairs += [(f"run {n + 1}", a, b) for n, (a, b) in enumerate(zip(entry["runs"], rebuilt["runs"]))]
    missing = (
        list(_missing(pairs)) if len(entry["runs"]) == len(rebuilt["runs"]) else ["runs: one per policy is needed"]
    )
    rows = [row for check, claimed, found in pairs for row in _rows(check, claimed, found)]
    rows += _interval_rows(entry["intervals"], rebuilt["intervals"])
    rows += _curve_rows(entry["curves"], rebuilt["curves"])
    if fresh:
        seed = _fresh_seed(entry)
        others = [_evaluate(submission, n, simulators, progress, seed) for n in range(len(again))]
        rows += _fresh_rows(again, others)
    text = json.dumps([rebuilt["metrics"], rebuilt["runs"]], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return VerificationReport(entry["id"], tuple(rows), tuple(missing), digest, fresh)


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
    if dataset is not None and evaluation.dataset.get("content_hash") != dataset["content_hash"]:
        raise SubmissionError(f"entry {entry['id']!r}: {dataset['id']} on this machine has other rows; regenerate it")
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


def _flat(values: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {(world, metric): number for world, metrics in values.items() for metric, number in metrics.items()}


def _missing(pairs: list[tuple[str, Any, Any]]) -> Iterator[str]:
    for check, claimed, found in pairs:
        a, b = _flat(claimed), _flat(found)
        yield from (
            f"{w} {m} ({check}): claimed, but the re-execution has no such number"
            for w, m in sorted(a.keys() - b.keys())
        )
        yield from (f"{w} {m} ({check}): missing in the entry" for w, m in sorted(b.keys() - a.keys()))


def _rows(check: str, claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    a, b = _flat(claimed), _flat(found)
    for world, metric in [key for key in b if key in a]:
        value = b[world, metric]
        yield Row(check, world, metric, a[world, metric], value, tolerance(metric.removesuffix("_iqm"), value))


def _interval_rows(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    for world, metrics in found.items():
        for metric, interval in metrics.items():
            stated = claimed.get(world, {}).get(metric, [float("nan")] * 2)
            for a, b in zip(stated, interval):
                yield Row("interval", world, metric, a, b, tolerance(metric, b))


def _curve_rows(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    """The curves an entry's page draws, point by point; a curve of other hours or length agrees nowhere."""
    for world, curves in found.items():
        stated = claimed.get(world, {})
        same = stated.get("hours") == curves["hours"] and all(
            len(stated[name]) == len(curves[name]) for name in ("sofa", "lactate")
        )
        for name, metric in (("sofa", "sofa_all"), ("lactate", "lactate_mean")):
            for n, b in enumerate(curves[name]):
                yield Row("curve", world, metric, stated[name][n] if same else float("nan"), b, tolerance(metric, b))


def _fresh_seed(entry: Mapping[str, Any]) -> int:
    """A seed that nobody knew before the policies were fixed, and everybody finds again."""
    policies = [p.get("sha256") or p["builtin"] for p in entry["policies"]]
    return derive_seed(entry["protocol"]["settings"]["seed"], "leaderboard-fresh", *policies) % 2**31


def _fresh_rows(first: Sequence[Evaluation], other: Sequence[Evaluation]) -> Iterator[Row]:
    """First evaluations against those on other seeds: the mean difference must be within the noise of the episodes.

    That noise is the spread over patients of the difference, pooled over the runs; the level is shared among all
    numbers compared, so that it holds for the entry as a whole.
    """
    from scipy.stats import t

    patients = len(first[0].per_patient["patient"])
    if patients < 2:
        return  # the noise of one patient cannot be told from its difference
    worlds = list(first[0].worlds)
    level = _FRESH_LEVEL / (len(first) * len(worlds) * len(FRESH_METRICS))
    factor = float(t.ppf(1 - level / 2, patients - 1))
    for world in worlds:
        for metric in FRESH_METRICS:
            a, b = (np.array([e.worlds[world].per_patient[metric] for e in side], float) for side in (first, other))
            error = float(np.sqrt((a - b).var(axis=1, ddof=1).mean() / patients))
            for n, (x, y) in enumerate(zip(a.mean(axis=1), b.mean(axis=1)), 1):
                allowed = tolerance(metric, float(y)) + factor * error
                yield Row(f"fresh seeds run {n}", world, metric, float(x), float(y), allowed)
