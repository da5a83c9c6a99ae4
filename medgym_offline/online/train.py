"""Training of stacked policies on simulators: roll out, learn, repeat; with checkpoints.

Every update rolls `episodes` whole episodes out on each simulator (stochastic policy) and hands them to the algorithm
(:mod:`medgym_offline.online.trpo`, :mod:`~medgym_offline.online.ppo`, :mod:`~medgym_offline.online.sac`).

Policies of a stack never exchange a number. They are worked on in shards, which bound the memory of a batch; the shard
size does not change results. A shared policy (scopes "pop", "dr") is a stack of one that sees the rows of all
simulators.

A checkpoint is safetensors with a JSON header (format, recipe); nothing in it can run. Resuming from it continues the
very same run, because every random draw is derived from (seed, patient, update) and not from a generator that moves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import CLOCKS
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, json_difference
from medgym_offline.online import ppo, sac, trpo
from medgym_offline.online.actors import actor_parameters, stacked_actor, tensor_hash
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import Group, Shapes, TrainState
from medgym_offline.online.networks import Adam, GaussianActor, interval_bias
from medgym_offline.online.rollouts import Collected, ContextualProcess, collect, episode_numbers, training_noise
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.files import TrainResult
from medgym_offline.progress import Progress
from medgym_offline.seeds import generator
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["live_numbers", "load_state", "save_state", "train", "training_facts"]

SHARED = "shared"
FORMAT = "medgym-online-state/1"
_ALGORITHMS = {"trpo": trpo, "ppo": ppo, "sac": sac}
_LIVE = {"return": "ret", "cost": "cost", "multiplier": "lam", "alpha": "alpha", "kl": "kl"}


def live_numbers(log: dict[str, Tensor]) -> dict[str, float]:
    """What progress shows of the last row of a training log: means over those that have a number."""
    means = {short: float(log[name][-1].nanmean()) for name, short in _LIVE.items() if name in log}
    return {short: value for short, value in means.items() if math.isfinite(value)}


def training_facts(
    config: TrainConfig, process: ProcessConfig, state: TrainState, patients: Sequence[str]
) -> dict[str, Any]:
    """What a policy's file says of its training on `patients`: settings, length, and whose was stopped."""
    stopped = {patient: int(at) for patient, at in zip(patients, state.stopped) if at >= 0}
    return {"training": config.to_dict(), "process": process.to_dict(), "updates": state.update, "stopped": stopped}


def save_state(path: str | Path, state: TrainState, recipe: dict[str, Any]) -> None:
    """Write a checkpoint atomically; `recipe` is what the run was started with (JSON-able)."""
    from safetensors.torch import save_file

    header = {"format": FORMAT, "update": str(state.update), "recipe": json.dumps(recipe, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in state.tensors().items()}, temporary, header)


def load_state(path: str | Path, recipe: dict[str, Any]) -> TrainState:
    """Read a checkpoint of exactly this `recipe`.

    Raises:
        MedGymError: If the file is no checkpoint, or of another recipe (the differing entries are named).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise MedGymError(f"{path}: not a readable checkpoint ({error}); delete it to start again") from None
    if header.get("format") != FORMAT:
        raise MedGymError(f"{path}: not a training checkpoint (format {header.get('format')!r}, expected {FORMAT!r})")
    ours, theirs = json.loads(json.dumps(recipe)), json.loads(header["recipe"])
    if theirs != ours:
        lines = "; ".join(json_difference(ours, theirs))
        raise MedGymError(f"{path}: checkpoint of another recipe ({lines}); delete it or use its recipe")
    return TrainState.from_tensors(int(header["update"]), tensors)


def _start(
    bank: SimulatorBank, process: ProcessConfig, config: TrainConfig, shapes: Shapes, initial: StackedActor | None
) -> TrainState:
    """The state before the first update."""
    names = (SHARED,) if config.shared else bank.patients
    if initial is None:
        mean, std = [0.0] * process.action_dim, [config.initial_std] * process.action_dim
        if config.first_doses:
            u = bank.normalize_treatment(torch.tensor(config.first_doses, dtype=torch.float64))
            mean[: len(u)] = torch.atanh((2.0 * u - 1.0).clamp(-0.999, 0.999)).tolist()
        if process.timing == "adaptive":
            low, high = process.min_interval, process.max_interval
            mean[-1], std[-1] = interval_bias(process.decisions, process.horizon, low, high), config.interval_std
        actor = shapes.actor.initial([generator(config.seed, "online-actor", name) for name in names], mean, std)
    else:
        actor = actor_parameters(initial, shapes.actor, names, config.shared, config.initial_std)
    if config.reset_std is not None:
        shapes.actor.split(actor)[1].fill_(math.log(config.reset_std))
    actor = shapes.actor.project(actor)
    critic, learner = _ALGORITHMS[config.base].start(config, shapes, actor, names)
    scale, multiplier, harm = torch.zeros(len(names), 2), torch.zeros(len(names)), torch.zeros(len(bank))
    stopped = torch.full((len(bank),), -1, dtype=torch.int64)
    return TrainState(0, actor, critic, Adam.zeros(critic), scale, multiplier, harm, stopped, learner=learner)


def _update(
    processes: Sequence[tuple[slice, DecisionProcess]], config: TrainConfig, shapes: Shapes, state: TrainState
) -> dict[str, Tensor]:
    """One update of every policy; returns the log's next row."""
    learn = _ALGORITHMS[config.base].update
    numbers: list[dict[str, Tensor]] = []
    collected: list[Collected] = []
    purpose = "online-shared" if config.shared else "online"
    for members, process in processes:
        drawn = (process.bank, process.config, state.update, config.episodes, config.event_updates)
        noise = training_noise(config.seed, purpose, *drawn)
        batch = collect(process, shapes.actor, state.actor if config.shared else state.actor[members], noise)
        row = episode_numbers(batch)
        if config.shared:
            collected.append(batch)
        else:
            row |= learn(Group(config, shapes, state, members, members, process.bank.patients), batch)
        numbers.append(row)
    joined = {name: torch.cat([row[name] for row in numbers]) for name in numbers[0]}
    if config.shared:
        whole = Collected(*(torch.cat(values) for values in zip(*(vars(batch).values() for batch in collected))))
        joined |= learn(Group(config, shapes, state, slice(0, 1), slice(None), (SHARED,)), whole)
    state.update += 1
    return joined


