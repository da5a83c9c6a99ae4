"""Verification: a submission is believed after its policies have been run again.

Its numbers are compared with those of the re-execution, each with the difference that is accepted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medgym_offline.config import to_values
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation import Evaluation, metrics_of
from medgym_offline.files import code_version, json_difference
from medgym_offline.leaderboard.building import Submission, build_entry, read_submission
from medgym_offline.leaderboard.entry import HEADLINE, Entry, PolicyFile, Verification, learned_from
from medgym_offline.leaderboard.retrain import WITHIN_NOISE, train_again
from medgym_offline.patients import people_hash
from medgym_offline.seeds import derive_seed

if TYPE_CHECKING:
    from medgym_offline.simulators import SimulatorBank

__all__ = [
    "Reexecution", "Row", "fresh_metrics", "fresh_rows", "rows_of", "tolerance", "training_rows", "verify_submission",
]  # fmt: skip

RELATIVE = 0.0005
_ABSOLUTE = {"%": 0.05, "h": 0.02}
_FLOOR = 0.0005
_PARTS = {"_iqm": 0.5, "_worst_decile": 0.1}  # share of the patients that a run's statistic rests on
_LEVEL = 1e-4  # chance that an honest entry fails a comparison that allows for noise


@dataclass(frozen=True)
class Row:
    """One compared number.

    Attributes:
        check: "mean" (of all runs), "interval", "run N", "patients of run N" (root mean square over patients of claimed
            less found) or "fresh seeds run N"; after "trained again, " with the room of :func:`training_rows`.
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


def tolerance(value: float, unit: str = "") -> float:
    """Largest accepted difference on the same seeds: 0.05 % of the value, plus 0.05 points of a percentage, 0.02 h, or
    0.0005 of anything else.

    Measured between instruction sets (`docs/reproduce.md`): at most a quarter of it. What moves most is a count, such
    as the share of decisions outside the support, when one number crosses a threshold.
    """
    return RELATIVE * abs(value) + _ABSOLUTE.get(unit, _FLOOR)


def fresh_metrics(disease: str) -> tuple[str, ...]:
    """Metrics that must also hold on evaluation seeds nobody has seen: the headline's and the disease's first own."""
    return (*HEADLINE, *(metric.name for metric in find_disease(disease).metrics[:1]))


def _units(disease: str) -> dict[str, str]:
    return {name: metric.unit for name, metric in metrics_of(find_disease(disease)).items()}


def _numbers(entry: Entry) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """Means, those of every run, and ends of intervals, by check, world and metric."""
    means = {"mean": entry.metrics} | {f"run {n}": run for n, run in enumerate(entry.runs, 1)}
    found = {(c, w, m): (v,) for c, worlds in means.items() for w, column in worlds.items() for m, v in column.items()}
    return found | {("interval", w, m): ends for w, column in entry.intervals.items() for m, ends in column.items()}


def rows_of(claimed: Entry, found: Entry) -> Iterator[Row]:
    """Every number of an entry against its re-execution's; one that only one of them has is not finite in the other."""
    units, ours, theirs, unknown = _units(claimed.disease), _numbers(claimed), _numbers(found), (float("nan"),) * 2
    for key in {**theirs, **ours}:
        unit = units.get(key[2].removesuffix("_iqm"), "")
        for a, b in zip(ours.get(key, unknown), theirs.get(key, unknown)):
            yield Row(*key, a, b, tolerance(b, unit))
    for world, columns in found.per_patient.items():
        for metric in columns:
            both = (np.array(side.per_patient[world][metric]) for side in (claimed, found))
            for number, (a, b) in enumerate(zip(*both), 1):
                # A mean over P patients moves by a part in sqrt(P) of what each of them moves by.
                room = len(b) ** 0.5 * tolerance(float(b.mean()), units[metric])
                apart = float(np.sqrt(((a - b) ** 2).mean()))
                yield Row(f"patients of run {number}", world, metric, apart, 0.0, room)


