"""Training of stacked policies on simulators: rollouts, advantages, multiplier, trust region, critic; repeat.

One update of every policy, on-policy (:mod:`medgym_offline.online.update`):

1. roll `episodes` whole episodes out on each simulator (stochastic policy);
2. advantages of reward (centred) and cost from one critic with two outputs, discounted by elapsed time;
3. Lagrangian forms: lambda from the mean cost per decision, A = (A_r - lambda A_c) / (1 + lambda); else A = A_r;
4. one trust-region step per policy (TRPO), or passes of Adam over the clipped surrogate (PPO);
5. the critic regresses on the lambda-returns.

SAC puts the episodes into a replay buffer and learns from that (:mod:`medgym_offline.online.soft_update`).

Policies of a stack never exchange a number. They are worked on in shards, which bound the memory of a batch; the shard
size does not change results. A shared policy (scopes "pop", "dr") is a stack of one that sees the rows of all
simulators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.online.actors import actor_parameters, stacked_actor
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.critic import critic_network
from medgym_offline.online.gaussian import GaussianActor, interval_bias
from medgym_offline.online.networks import Adam
from medgym_offline.online.rollouts import Collected, collect, training_noise
from medgym_offline.online.soft_update import (
    check_capacity,
    first_critics,
    first_learner,
    improve_soft,
    soft_critic,
)
from medgym_offline.online.state import TrainState, load_state, save_state
from medgym_offline.online.update import Shapes, episode_numbers, improve
from medgym_offline.online.watching import live_numbers
from medgym_offline.progress import Progress
from medgym_offline.seeds import generator

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["TrainResult", "train"]

SHARED = "shared"


@dataclass(frozen=True)
class TrainResult:
    """A trained stack.

    Args:
        actor: The policies, deterministic action tanh(mean).
        log: Name -> `(updates, S or P)`: return, cost, decisions, first and last interval (hours), multiplier,
            kl, gain, accepted (TRPO) or clipped (PPO), alpha and entropy (SAC), value_loss.
        state: What training would go on from; of `train_behavior`, without a replay buffer.
        stopped: Patient id -> update at which a non-finite number ended its training.
    """

    actor: StackedActor
    log: dict[str, Tensor]
    state: TrainState
    stopped: dict[str, int]


def _initial_state(
    bank: SimulatorBank, process: ProcessConfig, config: TrainConfig, shapes: Shapes, initial: StackedActor | None
) -> TrainState:
    names = (SHARED,) if config.shared else bank.patients
    width = process.action_dim
    if initial is None:
        mean, std = [0.0] * width, [config.initial_std] * width
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
    if config.base == "sac":
        critic = first_critics(shapes.critic, config.seed, names)
        learner = first_learner(config, shapes, actor, critic)
    else:
        critic = shapes.critic.initial([generator(config.seed, "online-critic", name) for name in names])
        learner = {} if config.base == "trpo" else dict(vars(Adam.zeros(actor)))
    return TrainState(
        update=0,
        actor=actor,
        critic=critic,
        optimiser=Adam.zeros(critic),
        scale=torch.zeros(len(names), 2),
        multiplier=torch.zeros(len(names)),
        harm=torch.zeros(len(bank)),
        stopped=torch.full((len(bank),), -1, dtype=torch.int64),
        learner=learner,
    )


def _join(parts: Sequence[Collected]) -> Collected:
    if len(parts) == 1:
        return parts[0]
    names = Collected.__dataclass_fields__
    return Collected(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _update(
    processes: Sequence[tuple[slice, DecisionProcess]], config: TrainConfig, shapes: Shapes, state: TrainState
) -> dict[str, Tensor]:
    """One update of every policy; returns the log's next row."""
    learn = improve_soft if config.base == "sac" else improve
    numbers: list[dict[str, Tensor]] = []
    collected: list[Collected] = []
    for members, process in processes:
        bank = process.bank
        purpose = "online-shared" if config.shared else "online"
        noise = training_noise(config.seed, purpose, bank, process.config, state.update, config.episodes, config.event_updates)
        theta = state.actor if config.shared else state.actor[members]
        batch = collect(process, shapes.actor, theta, noise)
        row = episode_numbers(batch)
        if config.shared:
            collected.append(batch)
        else:
            row |= learn(config, shapes, state, members, members, batch, bank.patients)
        numbers.append(row)
    joined = {name: torch.cat([row[name] for row in numbers]) for name in numbers[0]}
    if config.shared:
        joined |= learn(config, shapes, state, slice(0, 1), slice(None), _join(collected), (SHARED,))
    state.update += 1
    return joined


def _recipe(bank: SimulatorBank, process: ProcessConfig, config: TrainConfig) -> dict[str, Any]:
    return {
        "config": config.to_dict(),
        "process": process.to_dict(),
        "bank": bank.content_hash,
        "world": bank.current_world,
        "patients": list(bank.patients),
    }


@own_defaults()
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
) -> TrainResult:
    """Train one policy per simulator of `bank`, or one for all of them.

    Args:
        bank: Simulators of S patients.
        process: Timing, budget, reward.
        config: Algorithm and its settings.
        initial: Start from these policies (a shared one is copied to every patient) instead of from scratch.
        checkpoint: File to resume from when it exists, written every `checkpoint_every` updates and at the end.
            A resumed run equals an uninterrupted one.
        checkpoint_every: Updates between checkpoints.
        shard: Simulators worked on at a time; results do not depend on it.
        progress: Show progress on standard error.
        watch: Called with the state after every update (to log, or to keep early policies); return True to stop.

    Raises:
        MedGymError: If the checkpoint is of another recipe, `initial` does not fit the process, or a replay buffer
            cannot hold one update.
    """
    check_capacity(config, len(bank), process.decisions)
    width, hidden, actions = process.observation_dim, config.hidden, process.action_dim
    critic = soft_critic(width, actions, hidden) if config.base == "sac" else critic_network(width, hidden)
    reference = process.definition.process.reference_interval
    shapes = Shapes(GaussianActor((width, hidden, hidden, actions)), critic, reference)
    recipe = _recipe(bank, process, config)
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_state(checkpoint, recipe)
    else:
        state = _initial_state(bank, process, config, shapes, initial)
    state = state.to(bank.device)
    processes = []
    for start in range(0, len(bank), shard):
        members = slice(start, min(start + shard, len(bank)))
        processes.append((members, DecisionProcess(bank.select(range(len(bank))[members]), process)))

    title = f"{config.algorithm} {process.timing}, {'one policy on' if config.shared else ''} {len(bank)} patients"
    with torch.no_grad(), Progress(title.replace("  ", " "), config.updates, enabled=progress) as bar:
        bar.advance(state.update)
        while state.update < config.updates:
            row = _update(processes, config, shapes, state)
            state.append(row)
            bar.advance(1, **live_numbers(row))
            done = state.update >= config.updates
            stop = bool(watch(state)) if watch is not None else False
            if checkpoint is not None and (done or stop or state.update % checkpoint_every == 0):
                save_state(checkpoint, state.without_replay() if done else state, recipe)
            if stop:
                break
    stopped = {bank.patients[i]: int(state.stopped[i]) for i in np.flatnonzero(state.stopped.cpu().numpy() >= 0)}
    provenance = {
        "training": config.to_dict(),
        "process": process.to_dict(),
        "updates": state.update,
        "stopped": stopped,
    }
    patients = None if config.shared else bank.patients
    actor = stacked_actor(shapes.actor, state.actor, patients, process.decisions, provenance, process.disease)
    return TrainResult(actor, state.log, state, stopped)
