"""Rollouts for training: whole episodes of every simulator, in lockstep, masked after their end.

All tensors are decision before episode, `(S, K, B, ..)` for S simulators, K decisions and B episodes: the recursion
of the advantages runs over K, and flattening to rows is free. There is no auto-reset: every episode starts at time 0
and ends in the terminal at the horizon, so each update sees the same number of episodes whatever the policy's intervals.

Noise is drawn in blocks, one generator per (root, patient, update): a patient's rollouts are the same alone, in any
shard and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.seeds import generator

if TYPE_CHECKING:
    from medgym_offline.envs.process import DecisionProcess, ProcessConfig
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Collected", "TrainingNoise", "collect", "training_noise"]


@dataclass(frozen=True)
class TrainingNoise:
    """Standard normal draws: `initial (S, B, D)`, `process (S, K, B, D)`, `action (S, K, B, A)`; events (S, B, F)."""

    initial: Tensor
    process: Tensor
    action: Tensor
    exogenous: Tensor | None = None


@dataclass(frozen=True)
class Collected:
    """Episodes of S simulators.

    Args:
        observations: `(S, K, B, d)`.
        actions: In [-1, 1], `(S, K, B, A)`.
        noise: Standard normal draws behind the actions, `(S, K, B, A)`.
        rewards, costs: `(S, K, B)`, 0 where not valid.
        dt: `(S, K, B)`, 0 where not valid.
        valid: 1 where a decision was taken, else 0, `(S, K, B)`.
        broken: `(S,)` bool: the simulator produced a non-finite number; its rows are not valid.
    """

    observations: Tensor
    actions: Tensor
    noise: Tensor
    rewards: Tensor
    costs: Tensor
    dt: Tensor
    valid: Tensor
    broken: Tensor


def training_noise(
    root: int, purpose: str, bank: SimulatorBank, config: ProcessConfig, update: int, episodes: int
) -> TrainingNoise:
    """Noise of one update, a block per patient from the stream (root, purpose, patient, update)."""
    patients, decisions, state_dim, action_dim = bank.patients, config.decisions, bank.state_dim, config.action_dim
    width = state_dim + decisions * (state_dim + action_dim)
    block = np.empty((len(patients), width * episodes), dtype=np.float32)
    for row, patient in zip(block, patients):
        generator(root, purpose, patient, update).standard_normal(out=row, dtype=np.float32)
    drawn = torch.from_numpy(block)
    sizes = [state_dim, decisions * state_dim, decisions * action_dim]
    first, process, action = drawn.split([size * episodes for size in sizes], dim=1)
    shape = (len(patients), decisions, episodes)
    events = None
    if (exogenous := bank.disease.exogenous) is not None:
        context = bank.context.double().cpu().numpy()
        rows = []
        for known, patient in zip(context, patients):
            source = generator(root, purpose, patient, update, "exogenous")
            rows.append(exogenous.draw(source, known, config.horizon, episodes))
        events = torch.from_numpy(np.asarray(rows, np.float32))
    return TrainingNoise(
        first.reshape(len(patients), episodes, state_dim),
        process.reshape(*shape, state_dim),
        action.reshape(*shape, action_dim),
        events,
    )


def collect(process: DecisionProcess, actor: GaussianActor, theta: Tensor, noise: TrainingNoise) -> Collected:
    """Roll the stochastic policy out for one episode per noise row.

    Args:
        process: Decision process over a bank of S simulators.
        actor: Shape of the policy.
        theta: `(S, n)`, or `(1, n)`: one policy for all S.
        noise: Draws for B episodes of every simulator.
    """
    simulators, decisions, count, width = noise.action.shape
    device = theta.device
    std = actor.split(theta)[1].exp().unsqueeze(1)
    events = None if noise.exogenous is None else noise.exogenous.to(device)
    episodes = process.start(count, noise.initial.to(device), events)
    process_noise, action_noise = noise.process.to(device), noise.action.to(device)
    first = process.observe(episodes)
    observations = first.new_zeros(simulators, decisions, count, first.shape[-1])
    actions = torch.zeros_like(action_noise)
    rewards, costs, dt, valid = (first.new_zeros(simulators, decisions, count) for _ in range(4))
    broken = torch.zeros(simulators, dtype=torch.bool, device=device)
    running = torch.ones(simulators, count, dtype=torch.bool, device=device)
    for k in range(decisions):
        seen = process.observe(episodes) if k else first
        broken |= ~torch.isfinite(seen).flatten(1).all(-1)
        seen = seen.nan_to_num(0.0, 0.0, 0.0)
        observations[:, k] = seen
        mean = actor.mean(theta, seen.reshape(theta.shape[0], -1, seen.shape[-1])).view(simulators, count, width)
        broken |= ~torch.isfinite(mean).flatten(1).all(-1)
        action = actions[:, k] = torch.tanh(mean + std * action_noise[:, k]).nan_to_num(0.0)
        outcome = process.step(episodes, action, process_noise[:, k])
        bad = ~(torch.isfinite(outcome.reward) & torch.isfinite(outcome.cost)).all(-1)
        broken |= bad
        rewards[:, k], costs[:, k], dt[:, k], valid[:, k] = outcome.reward, outcome.cost, outcome.dt, running.float()
        running = running & ~outcome.terminated
        episodes = outcome.next
        if not bool(running.any()):
            break
    valid = valid * (~broken).view(-1, 1, 1)
    used = valid > 0
    zero = torch.zeros_like(rewards)
    return Collected(
        observations,
        actions,
        action_noise,
        torch.where(used, rewards, zero),
        torch.where(used, costs, zero),
        torch.where(used, dt, zero),
        valid,
        broken,
    )
