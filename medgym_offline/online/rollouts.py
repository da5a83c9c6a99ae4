"""Rollouts for training: whole episodes of every simulator, in lockstep, masked after their end.

All tensors are decision before episode, `(S, K, B, ..)` for S simulators, K decisions and B episodes: the recursion
of the advantages runs over K, and flattening to rows is free. There is no auto-reset: every episode starts at time 0
and ends in the terminal at the horizon, so each update sees equally many episodes whatever the policy's intervals.

Noise is drawn in blocks, one generator per (root, patient, update): a patient's rollouts are the same alone, in any
shard and after a resume.

Advantages (generalized advantage estimation) are for decisions of unequal length. With intervals dt_k the discount of
one decision is that of the time it takes, gamma_k = gamma^(dt_k / T), T the disease's reference interval (4.8 h in
sepsis: 96 h / 20, so that at K = 20 fixed it is the paper's gamma per decision). Then (Schulman et al., 2016,
arXiv:1506.02438, eq. 16, with a discount per step)

    delta_k = r_k + gamma_k V(s_{k+1}) - V(s_k)
    A_k     = delta_k + gamma_k lambda A_{k+1}

lambda decays per decision. Every episode ends in a true terminal at the horizon, where V = 0.

The replay buffer of soft actor-critic holds the decisions of episodes as rows of one tensor per policy. It keeps the
raw reward, and which simulator gave it: the mean harm that a row is learnt with is today's, not that of
the day it was collected. In float32 a row of sepsis takes about 100 bytes: 50,000 rows are 5 MB a policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import CLOCKS, FULL
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.rollout import EpisodeNoise
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.envs.views import Lens
from medgym_offline.online.networks import GaussianActor, Streams
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "Collected", "ContextualProcess", "Rows", "advantages", "append", "centered", "collect", "discounts", "draw_rows",
    "episode_numbers", "rows_of", "standardize", "training_noise",
]  # fmt: skip


class ContextualProcess(DecisionProcess):
    """A decision process whose observations hold, before the clocks, the embedding of the patient `(S, n)`."""

    def __init__(self, bank: SimulatorBank, config: ProcessConfig, embeddings: Tensor) -> None:
        super().__init__(bank, config)
        self.embeddings = embeddings.to(bank.lower)

    def observe(self, episodes: Episodes) -> Tensor:
        """Observations `(S, B, d + n)`."""
        seen = super().observe(episodes)
        told = self.embeddings[:, None].expand(-1, seen.shape[1], -1)
        return torch.cat([seen[..., : -len(CLOCKS)], told, seen[..., -len(CLOCKS) :]], -1)


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
    root: int, purpose: str, bank: SimulatorBank, config: ProcessConfig, update: int, episodes: int, cycle: int = 0
) -> EpisodeNoise:
    """Noise of one update, a block per patient from the stream (root, purpose, patient, update).

    With `cycle`, events are those of update `update` mod `cycle`.
    """
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
            source = generator(root, purpose, patient, update % cycle if cycle else update, "exogenous")
            rows.append(exogenous.draw(source, known, config.horizon, episodes))
        events = torch.from_numpy(np.asarray(rows, np.float32))
    measured = None
    if config.view != FULL:
        lens = Lens(config)
        tables = [
            [lens.draw(derive_seed(root, purpose, patient, update, episode)) for episode in range(episodes)]
            for patient in patients
        ]
        measured = torch.from_numpy(np.asarray(tables))
    first = first.reshape(len(patients), episodes, state_dim)
    process, action = (part.reshape(*shape, -1).transpose(1, 2) for part in (process, action))
    return EpisodeNoise(first, process, action, events, measured)


def collect(process: DecisionProcess, actor: GaussianActor, theta: Tensor, noise: EpisodeNoise) -> Collected:
    """Roll the stochastic policy out for one episode per noise row.

    Args:
        process: Decision process over a bank of S simulators.
        actor: Shape of the policy.
        theta: `(S, n)`, or `(1, n)`: one policy for all S.
        noise: Draws for B episodes of every simulator.
    """
    simulators, count, decisions, width = noise.action.shape
    device = theta.device
    std = actor.split(theta)[1].exp().unsqueeze(1)
    events, view = (None if part is None else part.to(device) for part in (noise.exogenous, noise.view))
    episodes = process.start(count, noise.initial.to(device), events, view)
    process_noise, action_noise = (part.to(device).transpose(1, 2) for part in (noise.process, noise.action))
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
        cost = outcome.cost if outcome.costs_path is None else outcome.costs_path[..., 0]
        bad = ~(torch.isfinite(outcome.reward) & torch.isfinite(cost)).all(-1)
        broken |= bad
        rewards[:, k], costs[:, k], dt[:, k], valid[:, k] = outcome.reward, cost, outcome.dt, running.float()
        running = running & ~outcome.terminated
        episodes = outcome.next
        if not bool(running.any()):
            break
    valid = valid * (~broken).view(-1, 1, 1)
    rewards, costs, dt = (torch.where(valid > 0, value, torch.zeros_like(value)) for value in (rewards, costs, dt))
    return Collected(observations, actions, action_noise, rewards, costs, dt, valid, broken)


def episode_numbers(batch: Collected) -> dict[str, Tensor]:
    """Per simulator `(S,)`: undiscounted return, cost per decision, decisions used, first and last interval."""
    used = batch.valid.sum((1, 2)).clamp_min(1.0)
    count = batch.valid.sum(1)
    last = (count.long() - 1).clamp_min(0).unsqueeze(1)
    return {
        "return": batch.rewards.sum(1).mean(-1),
        "cost": batch.costs.sum((1, 2)) / used,
        "decisions": count.mean(-1),
        "first": batch.dt[:, 0].mean(-1),
        "last": batch.dt.gather(1, last).squeeze(1).mean(-1),
    }


def discounts(dt: Tensor, gamma: float, reference: float) -> Tensor:
    """gamma^(dt / reference), shape of `dt`, which is in the unit of `reference`."""
    return torch.pow(torch.tensor(gamma, dtype=dt.dtype, device=dt.device), dt / reference)


def centered(rewards: Tensor, dt: Tensor, harm: Tensor) -> Tensor:
    """r + rho dt, with `harm` rho per unit of time `(S,)` and rewards, dt `(S, K, B)`.

    The intervals of an episode sum to the horizon, so the undiscounted return shifts by a constant and no policy
    changes rank. Without it every reward is negative, and a critic that under-fits what remains pays for short
    decisions: the policy burns its budget early and then holds.
    """
    return rewards + harm.view(-1, 1, 1) * dt


def advantages(rewards: Tensor, values: Tensor, discount: Tensor, valid: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Advantages and lambda-returns of whole episodes.

    Args:
        rewards: `(..., K, B)`, decision before episode.
        values: V(s_k), `(..., K, B)`.
        discount: Discount of each decision, `(..., K, B)`.
        valid: 1 where a decision was taken, 0 after the end of the episode, `(..., K, B)`.
        decay: lambda of GAE.

    Returns:
        `(A, A + V)`, both `(..., K, B)` and 0 where not valid.
    """
    decisions = rewards.shape[-2]
    found = torch.zeros_like(rewards)
    future_advantage = torch.zeros_like(rewards.select(-2, 0))
    future_value = torch.zeros_like(future_advantage)
    for k in range(decisions - 1, -1, -1):
        alive, value, shrink = valid.select(-2, k), values.select(-2, k), discount.select(-2, k)
        delta = rewards.select(-2, k) + shrink * future_value - value
        future_advantage = alive * (delta + shrink * decay * future_advantage)
        future_value = alive * value
        found.select(-2, k).copy_(future_advantage)
    return found, (found + values) * valid


