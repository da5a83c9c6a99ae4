"""A policy as it acts with perturbed actions: its probabilities, and its returns by Monte Carlo in the simulators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.errors import PolicyError
from medgym_offline.evaluation.binding import BoundPolicy, require_repeatable
from medgym_offline.evaluation.ope.estimators import discount_at_start
from medgym_offline.policies.builtin import RandomPolicy
from medgym_offline.policies.density import clipped_normal_log_prob, clipped_uniform_log_prob
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["PerturbedPolicy", "monte_carlo_returns", "perturbed_policy"]

_EPISODES_AT_ONCE = 4000  # patients times episodes; bounds memory


@dataclass(frozen=True)
class PerturbedPolicy:
    """A policy as it acts with perturbed actions: clip(act(o) + sigma*N, -1, 1).

    The built-in random policy is uniform in the box before the noise; every other must be a function of the
    observation.

    Attributes:
        bound: The policy.
        patients: P ids, in the order of the patient axis.
        sigma: Standard deviation of the perturbation, above 0.
    """

    bound: BoundPolicy
    patients: tuple[str, ...]
    sigma: float

    @property
    def uniform(self) -> bool:
        """Whether the action before the noise is uniform in [-1, 1]^A."""
        return isinstance(self.bound.policy, RandomPolicy)

    def mean(self, observations: Tensor) -> Tensor:
        """Actions before the noise: (P, B, d) -> (P, B, A); not for the uniform policy."""
        seeds = np.zeros(observations.shape[:2], dtype=np.int64)
        return self.bound.act_on(self.patients, seeds)(observations)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of executed actions: (P, B, d), (P, B, A) -> (P, B), float64."""
        if self.uniform:
            return clipped_uniform_log_prob(actions, self.sigma)
        return clipped_normal_log_prob(actions, self.mean(observations), self.sigma)

    def sample(self, mean: Tensor | None, normal: Tensor, uniform: Tensor) -> Tensor:
        """Actions from what :meth:`mean` gave (None for the uniform policy) and noise, all (..., A)."""
        center = uniform if mean is None else mean
        return (center + self.sigma * normal).clamp(-1.0, 1.0)


def perturbed_policy(bound: BoundPolicy, patients: tuple[str, ...], sigma: float) -> PerturbedPolicy:
    """The policy with noise; `PolicyError` if its actions depend on more than the observation."""
    if (history := getattr(bound.policy, "history", 1)) > 1:
        needs = "off-policy evaluation needs a function of the observation: train it with history=1"
        raise PolicyError(f"policy {bound.name!r} acts on history={history} observations; {needs}")
    require_repeatable(bound, patients)
    return PerturbedPolicy(bound, patients, sigma)


def monte_carlo_returns(
    bound: BoundPolicy,
    bank: SimulatorBank,
    config: ProcessConfig,
    episodes: int,
    sigma: float,
    gamma: float,
    seed: int,
    purpose: str,
) -> Tensor:
    """Discounted returns (P, B), float64, of `episodes` episodes per patient with perturbed actions.

    Args:
        bound: The policy.
        bank: P patients, in the world to play in.
        config: The decision process.
        episodes: B.
        sigma: Standard deviation of the perturbation; 0 for the policy as it is.
        gamma: Discount per unit of time.
        seed, purpose: Root of the episodes' seeds; estimates and truths must not share episodes.
    """
    seeds = episode_seeds(seed, purpose, bank.patients, episodes)
    process = DecisionProcess(bank, config)
    parts = []
    step = max(1, _EPISODES_AT_ONCE // len(bank))
    for start in range(0, episodes, step):
        block = seeds[:, start : start + step]
        noise = draw_noise(block, bank, config)
        played = rollout(process, bound.act_on(bank.patients, block), noise, sigma)
        discount = discount_at_start(played.dt.double(), gamma)
        parts.append((discount * played.rewards.double() * played.valid).sum(-1))
    return torch.cat(parts, 1)
