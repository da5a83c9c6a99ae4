"""An entry of the leaderboard: one method on one dataset, scope and timing, over one or more training seeds.

The types say what an entry may hold; they read it, and their JSON Schema is published as
`leaderboard/entry.schema.json` for readers in any language.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter

from medgym_offline.config import configuration
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.diseases.registry import list_diseases
from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation.protocol import Protocol

__all__ = [
    "BuiltIn", "Entry", "FORMAT", "HEADLINE", "PAIRED", "PolicyFile", "Verification", "WORLDS", "World", "entry_id",
    "entry_schema", "gaps", "learned_from", "side_of", "slug",
]  # fmt: skip

FORMAT = "medgym-entry/2"

HEADLINE = ("severity_mean", "severity_end", "safe_hourly", "return")
"""Metrics that every entry has, in every world."""

PAIRED = ("severity_mean",)
"""Metrics of which an entry has every patient's value: what ranks compare."""

World = Literal["own", "crossfit", "true"]
WORLDS: tuple[World, ...] = ("own", "crossfit", "true")
"""From the laxest to the strictest: a policy may exploit errors of the simulators it learned from."""


def _with_headline(metrics: dict[str, float]) -> dict[str, float]:
    if missing := [name for name in HEADLINE if name not in metrics]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return metrics


_PLAIN = r"^[^\x00-\x1f<>]+$"
Text = Annotated[str, Field(min_length=1, max_length=120, pattern=_PLAIN)]
Address = Annotated[str, Field(max_length=300, pattern=r"^https?://[^\s<>\"]+$")]
_FILE = r"^policies/[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|pt2?|onnx)$"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_NEEDED = Field(json_schema_extra={"required": list(HEADLINE)})
Metrics = Annotated[dict[str, float], AfterValidator(_with_headline), _NEEDED]
ByWorld = Annotated[dict[World, Metrics], Field(min_length=1)]


@configuration("dataset", SubmissionError)
class DatasetUsed:
    """The behavior data that support distance and normalized score refer to, and the identity of its making."""

    id: Annotated[str, Field(max_length=200, pattern="^[-_A-Za-z0-9/]+-v[0-9]+$")]
    identity: str | None


