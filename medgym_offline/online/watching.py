"""What is watched during training: policies of the way, early stop of each policy, and early-stopped policies.

:func:`keep_way` and :func:`keep_patient` keep parameters of earlier updates in the state, which is what a checkpoint
holds, so that a killed and resumed run ends with the same ones.

An early-stopped policy is part of the way from random to expert, per patient:

    share(policy) = (J(policy) - J(random)) / (J(expert) - J(random))

J is the mean return of deterministic actions over a few episodes of the patient's own simulator, every policy meeting
the same noise. Among the parameters along a training run, up to the first that passes the wanted share, the one nearest
to it is taken; for a policy per patient each patient has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import EpisodeNoise, draw_noise, episode_seeds, rollout
from medgym_offline.online.learner import TrainState
from medgym_offline.online.networks import GaussianActor
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.builtin import builtin_policy
from medgym_offline.policies.protocol import reset_policy
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Gap", "Passing", "keep_patient", "keep_way", "nearest_to_share", "rounded", "way_of", "way_updates"]

WINDOW = 10
"""Updates of the running mean that early stop looks at."""
_WAY = "way."


def way_updates(updates: int) -> tuple[int, ...]:
    """Updates after which the way is recorded: 1, 2, .., about a quarter further each time, up to `updates`."""
    found = [1]
    while found[-1] < updates:
        found.append(min(updates, max(found[-1] + 1, round(1.25 * found[-1]))))
    return tuple(found)


def keep_way(state: TrainState, updates: int) -> None:
    """Keep the parameters of `state` if its update is one of :func:`way_updates`."""
    if state.update in way_updates(updates):
        state.kept[f"{_WAY}{state.update}"] = state.actor.detach().cpu().clone()


def way_of(kept: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Update -> parameters `(P, n)`, in order, of what a state has kept."""
    found = {int(name.removeprefix(_WAY)): theta for name, theta in kept.items() if name.startswith(_WAY)}
    return dict(sorted(found.items()))


def keep_patient(state: TrainState, updates: int) -> bool:
    """Stop each policy by itself, with the parameters of the update at which its return stopped growing.

    The return is the running mean over :data:`WINDOW` updates of the policy's simulators. The training of a stack ends
    when every policy of it has stopped; until then the parameters of those that have are kept, so that a patient's
    policy does not depend on its stack mates. Kept are `stopped_at (P,)`, the update or -1, and `stopped_actor (P, n)`.

    Args:
        state: Looked at after every update.
        updates: Updates without a better running mean after which a policy stops.

    Returns:
        Whether every policy has stopped.
    """
    kept, count = state.kept, len(state.actor)
    at = kept.setdefault("stopped_at", torch.full((count,), -1, dtype=torch.int64))
    actor = kept.setdefault("stopped_actor", torch.zeros_like(state.actor, device="cpu"))
    stops = (at < 0) & (_waited(state.log["return"].double(), count) >= updates)
    actor[stops] = state.actor.detach().cpu()[stops]
    at[stops] = state.update
    return bool((at >= 0).all())


def _waited(returns: Tensor, policies: int) -> Tensor:
    """Updates since the best running mean of returns (updates, S), `(P,)`."""
    if policies == 1:
        returns = returns.nanmean(1, keepdim=True)
    count = len(returns) - WINDOW + 1
    if count < 1:
        return torch.zeros(policies, dtype=torch.int64)
    return count - 1 - returns.nan_to_num(-torch.inf).unfold(0, WINDOW, 1).mean(-1).argmax(0)


def rounded(theta: Tensor) -> Tensor:
    """`theta` as its float16 file gives it back; early policies are chosen by what is shipped."""
    return theta.to(torch.float16).to(torch.float32)


@dataclass(frozen=True)
class Gap:
    """Returns of random and expert on each simulator `(P,)`, and what it takes to place another policy between them."""

    process: DecisionProcess
    shape: GaussianActor
    noise: EpisodeNoise
    random: np.ndarray
    expert: np.ndarray

    @classmethod
    def measure(cls, bank: SimulatorBank, config: ProcessConfig, expert: StackedActor, seed: int, episodes: int) -> Gap:
        """Roll random and `expert` out on every simulator of `bank`."""
        seeds = episode_seeds(seed, "behaviour-gap", bank.patients, episodes)
        noise, decisions = draw_noise(seeds, bank, config), DecisionProcess(bank, config)
        random = builtin_policy("random", bank, config.timing, config.decisions)
        reset_policy(random, seeds)
        chosen = expert.select(bank.patients).to(bank.device)
        ends = [_mean_returns(decisions, policy.act, noise) for policy in (random, chosen)]
        return cls(decisions, GaussianActor(tuple(expert.net.sizes)), noise, *ends)

    def returns(self, theta: Tensor) -> np.ndarray:
        """Mean return `(P,)` of the deterministic policies `theta (P, n)`, or one for all `(1, n)`."""

        def act(observations: Tensor) -> Tensor:
            rows = observations.reshape(len(theta), -1, observations.shape[-1])
            return torch.tanh(self.shape.mean(theta, rows)).view(*observations.shape[:2], -1)

        return _mean_returns(self.process, act, self.noise)

    def share(self, returns: np.ndarray) -> np.ndarray:
        """Share of the gap of each simulator `(P,)`."""
        return (returns - self.random) / np.where(self.expert > self.random, self.expert - self.random, np.nan)

    def mean_share(self, returns: np.ndarray) -> float:
        """Share of the gap between the mean returns."""
        return float((returns.mean() - self.random.mean()) / (self.expert.mean() - self.random.mean()))


def _mean_returns(process: DecisionProcess, act: object, noise: EpisodeNoise) -> np.ndarray:
    played = rollout(process, act, noise)  # type: ignore[arg-type]
    return played.rewards.double().sum(-1).mean(-1).cpu().numpy()


class Passing:
    """Watches a training and keeps, per patient, the parameters nearest to `share` up to the first that pass it."""

    def __init__(self, gap: Gap, share: float):
        self.gap, self.wanted = gap, share
        self.theta: Tensor | None = None
        self.share: np.ndarray = np.full(len(gap.random), -np.inf)
        self.update: np.ndarray = np.zeros(len(gap.random), np.int64)
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


def nearest_to_share(gap: Gap, way: Mapping[int, Tensor], shares: Sequence[float]) -> list[tuple[int, Tensor, float]]:
    """For each wanted share `(update, parameters (1, n), share reached)` along the `way` of one shared policy.

    The return is the mean over the simulators of `gap`. Updates after the first that reaches a share are not looked at
    for it.
    """
    device = gap.process.bank.device
    reached = {update: gap.mean_share(gap.returns(rounded(theta).to(device))) for update, theta in way.items()}
    found = []
    for wanted in shares:
        passing = next((u for u, value in reached.items() if value >= wanted), max(reached))
        best = min((u for u in reached if u <= passing), key=lambda u: abs(reached[u] - wanted))
        found.append((best, rounded(way[best]), reached[best]))
    return found
