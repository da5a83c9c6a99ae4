"""Early-stopped policies: those part of the way from random to expert, per patient.

    share(policy) = (J(policy) - J(random)) / (J(expert) - J(random))

J is the mean return of deterministic actions over a few episodes of the patient's own simulator, every policy meeting
the same noise. Among the parameters along a training run, up to the first that passes the wanted share, the one nearest
to it is taken; for a policy per patient each patient has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import EpisodeNoise, draw_noise, episode_seeds, rollout
from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.state import TrainState
from medgym_offline.policies.protocol import reset_policy

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Gap", "Passing", "nearest_to_share", "rounded"]

_PURPOSE = "behaviour-gap"


def rounded(theta: Tensor) -> Tensor:
    """`theta` as its float16 file gives it back; early policies are chosen by what is shipped."""
    return theta.to(torch.float16).to(torch.float32)


@dataclass(frozen=True)
class Gap:
    """Returns of random and expert on each simulator `(P,)`, and what it takes to place another policy between them."""

    bank: SimulatorBank
    process: ProcessConfig
    shape: GaussianActor
    noise: EpisodeNoise
    random: np.ndarray
    expert: np.ndarray

    @classmethod
    def measure(
        cls, bank: SimulatorBank, process: ProcessConfig, expert: StackedActor, seed: int, episodes: int
    ) -> Gap:
        """Roll random and `expert` out on every simulator of `bank`."""
        from medgym_offline.policies.builtin import builtin_policy

        seeds = episode_seeds(seed, _PURPOSE, bank.patients, episodes)
        noise = draw_noise(seeds, bank, process)
        decisions = DecisionProcess(bank, process)
        random = builtin_policy("random", bank, process.timing, process.decisions)
        reset_policy(random, seeds)
        chosen = expert.select(bank.patients).to(bank.device)
        returns = [
            rollout(decisions, policy.act, noise).rewards.double().sum(-1).mean(-1).cpu().numpy()
            for policy in (random, chosen)
        ]
        return cls(bank, process, GaussianActor(tuple(expert.net.sizes)), noise, returns[0], returns[1])

    def returns(self, theta: Tensor) -> np.ndarray:
        """Mean return `(P,)` of the deterministic policies `theta (P, n)`, or one for all `(1, n)`."""
        count = theta.shape[0]

        def act(observations: Tensor) -> Tensor:
            rows = observations.reshape(count, -1, observations.shape[-1])
            return torch.tanh(self.shape.mean(theta, rows)).view(*observations.shape[:2], -1)

        played = rollout(DecisionProcess(self.bank, self.process), act, self.noise)
        return played.rewards.double().sum(-1).mean(-1).cpu().numpy()

    def share(self, returns: np.ndarray) -> np.ndarray:
        """Share of the gap of each simulator `(P,)`."""
        return (returns - self.random) / np.where(self.expert > self.random, self.expert - self.random, np.nan)

    def mean_share(self, returns: np.ndarray) -> float:
        """Share of the gap between the mean returns."""
        return float((returns.mean() - self.random.mean()) / (self.expert.mean() - self.random.mean()))


class Passing:
    """Watches a training and keeps, per patient, the parameters nearest to `share` up to the first that pass it."""

    def __init__(self, gap: Gap, share: float):
        self.gap, self.wanted = gap, share
        self.theta: Tensor | None = None
        count = len(gap.bank)
        self.share: np.ndarray = np.full(count, -np.inf)
        self.update: np.ndarray = np.zeros(count, np.int64)
        # Where the expert is not above random there is no gap: the first policy stays.
        self.passed = ~(gap.expert > gap.random)

    def __call__(self, state: TrainState) -> bool:
        """Look at `state`; True when every patient has passed."""
        theta = rounded(state.actor)
        now = np.nan_to_num(self.gap.share(self.gap.returns(theta)), nan=0.0)
        if self.theta is None:
            self.theta, nearer = theta.clone(), np.full(now.shape, True)
        else:
            nearer = ~self.passed & (np.abs(now - self.wanted) < np.abs(self.share - self.wanted))
        rows = torch.from_numpy(nearer).to(theta.device)
        self.theta = torch.where(rows.unsqueeze(1), theta, self.theta)
        self.share, self.update = np.where(nearer, now, self.share), np.where(nearer, state.update, self.update)
        self.passed |= now >= self.wanted
        return bool(self.passed.all())


def nearest_to_share(gap: Gap, way: Mapping[int, Tensor], shares: list[float]) -> list[tuple[int, Tensor, float]]:
    """For each wanted share `(update, parameters (1, n), share reached)` along the `way` of one shared policy.

    The return is the mean over the simulators of `gap`. Updates after the first that reaches a share are not looked at
    for it.
    """
    reached = {update: gap.mean_share(gap.returns(rounded(theta).to(gap.bank.device))) for update, theta in way.items()}
    found = []
    for wanted in shares:
        passing = next((u for u, value in reached.items() if value >= wanted), max(reached))
        best = min((u for u in reached if u <= passing), key=lambda u: abs(reached[u] - wanted))
        found.append((best, rounded(way[best]), reached[best]))
    return found
