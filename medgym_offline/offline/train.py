"""`train`: an offline dataset in, a policy out."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.views import FULL
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, code_version
from medgym_offline.offline.algorithms import algorithm_name, settled
from medgym_offline.offline.assembly import actor_parts, assembled, concatenated
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import POPULATION, StackedData, stack_transitions
from medgym_offline.offline.learner import CHECK_EVERY, Learner
from medgym_offline.policies.result import TrainResult
from medgym_offline.progress import Progress
from medgym_offline.threads import one_thread

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts

__all__ = ["checkpoint_updates", "shard_size", "train", "train_seeds"]

# Of one hidden layer of a stack's critic on all candidates. Wide stacks pay each operation's cost once for many
# learners; beyond this a training at the paper's size, where a dozen such layers live at a time, would take gigabytes.
_LAYER_BYTES = 32 * 2**20

_SAVE_EVERY = 250  # updates between two writes of the resume file


@own_defaults()
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
        algorithm: A name in `ALGORITHMS` or `ALIASES`.
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
    algorithm = algorithm_name(algorithm)
    config = settled(algorithm, config or OfflineConfig())
    data = _stacked(transitions, scope, config, patients, people)
    size = shard or (shard_size(config) if device == "cpu" else len(data))
    bounds = [(a, min(a + size, len(data))) for a in range(0, len(data), size)]
    kept = checkpoint_updates(config.updates, checkpoints)
    task = {**_task(algorithm, transitions, scope, config, patients, people), "seed": seed}
    identity = json.dumps(
        {**task, "learners": data.keys, "rows": data.counts.tolist(), "shard": size, "keep": kept}, sort_keys=True
    )
    saved = _read_state(resume, identity)
    finished: list[dict[str, Any]] = saved["finished"] if saved else []

    name = f"{algorithm} {scope}, {len(data)} learner{'s' if len(data) > 1 else ''}"
    with one_thread(device), Progress(name, len(bounds) * config.updates, enabled=progress) as bar:
        done = len(finished) * config.updates
        bar.skip(done)
        for start, stop in bounds[len(finished) :]:
            # torch multiplies a stack of one with other kernels than a larger stack, which differ in the last bit: a
            # patient alone is trained twice, so that its result is the one it has among others.
            members = list(range(start, stop)) * (2 if scope in ("ind", "clu") and stop - start == 1 else 1)
            learner = Learner(algorithm, data.select(members).to(device), seed, config)
            early: dict[str, Any] = {}
            if saved and saved["current"] is not None:
                early = saved["current"]["early"]
                learner.restore(saved["current"]["learner"])
                bar.skip(learner.done)
                done += learner.done
                saved = None
            while learner.done < config.updates:
                learner.update()
                done += 1
                if learner.done % 10 == 0 or learner.done == config.updates:
                    bar.advance(learner.done - 10 * ((learner.done - 1) // 10), **_shown(learner))
                if learner.done in kept and learner.done < config.updates:
                    early[str(learner.done)] = actor_parts(learner, stop - start)
                if resume and learner.done % _SAVE_EVERY == 0 and learner.done < config.updates:
                    _write_state(resume, identity, finished, {"learner": learner.state(), "early": early})
                if on_update is not None:
                    on_update(done)
            finished.append(_outcome(learner, stop - start) | {"early": early})
            if resume:
                _write_state(resume, identity, finished, None)

    stopped = {key: why for part in finished for key, why in part["stopped"].items()}
    if len(stopped) == len(data):
        raise _all_failed(algorithm, stopped)
    for key, why in stopped.items():
        warnings.warn(f"{algorithm}: learner {key} {why}; its last healthy actor is used", stacklevel=2)
    ids = None if data.keys == (POPULATION,) else data.keys
    origin = {**task, "stopped": stopped, "code": code_version(), "torch": torch.__version__}
    policy = assembled([part["actor"] for part in finished], ids, transitions, origin, people)
    early_policies = {
        at: assembled([p["early"][str(at)] for p in finished], ids, transitions, {**origin, "update": at}, people)
        for at in kept
        if at < config.updates
    }
    if resume:
        Path(resume).unlink(missing_ok=True)
    log = _merge([json.loads(p["log"]) for p in finished], bounds)
    return TrainResult(policy, log, stopped, early_policies | ({config.updates: policy} if kept else {}))


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
    shard: int | None = None,
    device: str = "cpu",
) -> dict[int, TrainResult[list[dict[str, float]]]]:
    """`train` for several seeds at once: learners of all patients and seeds are one stack.

    Results are those of `train` with each seed: to the bit where that too trains a stack (scope "ind"); up to rounding,
    which training amplifies, for a single learner, whose products torch computes with other kernels.

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
    pairs = [(p, seed) for seed in seeds for p in range(len(data))]
    size = shard or (shard_size(config) if device == "cpu" else len(pairs))
    shards = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    parts: list[dict[str, Any]] = []
    stopped: dict[str, str] = {}
    with one_thread(device), Progress(f"{algorithm} {scope}", len(shards) * config.updates, enabled=progress) as bar:
        for members in shards:
            twice = members * (2 if len(members) == 1 and len(pairs) > 1 else 1)
            chosen = data.select([p for p, _ in twice]).to(device)
            learner = Learner(algorithm, chosen, [seed for _, seed in twice], config)
            while learner.done < config.updates:
                learner.update()
                bar.advance(1)
            parts.append(_outcome(learner, len(members)))
            stopped |= learner.stopped
    bounds = [(at, min(at + size, len(pairs))) for at in range(0, len(pairs), size)]
    log = _merge([json.loads(part["log"]) for part in parts], bounds)
    whole = concatenated([part["actor"] for part in parts])
    task = _task(algorithm, transitions, scope, config, patients, people)
    results = {}
    for i, seed in enumerate(seeds):
        suffix = f", seed {seed}"
        own = {key.removesuffix(suffix): why for key, why in stopped.items() if key.endswith(suffix)}
        if len(own) == len(data):
            raise _all_failed(algorithm, own)
        rows = slice(i * len(data), (i + 1) * len(data))
        actor = {**whole, "net": {key: value[rows] for key, value in whole["net"].items()}}
        if whole["codebook"] is not None:
            actor["codebook"] = whole["codebook"][rows]
        origin = {**task, "seed": seed, "stopped": own, "code": code_version(), "torch": torch.__version__}
        ids = None if data.keys == (POPULATION,) else data.keys
        policy = assembled([actor], ids, transitions, origin, people)
        results[seed] = TrainResult(policy, log, own, {})
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
    if (scope if scope in ("clu", "context") else None) != (None if people is None else people.scope):
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