def fresh_rows(first: Sequence[Evaluation], other: Sequence[Evaluation], disease: str) -> Iterator[Row]:
    """First evaluations against those on other seeds: the mean difference must be within the noise of the episodes.

    That noise is the spread over patients of the difference, pooled over the runs; the level is shared among all
    numbers compared, so that it holds for the entry as a whole.
    """
    patients, metrics, units = len(first[0].per_patient["patient"]), fresh_metrics(disease), _units(disease)
    if patients < 2:
        return  # the noise of one patient cannot be told from its difference
    worlds = list(first[0].worlds)
    factor = _factor(len(first) * len(worlds) * len(metrics), patients - 1)
    for world in worlds:
        for metric in metrics:
            a, b = (_scores(side, world, metric) for side in (first, other))
            error = float(np.sqrt((a - b).var(axis=1, ddof=1).mean() / patients))
            for n, (x, y) in enumerate(zip(a.mean(axis=1), b.mean(axis=1)), 1):
                allowed = tolerance(float(y), units[metric]) + factor * error
                yield Row(f"fresh seeds run {n}", world, metric, float(x), float(y), allowed)


def training_rows(rows: Sequence[Row], again: Sequence[Evaluation]) -> list[Row]:
    """`rows` with room for the noise of training: for policies trained again where sums end in other bits.

    Training magnifies such bits until a patient's policy is, at worst, that of another training seed. A run's mean over
    patients with a learner each may so differ by the spread between seeds, sqrt(2 s^2 / patients), s^2 being the
    variance between the seeds of `again` within a patient. The interquartile mean rests on half of the patients, the
    worst decile on a tenth, the distance of patients on each alone; an interval's end gets twice the room of a mean.
    The level is shared among all rows.

    Args:
        rows: Claimed numbers against those of `again`, from :func:`rows_of`.
        again: The runs trained again; at least two, of learners that are independent of each other.
    """
    patients = len(again[0].per_patient["patient"])
    factor = _factor(len(rows), patients * (len(again) - 1))

    @functools.cache
    def error(world: str, metric: str) -> float:
        return float(np.sqrt(2 * _scores(again, world, metric).var(axis=0, ddof=1).mean() / patients))

    found = []
    for row in rows:
        base, share = row.metric, 1.0 / patients if row.check.startswith("patients") else 1.0
        for ending, part in _PARTS.items():
            if row.metric.endswith(ending):
                base, share = row.metric.removesuffix(ending), part
        room = factor * error(row.world, base) / share**0.5 * (2.0 if row.check == "interval" else 1.0)
        found.append(replace(row, check=f"trained again, {row.check}", tolerance=row.tolerance + room))
    return found


def _factor(comparisons: int, degrees: int) -> float:
    """Standard errors that an honest entry's `comparisons` numbers stay within, together, at the level."""
    from scipy.stats import t

    return float(t.ppf(1 - _LEVEL / comparisons / 2, degrees))


def _scores(evaluations: Sequence[Evaluation], world: str, metric: str) -> NDArray[np.float64]:
    """(run, patient)."""
    return np.array([e.worlds[world].per_patient[metric] for e in evaluations], dtype=float)


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
    patient must agree within :func:`~medgym_offline.leaderboard.verify.tolerance`. With `fresh` it is evaluated
    again on an evaluation seed that follows from the policies' sha256, and the headline metrics must agree with the
    first within the noise of the episodes (t test over patients, level 1e-4 for the entry as a whole).

    Args:
        folder: A submission folder.
        bank: The bank, where it does not ship with the release; its content hash must be the entry's.
        fresh: Also evaluate on fresh seeds.
        progress: Show progress on standard error.
        retrain: Train the policies again from what they record, instead of using their files. Where that gives the
            same bytes, all is compared as above. Where it does not (another kind of CPU), every tolerance is wider by
            the noise of training (:func:`~medgym_offline.leaderboard.verify.training_rows`).

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