@configuration("bank", SubmissionError)
class BankUsed:
    """Simulators that the entry was evaluated in."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    content_hash: Sha256


@configuration("protocol", SubmissionError)
class ProtocolUsed:
    """Hash of the protocol file, every setting used, and what departs from the file."""

    hash: Sha256
    settings: Protocol
    deviations: dict[str, Any]

    @property
    def departures(self) -> list[str]:
        """Names of settings in which the entry departs from the protocol, beside bank and split of people."""
        return sorted(set(self.deviations) - {"bank", "split"})


@configuration("built-in policy", SubmissionError)
class BuiltIn:
    """A policy that ships with the package."""

    builtin: Annotated[str, Field(pattern=r"^(behavior|clinician|constant|max|random|zero)(:[-A-Za-z0-9.,]+)?$")]

    @property
    def identity(self) -> str:
        """What tells it from other policies."""
        return self.builtin


@configuration("policy file", SubmissionError)
class PolicyFile:
    """A policy in one file, directly in `policies/` of the submission; `training` is what it says of its origin."""

    file: Annotated[str, Field(max_length=160, pattern=_FILE)]
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1)]
    training: dict[str, Any]

    @property
    def identity(self) -> str:
        """What tells it from other policies."""
        return self.sha256


def _kind_of_policy(value: Any) -> str:
    return "built-in" if isinstance(value, BuiltIn) or (isinstance(value, dict) and "builtin" in value) else "file"


OnePolicy = Annotated[BuiltIn, Tag("built-in")] | Annotated[PolicyFile, Tag("file")]
PolicyUsed = Annotated[OnePolicy, Discriminator(_kind_of_policy)]


@configuration("compute", SubmissionError)
class TrainingCost:
    """What the training cost, as stated: wall time of all runs together (s), gradient steps of each."""

    hardware: Annotated[str, Field(min_length=1, max_length=200, pattern=_PLAIN)] | None
    wall_seconds: Annotated[float, Field(ge=0)] | None
    updates: Annotated[int, Field(ge=1)] | None


@configuration("verification", SubmissionError)
class Verification:
    """Recorded on a board by whoever re-executed the policies.

    Attributes:
        version: Of this package, with the commit.
        result_hash: SHA-256 of what the re-execution gave.
        largest_deviation: As a share of its tolerance.
        fresh_seeds: Whether the policies were also evaluated on fresh seeds.
        retrained: If they were trained again from what they record: what that gave.
        seal: SHA-256 over the entry and this record: an entry edited afterwards no longer fits.
    """

    version: str
    result_hash: Sha256
    largest_deviation: Annotated[float, Field(ge=0)]
    fresh_seeds: bool
    retrained: Literal["same bytes", "within the noise of training"] | None
    seal: Sha256 | Literal[""]


@configuration("entry", SubmissionError)
class Entry:
    """What a submission claims.

    Attributes:
        id: Follows from name, dataset (else bank), scope, timing, budget and view (:func:`entry_id`).
        disease: Name of the disease.
        links, code: Of the method: paper, project; where its code lies.
        dataset: None if none was named.
        patients: Ids, in the order of `per_patient`.
        seeds: Training seeds, one per run; None where unknown or not trained.
        metrics: Means over (training seed x patient), per world.
        intervals: Stratified bootstrap over (training seed x patient), per world and metric.
        per_patient: World -> metric of :data:`PAIRED` -> (run, patient), means over episodes.
        runs: Metrics of each run, in the order of `seeds` and `policies`.
        compute: None where nothing was trained.
        software, notes: Versions; what a reader must know.
        verification: None in a submission.

    Raises:
        SubmissionError, or UnknownNameError for a disease: what does not fit, in one line.
    """

    format: Literal["medgym-entry/2"]
    id: Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*){3}$")]
    disease: str
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=_PLAIN)]
    authors: Annotated[tuple[Text, ...], Field(max_length=50)]
    links: Annotated[tuple[Address, ...], Field(max_length=8)]
    code: Address | None
    scope: Literal["ind", "clu", "pop", "context", "baseline"]
    timing: Literal["adaptive", "fixed"]
    decisions: Annotated[int, Field(ge=1)]
    dataset: DatasetUsed | None
    bank: BankUsed
    protocol: ProtocolUsed
    patients: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int | None, ...], Field(min_length=1)]
    metrics: ByWorld
    intervals: dict[World, dict[str, tuple[float, float]]]
    per_patient: dict[World, dict[str, tuple[tuple[float, ...], ...]]]
    runs: Annotated[tuple[ByWorld, ...], Field(min_length=1)]
    policies: Annotated[tuple[PolicyUsed, ...], Field(min_length=1)]
    compute: TrainingCost | None
    software: dict[str, str]
    notes: tuple[Annotated[str, Field(max_length=400)], ...]
    verification: Verification | None

    def __post_init__(self) -> None:
        problem = next(_contradictions(self), None)
        if problem is not None:
            raise SubmissionError(problem)

    @property
    def worlds(self) -> tuple[World, ...]:
        """Worlds it was evaluated in, the strictest last."""
        return tuple(world for world in WORLDS if world in self.metrics)

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.name} ({self.scope})"

    @property
    def view(self) -> str:
        """What its policies see."""
        return self.protocol.settings.view

    @property
    def split(self) -> str | None:
        """Side of the bank's split that it was evaluated on; "test": people its policies never saw. None: everybody."""
        return side_of(self.protocol.deviations)

    @property
    def data(self) -> str:
        """Id of its dataset, or the bank's name if none was named."""
        return self.dataset.id if self.dataset else f"bank {self.bank.name}"


