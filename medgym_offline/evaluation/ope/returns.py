"""Returns of a policy by Monte Carlo in the simulators: the truth, and the model-based estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.evaluation.binding import BoundPolicy
from medgym_offline.evaluation.ope.estimators import discount_at_start

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["monte_carlo_returns"]

_EPISODES_AT_ONCE = 4000  # patients times episodes; bounds memory


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