def standardize(values: Tensor, weights: Tensor) -> Tensor:
    """`values (P, N)` with weighted mean 0 and standard deviation 1 per patient; 0 where the weight is 0.

    No standard deviation below 1e-6 is divided by, so that a constant advantage stays 0.

    Args:
        values: `(P, N)`.
        weights: `(P, N)`, non-negative, summing to 1 per patient.
    """
    mean = (values * weights).sum(-1, keepdim=True)
    shifted = values - mean
    spread = (shifted.square() * weights).sum(-1, keepdim=True).sqrt()
    return torch.where(weights > 0, shifted / spread.clamp_min(1e-6), torch.zeros_like(values))


@dataclass(frozen=True)
class Rows:
    """Decisions `(P, N, ..)`: `observations`, `following` (d), `actions` (A); `rewards`, `dt`, `ended`, and
    `simulators`, the number of the simulator among those of the policy; W = 2 d + A + 4 numbers each."""

    observations: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor
    dt: Tensor
    ended: Tensor
    simulators: Tensor

    def packed(self) -> Tensor:
        """One tensor `(P, N, W)`."""
        scalars = torch.stack([self.rewards, self.dt, self.ended, self.simulators], -1)
        return torch.cat([self.observations, self.actions, self.following, scalars], -1)

    @classmethod
    def unpacked(cls, rows: Tensor, observation_dim: int) -> Rows:
        """Inverse of :meth:`packed`."""
        action_dim = rows.shape[-1] - 2 * observation_dim - 4
        seen, action, following, scalars = rows.split([observation_dim, action_dim, observation_dim, 4], -1)
        return cls(seen, action, following, *scalars.unbind(-1))


def rows_of(batch: Collected, policies: int) -> tuple[Rows, Tensor]:
    """Rows `(P, R, ..)` of whole episodes of S simulators, and which are valid `(P, R)` bool.

    The last decision of an episode is terminal (the horizon).

    Args:
        batch: The episodes.
        policies: P: S, or 1 when all simulators are of one policy.
    """
    # The decision after the last one of the budget does not exist.
    following, goes_on = torch.zeros_like(batch.observations), torch.zeros_like(batch.valid)
    following[:, :-1], goes_on[:, :-1] = batch.observations[:, 1:], batch.valid[:, 1:]
    number = torch.arange(batch.valid.shape[0] // policies, device=batch.valid.device).repeat(policies)
    parts = (
        batch.observations,
        batch.actions,
        following * goes_on.unsqueeze(-1),
        batch.rewards,
        batch.dt,
        batch.valid * (1.0 - goes_on),
        number.to(batch.valid.dtype).view(-1, 1, 1).expand_as(batch.valid),
    )
    rows = Rows(*(part.reshape(policies, -1, *part.shape[3:]) for part in parts))
    return rows, (batch.valid > 0).reshape(policies, -1)


def append(buffer: Tensor, filled: Tensor, rows: Tensor, valid: Tensor) -> None:
    """Write the valid ones of `rows (P, R, W)` into `buffer (P, N, W)` and count them in `filled (P, 1)`, in place.

    `filled` counts all rows ever written; R must not be above N. `valid` is `(P, R)` bool.
    """
    place = (filled + valid.long().cumsum(1) - 1) % buffer.shape[1]
    policy, row = valid.nonzero(as_tuple=True)
    buffer[policy, place[policy, row]] = rows[policy, row]
    filled += valid.sum(1, keepdim=True)


def draw_rows(filled: Tensor, capacity: int, generators: Streams, count: int) -> Tensor:
    """Row numbers `(P, count)`, uniform with replacement over what each policy holds, from its own generator."""
    held = filled.flatten().clamp(1, capacity).tolist()
    return torch.from_numpy(np.stack([rng.integers(0, n, count) for rng, n in zip(generators, held)]))
