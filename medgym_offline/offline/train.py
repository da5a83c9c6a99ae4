"""`train`: an offline dataset in, a policy out."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medgym_offline.compute import one_thread, own_defaults
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, code_version
from medgym_offline.offline.algorithms import algorithm_name, settled
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import POPULATION, StackedData, stack_transitions
from medgym_offline.offline.learner import CHECK_EVERY, Learner, actor_parts, assembled, concatenated
from medgym_offline.patients import NEW_PEOPLE
from medgym_offline.policies.files import TrainResult
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts

__all__ = ["asked", "checkpoint_updates", "shard_size", "train", "train_seeds"]

# Of one hidden layer of a stack's critic on all candidates. Wide stacks pay each operation's cost once for many
# learners; beyond this a training at the paper's size, where a dozen such layers live at a time, would take gigabytes.
_LAYER_BYTES = 32 * 2**20

_SAVE_EVERY = 250  # updates between two writes of the resume file


def train(
    algorithm: str,
    transitions: Transitions,
    scope: str = "ind",
    seed: int = 0,
    config: OfflineConfig | None = None,
    *,
    patients: Sequence[str] | None = None,
    people: Clusters | Contexts | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
    shard: int | None = None,
    device: str = "cpu",
    checkpoints: int = 0,
    on_update: Callable[[int], None] | None = None,
) -> TrainResult[list[dict[str, float]]]:
    """Train `algorithm` on a dataset.

    Learners are independent, so they are trained in shards that fit the memory; neither the shard's size nor who
    else is in it changes a learner's result.

    Args:
        algorithm: A name in `ALGORITHMS`.
        transitions: The dataset; timing, decisions and view of the policy are taken from it.
        scope: "ind": one learner per patient on its own episodes; "pop": one learner on all; "clu", "context": as
            `people` says.
        seed: Root seed.
        config: Settings; default the quick profile.
        patients: Ids to train for; None takes all that have episodes.
        people: Who shares a learner (:mod:`medgym_offline.people`), in the scopes "clu" and "context". The policy is
            for everybody in it, seen or new.
        progress: Show progress.
        resume: State file, written every 250 updates and removed at the end. If it exists, training goes on from it.
        shard: Learners per shard; default `shard_size` on a CPU, all on a GPU.
        device: Torch device of the training; the policy is returned on the CPU.
        checkpoints: How many policies to keep along the way, evenly spaced (in steps of 50 updates), the last included.
            Which of them is best can only be told by evaluating them, which makes that best one optimistic.
        on_update: Called with the number of updates done, over all shards, after each.

    Returns:
        Policy, log and the learners that were stopped.

    Raises:
        UnknownNameError: If the algorithm, scope or a patient does not exist.
        DatasetError: If the dataset is malformed or empty, a patient has no episodes, or fewer distinct actions than a
            discrete form has codewords.
        MedGymError: If every learner diverged, the resume file belongs to another training, or `people` are missing, or
            of another scope.
    """
    return train_seeds(
        algorithm,
        transitions,
        scope,
        (seed,),
        config,
        patients=patients,
        people=people,
        progress=progress,
        resume=resume,
        shard=shard,
        device=device,
        checkpoints=checkpoints,
        on_update=on_update,
    )[seed]


@own_defaults()
def train_seeds(
    algorithm: str,
    transitions: Transitions,
    scope: str = "pop",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    config: OfflineConfig | None = None,
    *,
    patients: Sequence[str] | None = None,
    people: Clusters | Contexts | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
    shard: int | None = None,
    device: str = "cpu",
    checkpoints: int = 0,
    on_update: Callable[[int], None] | None = None,
) -> dict[int, TrainResult[list[dict[str, float]]]]:
    """`train` for several seeds at once: learners of all patients and seeds are one stack.

    Options are those of `train`, whose results these are with each seed: to the bit where that too trains a stack
    (scope "ind"); up to rounding, which training amplifies, for a single learner, whose products torch computes with
    other kernels.

    Returns:
        Result by seed. The log is the mean over the learners of all seeds.

    Raises:
        As `train`, and MedGymError if a seed is given twice or none is.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise MedGymError(f"seeds are {list(seeds)}; give at least one, and each once")
    algorithm = algorithm_name(algorithm)
    config = settled(algorithm, config or OfflineConfig())
    data = _stacked(transitions, scope, config, patients, people)
    learners = [(place, seed) for seed in seeds for place in range(len(data))]
    size = shard or (shard_size(config) if device == "cpu" else len(learners))
    shards = [learners[at : at + size] for at in range(0, len(learners), size)]
    kept = checkpoint_updates(config.updates, checkpoints)
    task = asked(algorithm, transitions, scope, config, patients, people)
    recipe = {"seeds": list(seeds), "learners": data.keys, "rows": data.counts.tolist(), "shard": size, "keep": kept}
    identity = json.dumps(task | recipe, sort_keys=True)
    state = _read_state(resume, identity) or {"finished": [], "current": None}
    finished, current = state["finished"], state["current"]

    name = f"{algorithm} {scope}, {len(learners)} learner{'s' if len(learners) > 1 else ''}"
    with one_thread(device), Progress(name, len(shards) * config.updates, enabled=progress) as bar:
        bar.advance(len(finished) * config.updates)
        for members in shards[len(finished) :]:
            # torch multiplies a stack of one with other kernels than a larger stack, which differ in the last bit: a
            # learner of several that is alone is trained twice, so that its result is the one it has among others.
            alone = len(members) == 1 and (scope in ("ind", "clu") or len(learners) > 1)
            trained = members * (2 if alone else 1)
            chosen = data.select([place for place, _ in trained]).to(device)
            learner = Learner(algorithm, chosen, [seed for _, seed in trained], config)
            actors: dict[str, Any] = {}
            if current is not None:
                actors = current["actors"]
                learner.restore(current["learner"])
                bar.advance(learner.done)
                current = None
            while learner.done < config.updates:
                learner.update()
                last = learner.log[-1] if learner.log else {}
                bar.advance(1, **{key: last[key] for key in ("mse", "td", "gap", "q") if key in last})
                if learner.done in kept or learner.done == config.updates:
                    actors[str(learner.done)] = actor_parts(learner, len(members))
                if resume and learner.done % _SAVE_EVERY == 0 and learner.done < config.updates:
                    _write_state(resume, identity, finished, {"learner": learner.state(), "actors": actors})
                if on_update is not None:
                    on_update(len(finished) * config.updates + learner.done)
            stopped = {i: why for i, why in learner.stopped.items() if i < len(members)}
            finished.append({"actors": actors, "log": json.dumps(learner.log), "stopped": stopped})
            if resume:
                _write_state(resume, identity, finished, None)

    log = _merge([json.loads(part["log"]) for part in finished], [len(members) for members in shards])
    why = {members[i]: told for members, part in zip(shards, finished) for i, told in part["stopped"].items()}
    stacks = {at: concatenated([part["actors"][str(at)] for part in finished]) for at in {*kept, config.updates}}
    results = {}
    for number, seed in enumerate(seeds):
        failed = {data.keys[place]: told for (place, whose), told in why.items() if whose == seed}
        if len(failed) == len(data):
            key, told = next(iter(failed.items()))
            raise MedGymError(
                f"{algorithm}: every learner failed ({key} {told}); lower the learning rates or check the rewards"
            )
        for key, told in failed.items():
            warnings.warn(f"{algorithm}: learner {key} {told}; its last healthy actor is used", stacklevel=3)
        origin = {**task, "seed": seed, "stopped": failed, "code": code_version(), "torch": torch.__version__}
        ids = None if data.keys == (POPULATION,) else data.keys
        rows = slice(number * len(data), (number + 1) * len(data))
        policies = {}
        for at, whole in sorted(stacks.items()):
            facts = origin if at == config.updates else {**origin, "update": at}
            policies[at] = assembled(whole, rows, ids, transitions, facts, people)
        results[seed] = TrainResult(policies[config.updates], log, failed, policies if kept else {})
    if resume:
        Path(resume).unlink(missing_ok=True)
    return results