@own_defaults()
@torch.no_grad()
def train(
    bank: SimulatorBank,
    process: ProcessConfig,
    config: TrainConfig,
    initial: StackedActor | None = None,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 25,
    shard: int = 55,
    progress: bool = True,
    watch: Callable[[TrainState], bool | None] | None = None,
    embeddings: Tensor | None = None,
) -> TrainResult[dict[str, Tensor]]:
    """Train one policy per simulator of `bank`, or one for all of them.

    Args:
        bank: Simulators of S patients.
        process: Timing, budget, reward, and the view that actor and critic have.
        config: Algorithm and its settings.
        initial: Start from these policies (a shared one is copied to every patient) instead of from scratch.
        checkpoint: File to resume from when it exists, written every `checkpoint_every` updates and at the end.
            A resumed run equals an uninterrupted one.
        checkpoint_every: Updates between checkpoints.
        shard: Simulators worked on at a time; results do not depend on it.
        progress: Show progress on standard error.
        watch: Called with the state after every update (to log, or to keep something in `state.kept`, which is part
            of a checkpoint); return True to stop.
        embeddings: Numbers `(S, n)` about each patient that actor and critic read too, as columns before the clocks.
            At the start they mean nothing: it begins as the training without them does. The policy reads them too;
            `medgym_offline.people.Contexts.finish` makes them a bias per patient.

    Raises:
        MedGymError: If the checkpoint is of another recipe, `initial` does not fit the process, or a replay buffer
            cannot hold one update.
    """
    rows = config.episodes * process.decisions * (len(bank) if config.shared else 1)
    if config.base == "sac" and config.soft_capacity < rows:
        needs = f"one update brings a policy up to {rows} decisions; raise it, or lower episodes"
        raise MedGymError(f"training setting soft_capacity is {config.soft_capacity}, but {needs}")
    width, hidden, actions = process.observation_dim, config.hidden, process.action_dim
    told, clocks = 0 if embeddings is None else embeddings.shape[1], width - len(CLOCKS)
    silent = range(clocks, clocks + told)
    actor = GaussianActor((width + told, hidden, hidden, actions), silent)
    critic = replace(_ALGORITHMS[config.base].critic_shape(width + told, actions, hidden), silent=silent)
    shapes = Shapes(actor, critic, process.definition.process.reference_interval)
    recipe = {
        "config": config.to_dict(),
        "process": process.to_dict(),
        "bank": bank.content_hash,
        "world": bank.current_world,
        "patients": list(bank.patients),
        **({} if embeddings is None else {"embeddings": tensor_hash(embeddings)}),
    }
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_state(checkpoint, recipe)
    else:
        state = _start(bank, process, config, shapes, initial)
    state = state.to(bank.device)
    processes = []
    for start in range(0, len(bank), shard):
        members = slice(start, min(start + shard, len(bank)))
        some = bank.select(range(len(bank))[members])
        decisions = DecisionProcess(some, process)
        if embeddings is not None:
            decisions = ContextualProcess(some, process, embeddings[members])
        processes.append((members, decisions))

    whom = f"{'one policy on ' if config.shared else ''}{len(bank)} patients"
    with Progress(f"{config.algorithm} {process.timing}, {whom}", config.updates, enabled=progress) as bar:
        bar.advance(state.update)
        while state.update < config.updates:
            state.append(_update(processes, config, shapes, state))
            bar.advance(1, **live_numbers(state.log))
            done = state.update >= config.updates
            stop = bool(watch(state)) if watch is not None else False
            if checkpoint is not None and (done or stop or state.update % checkpoint_every == 0):
                save_state(checkpoint, state.without_replay() if done else state, recipe)
            if stop:
                break
    facts = training_facts(config, process, state, bank.patients)
    policy = stacked_actor(actor, state.actor, None if config.shared else bank.patients, process, facts)
    return TrainResult(policy, state.log, facts["stopped"], state=state)
