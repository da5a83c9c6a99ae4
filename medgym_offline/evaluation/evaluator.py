"""`evaluate`: one policy in, an :class:`Evaluation` out."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medgym_offline.compute import cores, one_thread, side_by_side
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import DatasetError, DiseaseError, ProtocolError, UnknownNameError
from medgym_offline.evaluation.binding import BUILTIN_NAMES, BoundPolicy, require_repeatable, resolve_policy
from medgym_offline.evaluation.protocol import Protocol, load_protocol
from medgym_offline.evaluation.result import Evaluation, WorldResult
from medgym_offline.evaluation.statistics import seed_label
from medgym_offline.evaluation.subgroups import patient_facts
from medgym_offline.evaluation.support import SupportReference
from medgym_offline.evaluation.worlds import ActOn, asked_of, identifying, process_config, score_world, taking_over
from medgym_offline.files import code_version
from medgym_offline.people import IdentifyingPolicy
from medgym_offline.policies.protocol import disease_of_policy
from medgym_offline.progress import Progress
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.files import load_simulators

__all__ = ["evaluate"]


@one_thread()
def evaluate(
    policy: Any,
    timing: str | None = None,
    decisions: int | None = None,
    patients: int | Sequence[int | str] | None = None,
    episodes: int | None = None,
    seed: int | None = None,
    bank: str | Path | SimulatorBank | None = None,
    worlds: Sequence[str] | None = None,
    dataset: str | Transitions | None = None,
    progress: bool = False,
    *,
    protocol: str | Path | Protocol = "protocol-v0",
    name: str | None = None,
    view: str | None = None,
    workers: int | None = 1,
    split: str | None = None,
    takeover: float | None = None,
) -> Evaluation:
    """Score a policy on every patient's own simulator.

    Whatever is left out is as the protocol file says; whatever departs from it is listed in `deviations`.

    Args:
        policy: Path of a policy file, a built-in name (zero, max, random, clinician, behavior, constant:A,B,..), or any
            object with `act(observations (P, B, d)) -> actions (P, B, A)` in NumPy or torch. A policy that names
            its `patients` is matched to the bank's by id.
        timing: "adaptive" or "fixed"; by default the policy's own. Another than the policy's own is an error.
        decisions: K; by default the policy's own, else the protocol's.
        patients: Ids or indices into the bank, or a number: the first so many. All by default.
        episodes: Per patient.
        seed: Of the episodes. An episode's noise depends on (seed, patient id, episode number) alone.
        bank: Name or path of a bank, or a `SimulatorBank`; by default that of the disease the policy names.
        worlds: Names among "own", "crossfit" and "true"; the first is shown by `.metrics`. By default those of the
            protocol that the bank has.
        dataset: Dataset id or `Transitions` of the behavior data: adds support distances and, where the evaluated
            patients are the dataset's, the normalized score.
        progress: Show progress on standard error.
        protocol: Name or path of a protocol file, or a `Protocol`.
        name: What to call the policy; by default its file name, built-in name or class.
        view: What the policy is shown, "full" or another view of the disease; by default what it was trained on.
            Policies without learning take any; the shown values then stand for the state.
        workers: Threads, each scoring one world at a time (None: one per core); the result is the same. A Python object
            or a policy with `reset` is scored by one, whatever is said here: it may not bear being asked twice at once.
        split: "train" or "test": the people on that side of the bank's split; `patients` is among them.
        takeover: The disease's clinician treats until this time of every episode (in the disease's unit, a multiple of
            the protocol's `grid`), at equal intervals, the last of which ends there; then the policy decides, with the
            decisions that are left. Every metric counts from there. What a policy remembers includes the time before;
            one whose file says that it knows people by so many first hours finds out in every episode who that is.
            There is no normalized score: references are of whole episodes.

    Raises:
        PolicyError: If it is no policy, its timing differs, patients are missing (named), it answers with actions of
            the wrong shape or not finite (patient named), or it answers the same question differently.
        UnknownNameError: For an unknown patient (or one named twice), world, bank, dataset, timing, split or built-in
            policy.
        BankError: If the bank has no split and one is asked for.
        ProtocolError: For settings out of range or infeasible (K times the longest interval is below the horizon, a
            takeover that leaves too few decisions).
        DatasetError: If the dataset has another timing or view, or lacks an evaluated patient.
    """
    if bank is None:
        bank = protocol.bank if isinstance(protocol, Protocol) else disease(_disease_of(policy)).bank
    full = load_simulators(bank) if isinstance(bank, str | Path) else bank
    official = protocol if isinstance(protocol, Protocol) else load_protocol(protocol, full.disease.name)
    if official.disease != full.disease.name:
        raise ProtocolError(f"the protocol is for {official.disease}, bank {full.name!r} is of {full.disease.name}")
    side = full if split is None else full.select(full.people(split))
    selected = side if patients is None else side.select(side.patient_index.resolve(patients))
    standard = tuple(w for w in official.worlds if w in full.worlds)
    named_worlds = standard if worlds is None else tuple(worlds)
    if not named_worlds:
        raise ProtocolError(f"no world to evaluate in: bank {full.name!r} has {', '.join(full.worlds)}")
    bound = resolve_policy(policy, selected, timing, decisions, official.decisions, view)
    used, deviations = official.override(bank=full.name, decisions=bound.decisions, episodes=episodes, seed=seed)
    # The protocol says "as the policy was trained" and "worlds that the bank has"; settling that is no deviation, and
    # what is seen is another task, not another protocol.
    used = used.override(timing=bound.timing, worlds=named_worlds, view=bound.view)[0]
    process_config(used)  # refuses an infeasible budget before anything runs
    beside: dict[str, tuple[Any, Any]] = {"worlds": (list(standard), list(named_worlds)), "split": (None, split)}
    beside |= {"patients": (len(side), len(selected)), "takeover": (None, takeover)}
    deviations |= {what: {"protocol": a, "used": b} for what, (a, b) in beside.items() if a != b}
    bound = bound if takeover is None else identifying(bound, full, takeover)
    played: ActOn = bound.act_on if takeover is None else taking_over(bound, selected, takeover, used)
    support, dataset_info = _behavior_data(dataset, bound, selected, official.reward)
    if takeover is not None and dataset_info:
        dataset_info["reference_returns"] = {}
    require_repeatable(bound, selected.patients)
    facts = patient_facts(selected)
    total = len(selected) * used.episodes * len(named_worlds)
    with Progress(f"evaluate {name or bound.name}", total, enabled=progress) as bar:

        def score(world: str) -> WorldResult:
            there, references = selected.world(world), dataset_info.get("reference_returns")
            return score_world(played, there, used, facts, support, references, bar.advance, takeover or 0.0)

        threads = _threads(workers, bound)
        # Side by side the last world begins first: it takes longest where it is solved (a twin's true one).
        order = named_worlds if threads == 1 else named_worlds[::-1]
        found = dict(zip(order, side_by_side(score, order, threads)))
    software = {"medgym-offline": code_version(), "python": platform.python_version()}
    return Evaluation(
        name=name or bound.name,
        policy=bound.info,
        bank={"name": full.name, "content_hash": full.content_hash, "patients": len(full)},
        protocol=used.to_dict() | ({} if takeover is None else {"takeover": takeover}),
        protocol_hash=official.hash,
        deviations=deviations,
        worlds={world: found[world] for world in named_worlds},
        dataset=dataset_info,
        software=software | {name: version(name) for name in ("torch", "numpy")},
        notes=tuple(_notes(bound, named_worlds)),
        patients=facts,
    )


def _notes(bound: BoundPolicy, worlds: Sequence[str]) -> Iterator[str]:
    if bound.info["decisions"] not in (None, bound.decisions):
        yield f"the policy was made for K = {bound.info['decisions']} and is scored with K = {bound.decisions}"
    if tuple(worlds) == ("own",):
        yield "own world only: the policy may exploit errors of the simulator it was trained in"
    asked = asked_of(bound)
    if asked is not None and asked["hours"] is not None and not isinstance(bound.policy, IdentifyingPolicy):
        first = f"{asked['hours']:g} {disease(bound.disease).process.unit}"
        yield f"people are known by the first {first} of another course; a takeover then takes each episode's own"
    if bound.info["scope"] != "baseline":
        yield seed_label(1)


def _threads(workers: int | None, bound: BoundPolicy) -> int:
    """Threads that may ask the policy at once."""
    if workers is not None and workers < 1:
        raise ProtocolError(f"workers is {workers}; give at least 1, or None for one per core")
    if bound.info["kind"] == "object" or hasattr(bound.policy, "reset"):
        return 1
    return workers or cores()


def _disease_of(policy: Any) -> str:
    """Name of the disease that a policy, or its file, says it is for."""
    builtin = str(policy).partition(":")[0] in BUILTIN_NAMES  # a file of that name is reached as ./random
    if isinstance(policy, str | Path) and not builtin and Path(policy).exists():
        from medgym_offline.policies.loading import load_policy

        policy = load_policy(policy)
    return disease_of_policy(policy)


def _behavior_data(
    dataset: str | Transitions | None, bound: BoundPolicy, bank: SimulatorBank, reward: str
) -> tuple[SupportReference | None, dict[str, Any]]:
    """The dataset prepared for support distances, and what the result says of it."""
    if dataset is None:
        return None, {}
    from medgym_offline.datasets import load_dataset
    from medgym_offline.datasets.catalogue import dataset_info

    if isinstance(dataset, str):
        with contextlib.suppress(UnknownNameError):  # what there is here need not be known
            named = dataset_info(dataset)
            if named.path is None:  # of another disease it is refused before it is made
                _require_disease(dataset, load_simulators(named.bank).disease.name, bank)
        dataset = load_dataset(dataset, view=bound.view)
    _require_disease(dataset.dataset_id, dataset.disease, bank)
    if dataset.timing != bound.timing:
        apart = f"has {dataset.timing} timing, the policy {bound.timing}: their actions cannot be compared"
        raise DatasetError(f"dataset {dataset.dataset_id!r} {apart}; name a dataset with the policy's timing")
    if dataset.view != bound.view:
        seen = f"the policy sees {bound.view!r}; load it with view={bound.view!r}"
        raise DatasetError(f"dataset {dataset.dataset_id!r} was loaded with view {dataset.view!r}, {seen}")
    known = None
    with contextlib.suppress(UnknownNameError):  # rows that no recipe makes
        known = dataset_info(dataset.dataset_id)
    prepare = SupportReference.of_everyone if known and known.records else SupportReference.from_transitions
    # Reference returns are means over the dataset's patients: they say nothing about some of them.
    whole = set(dataset.present_ids) == set(bank.patients)
    returns = dict(known.reference_returns) if known and known.reward == reward and whole else {}
    info = {"id": dataset.dataset_id, "identity": dataset.identity, "reference_returns": returns}
    return prepare(dataset, bank.patients), info


def _require_disease(dataset: str, disease: str, bank: SimulatorBank) -> None:
    if disease != bank.disease.name:
        where = f"bank {bank.name!r} of {bank.disease.name}; name a dataset of the same disease"
        raise DiseaseError(f"dataset {dataset!r} is of {disease}, {where}")