def shard_size(config: OfflineConfig) -> int:
    """Learners trained side by side on a CPU: 170 with the quick profile, 10 with the paper's."""
    layer = 4 * config.batch * sum(config.candidates) * config.hidden * config.ensemble * config.history
    # A patient alone is trained twice (see `train`), so with a history, which makes learners large, two go together.
    return max(min(2, config.history), _LAYER_BYTES // layer)


def checkpoint_updates(updates: int, count: int) -> list[int]:
    """After which updates `count` checkpoints are kept: multiples of 50 (when learners are looked at), and the last."""
    looks = (-(-updates * i // (count * CHECK_EVERY)) for i in range(1, count + 1))
    return sorted({min(updates, CHECK_EVERY * look) for look in looks})


def _stacked(
    transitions: Transitions,
    scope: str,
    config: OfflineConfig,
    patients: Sequence[str] | None,
    people: Clusters | Contexts | None,
) -> StackedData:
    """The slices of all learners; `MedGymError` if the scope needs people and there are none, or others."""
    if (scope if scope in NEW_PEOPLE else None) != (None if people is None else people.scope):
        raise MedGymError(
            f"scope is {scope!r}, people are {'missing' if people is None else f'those of scope {people.scope!r}'}; "
            "give `people_of(scope, bank, ...)` of medgym_offline.people with clu or context, and none with others"
        )
    if people is not None and transitions.split != "train":
        raise MedGymError(
            f"scope {scope!r} is for new people, and these rows are of others than train people; load them with "
            "split='train'"
        )
    rows, members = (transitions, None) if people is None else people.arrange(transitions)
    return stack_transitions(rows, scope, config, patients, members)


def asked(
    algorithm: str,
    transitions: Transitions,
    scope: str,
    config: OfflineConfig,
    patients: Sequence[str] | None,
    people: Clusters | Contexts | None = None,
) -> dict[str, Any]:
    """What a policy's file says it was asked to learn, its seed aside."""
    return {
        "algorithm": algorithm,
        "dataset": transitions.dataset_id,
        "identity": transitions.identity,
        **({} if transitions.view == FULL else {"view": transitions.view}),
        "scope": scope,
        "config": config.to_dict(),
        **transitions.people(patients),
        **({} if people is None else people.facts()),
    }


def _merge(logs: list[list[dict[str, float]]], counts: list[int]) -> list[dict[str, float]]:
    """Mean over shards, weighted by their learners, line by line ("update" identifies a line)."""
    merged: dict[float, dict[str, float]] = {}
    weights: Counter[float] = Counter()
    for log, count in zip(logs, counts):
        for line in log:
            total = merged.setdefault(line["update"], dict.fromkeys(line, 0.0))
            weights[line["update"]] += count
            for key, value in line.items():
                total[key] += value * count
    return [{key: value / weights[at] for key, value in merged[at].items()} for at in sorted(merged)]


def _write_state(path: str | Path, identity: str, finished: list[dict[str, Any]], current: Any) -> None:
    with atomic_path(path) as temporary:
        torch.save({"identity": identity, "finished": finished, "current": current}, temporary)


def _read_state(path: str | Path | None, identity: str) -> dict[str, Any] | None:
    """The saved state of this very training, or None if there is none."""
    if path is None or not os.path.exists(path):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except Exception as error:
        raise MedGymError(
            f"{path}: unreadable training state ({type(error).__name__}); delete it to start again"
        ) from None
    if found != identity:
        raise MedGymError(
            f"{path}: state of another training (other algorithm, dataset, seed or settings); delete it or name another"
        )
    return dict(state)