def _task(
    algorithm: str,
    transitions: Transitions,
    scope: str,
    config: OfflineConfig,
    patients: Sequence[str] | None,
    people: Clusters | Contexts | None,
) -> dict[str, Any]:
    """What a policy's file says it was asked to learn, its seed aside."""
    about = {"algorithm": algorithm, "dataset": transitions.dataset_id, "identity": transitions.identity}
    return {
        **about,
        **({} if transitions.view == FULL else {"view": transitions.view}),
        "scope": scope,
        "config": config.to_dict(),
        **transitions.people(patients),
        **({} if people is None else people.facts()),
    }


def _all_failed(algorithm: str, stopped: dict[str, str]) -> MedGymError:
    first = next(iter(stopped))
    return MedGymError(
        f"{algorithm}: every learner failed ({first} {stopped[first]}); lower the learning rates or check the rewards"
    )


def _outcome(learner: Learner, count: int) -> dict[str, Any]:
    """What is kept of the first `count` learners of a finished shard: plain tensors and text."""
    return {"actor": actor_parts(learner, count), "log": json.dumps(learner.log), "stopped": dict(learner.stopped)}


def _shown(learner: Learner) -> dict[str, float | str]:
    last = learner.log[-1] if learner.log else {}
    return {key: last[key] for key in ("mse", "td", "gap", "q") if key in last}


def _merge(logs: list[list[dict[str, float]]], bounds: list[tuple[int, int]]) -> list[dict[str, float]]:
    """Mean over shards, weighted by their learners, line by line ("update" identifies a line)."""
    merged: dict[float, dict[str, float]] = {}
    weights: dict[float, int] = {}
    for log, (start, stop) in zip(logs, bounds):
        for line in log:
            total = merged.setdefault(line["update"], dict.fromkeys(line, 0.0))
            weights[line["update"]] = weights.get(line["update"], 0) + stop - start
            for key, value in line.items():
                total[key] += value * (stop - start)
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