def _contradictions(entry: Entry) -> Iterator[str]:
    """One line for each thing in which an entry contradicts itself."""
    find_disease(entry.disease)
    of_data = "" if entry.dataset is None else entry.dataset.id.rpartition("/")[2].partition("-")[0]
    for what, name in (("its protocol", entry.protocol.settings.disease), (f"dataset {entry.data!r}", of_data)):
        if name != entry.disease and name in list_diseases():
            yield f"disease is {entry.disease!r}, but {what} is of {name!r}; submit evaluations of one disease"
    data = entry.dataset.id if entry.dataset else entry.bank.name
    named = (entry.name, data, entry.scope, entry.timing, entry.decisions, entry.view, entry.split)
    if entry.id != (right := entry_id(*named)):
        yield f"id is {entry.id!r}, but its name, dataset, scope and timing give {right!r}"
    yield from _doubts(entry)
    held: dict[str, Any] = {name: getattr(entry, name) for name in ("metrics", "intervals", "per_patient")}
    for field, by_world in {**held, **{f"runs.{n}": run for n, run in enumerate(entry.runs)}}.items():
        if set(by_world) != set(entry.protocol.settings.worlds):
            yield f"{field} has the worlds {', '.join(by_world)}, not {', '.join(entry.protocol.settings.worlds)}"
    if not len(entry.runs) == len(entry.seeds) == len(entry.policies):
        yield "runs, seeds and policies must be as many: one per training seed"
    if len({policy.identity for policy in entry.policies}) < len(entry.policies):
        yield "two of the policies are the same policy; give one result per training seed"
    if len(set(entry.patients)) < len(entry.patients):
        yield "patients names somebody twice"
    for world, columns in entry.per_patient.items():
        for metric in PAIRED:
            rows = columns.get(metric, ())
            if [len(row) for row in rows] != [len(entry.patients)] * len(entry.runs):
                yield f"per_patient.{world}.{metric} must hold {len(entry.runs)} x {len(entry.patients)} numbers"
            for number, (row, run) in enumerate(zip(rows, entry.runs)):
                # Both are rounded to seven digits.
                if row and not math.isclose(sum(row) / len(row), run[world][metric], rel_tol=1e-5, abs_tol=1e-6):
                    yield f"runs.{number}.{world}.{metric} is not the mean over patients of per_patient"


def side_of(deviations: Mapping[str, Any]) -> Any:
    """The side of a split that was evaluated, as the deviations of an evaluation or an entry say; None: everybody."""
    split = deviations.get("split")
    return split.get("used") if isinstance(split, dict) else split


def learned_from(policy: Any) -> dict[str, Any]:
    """What a policy says of whom it learned from; empty if nothing."""
    people = getattr(policy, "training", {}).get("people")
    return people if isinstance(people, dict) else {}


def _doubts(entry: Entry) -> Iterator[str]:
    """One line for each reason why an entry on test people may not be on new ones."""
    if entry.split not in (None, "train", "test"):
        yield f"split is {entry.split!r}, not 'train' or 'test'"
    if entry.split != "test" or entry.scope == "baseline":
        return
    if entry.scope == "ind":
        yield "a policy of each test person's own has seen that person: it is an oracle, no entry on new people"
    for policy in entry.policies:
        if learned_from(policy).get("split") != "train":
            name = getattr(policy, "file", policy.identity)
            yield f"{name} does not say that it learned from train people alone; train it with --split train"


def slug(name: str) -> str:
    """`name` in lower-case ASCII letters, digits and hyphens; `SubmissionError` if nothing is left of it."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    found = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60].strip("-")
    if not found:
        raise SubmissionError(f"--name {name!r} has no letter or digit; choose another")
    return found


def entry_id(
    name: str, data: str, scope: str, timing: str, decisions: int, view: str = FULL, split: str | None = None
) -> str:
    """The id that follows from what an entry is: names that look alike have the same, so that none passes for another.

    Args:
        name: Of the method.
        data: Id of the dataset, or the bank's name if none was named.
        scope, timing, decisions, view, split: Of the entry.
    """
    seen = "" if view == FULL else f"-{slug(view)}"
    side = "" if split is None else f"-{split}"
    return f"{slug(name)}/{slug(data.rpartition('/')[2])}/{scope}/{timing}-{decisions}{seen}{side}"


def entry_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an entry, as published in `leaderboard/entry.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "medgym-entry-2"}
    return schema | TypeAdapter(Entry).json_schema()


def gaps(entry: Entry) -> Iterator[str]:
    """Yield one line per thing that an entry may lack and does: what, why it matters, which option adds it."""
    trained, cost = entry.scope != "baseline", ("hardware", "wall_seconds", "updates")
    unknown = [f"--{name.replace('_', '-')}" for name in cost if getattr(entry.compute, name, None) is None]
    departs = ", ".join(entry.protocol.departures)
    lacking = {
        "support distance and normalized score: evaluate with --dataset ID": entry.dataset is None,
        "the crossfit world: the own world may reward errors of its simulators": entry.worlds == ("own",),
        f"training seeds: {len(entry.runs)} of at least 3": trained and len(entry.runs) < 3,
        "which seeds: the policy files do not say; save_policy keeps a provenance": trained and None in entry.seeds,
        'authors: --authors "A. Author; B. Author"': not entry.authors,
        "the code of the method: --code https://...": trained and entry.code is None,
        f"what the training cost: {' '.join(unknown)}": trained and bool(unknown),
        f"the protocol's {departs}: it stands apart from those that follow it": bool(departs),
    }
    yield from (line for line, lacks in lacking.items() if lacks)
