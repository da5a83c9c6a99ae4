"""Importance-sampling and doubly robust estimates, for P patients at once, and how good they are; tensors float64.

    t_k      time of decision k,  dt_k how long it held,  T length of the episode
    D_k      gamma**t_k,  gamma per unit of time (1: undiscounted)
    rho_k    product over j <= k of pi(a_j|s_j) / mu(a_j|s_j); after an episode's end it keeps its last value
    w_k      rho_k / sum over the patient's episodes of rho_k

    PDIS = mean_e sum_k D_k rho_k r_k                           unbiased; its variance grows with the product
    WIS  = sum_k D_k sum_e w_k r_k                              consistent, bounded by the data
    DR   = mean_e V(s_0) + sum_k D_k sum_e w_k [ r_k + gamma**dt_k V(s_{k+1}) - Q(s_k, a_k) ],   V = 0 at the end

DR with rho_k / E in place of w_k is the unbiased doubly robust estimate; with w_k it is the weighted one, which is what
the audit reports. The discount is a function of time alone: splitting a hold changes no discount that comes after
it. The reward of a hold counts at the hold's start, in truth and estimates alike.

Sources: Precup, Sutton and Singh 2000 (per-decision, weighted); Jiang and Li 2016 (DR); Thomas and Brunskill 2016 (its
weighted form).

A policy is estimated as it acts with perturbed actions (:class:`PerturbedPolicy`), from a dataset as a grid of episodes
(:class:`Logged`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.errors import DatasetError, PolicyError
from medgym_offline.evaluation.binding import BoundPolicy, require_repeatable
from medgym_offline.policies.builtin import RandomPolicy
from medgym_offline.policies.protocol import clipped_normal_log_prob, clipped_uniform_log_prob
from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "Logged", "PerturbedPolicy", "discount_at_start", "doubly_robust", "effective_sample_size", "episode_grid",
    "log_ratios", "monte_carlo_returns", "per_decision", "rank_correlation", "regret_at", "score_estimates",
    "self_normalized",
]  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Logged:
    """P x E episodes of at most K decisions; rows after the end of an episode are 0 and not valid.

    Attributes:
        patients: P ids.
        observations, next_observations: (P, E, K, d), float32.
        actions: As executed (P, E, K, A), float32.
        rewards, dt, behavior_log_prob: (P, E, K), float64; dt in the disease's unit of time.
        valid: (P, E, K), bool.
    """

    patients: tuple[str, ...]
    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    rewards: Tensor
    dt: Tensor
    behavior_log_prob: Tensor
    valid: Tensor


def episode_grid(transitions: Transitions, patients: Sequence[str] | None = None) -> Logged:
    """The grid of a dataset, episodes of a patient in the order of their numbers.

    Args:
        transitions: The dataset.
        patients: Ids; None takes those that have episodes.

    Raises:
        DatasetError: Patients with different numbers of episodes.
        UnknownNameError: No such patient, or one without episodes.
    """
    transitions.validate()
    name = transitions.dataset_id or "transitions"
    positions = transitions.resolve(patients)
    ids = tuple(transitions.patients[p] for p in positions)
    starts = transitions.episode_starts()
    lengths = np.diff(np.r_[starts, len(transitions)])
    owner = transitions.patient[starts]
    groups = [np.flatnonzero(owner == p) for p in positions]
    for patient, group in zip(ids, groups):
        if len(group) != len(groups[0]):
            counts = f"patient {patient} has {len(group)} episodes, {ids[0]} has {len(groups[0])}"
            needs = "off-policy evaluation needs as many for everyone: choose other --patients"
            raise DatasetError(f"{name}: {counts}; {needs}, or generate the dataset again")
    if not groups:
        raise DatasetError(f"{name}: no episodes; generate the dataset again")
    chosen = np.stack(groups)
    offset = np.arange(int(lengths[chosen].max()))
    valid = offset < lengths[chosen][..., None]
    rows = np.where(valid, starts[chosen][..., None] + offset, 0)

    def grid(values: np.ndarray) -> Tensor:
        found = values[rows]
        found[~valid] = 0
        return torch.from_numpy(found)

    return Logged(
        ids,
        grid(transitions.observations),
        grid(transitions.next_observations),
        grid(transitions.actions),
        grid(transitions.rewards).double(),
        grid(transitions.dt).double(),
        grid(transitions.behavior_log_prob).double(),
        torch.from_numpy(valid),
    )


def discount_at_start(dt: Tensor, gamma: float) -> Tensor:
    """D_k of holds of length `dt`, (..., K) -> (..., K)."""
    return gamma ** (dt.cumsum(-1) - dt)


def log_ratios(log_target: Tensor, log_behavior: Tensor, valid: Tensor) -> Tensor:
    """log rho_k from the log-probabilities of the decisions, all (P, E, K)."""
    return torch.where(valid, log_target - log_behavior, 0.0).cumsum(-1)


def self_normalized(log_rho: Tensor) -> Tensor:
    """w_k, (P, E, K): sums to 1 over a patient's episodes, without overflow."""
    return torch.softmax(log_rho, 1)


def effective_sample_size(log_rho: Tensor) -> Tensor:
    """1 / sum_e w^2 of the whole episodes' weights, (P, E, K) -> (P,): E if all alike, 1 if one episode decides."""
    return 1.0 / self_normalized(log_rho)[..., -1].square().sum(1)


def per_decision(rewards: Tensor, weights: Tensor, discount: Tensor) -> Tensor:
    """PDIS with plain weights, WIS with normalized ones: (P, E, K) each -> (P,)."""
    return (discount * weights * rewards).sum((1, 2))


def doubly_robust(
    rewards: Tensor, dt: Tensor, valid: Tensor, weights: Tensor, gamma: float, q: Tensor, v: Tensor, v_next: Tensor
) -> Tensor:
    """DR of the module's docstring.

    Args:
        rewards, dt, valid, weights: (P, E, K).
        gamma: Per unit of time.
        q: Q(s_k, a_k) of the logged actions (P, E, K).
        v, v_next: V before and after each decision (P, E, K); `v_next` is 0 where the episode ends.

    Returns:
        (P,).
    """
    error = torch.where(valid, rewards + gamma**dt * v_next - q, 0.0)
    return v[:, :, 0].mean(1) + (discount_at_start(dt, gamma) * weights * error).sum((1, 2))


def rank_correlation(estimates: Array, truth: Array) -> float | None:
    """Spearman's rank correlation of (N,) and (N,); None where it is not defined (one policy, or all equal)."""
    from scipy.stats import spearmanr

    if len(truth) < 2 or np.ptp(estimates) == 0 or np.ptp(truth) == 0:
        return None
    return float(spearmanr(estimates, truth).statistic)


def regret_at(k: int, estimates: Array, truth: Array) -> float:
    """What is lost by taking the best of the k policies that look best: max truth - max truth among those; >= 0."""
    chosen = np.argsort(-estimates, kind="stable")[:k]
    return float(truth.max() - truth[chosen].max())


def score_estimates(estimates: Array, truth: Array, top: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Scores of one estimator.

    Args:
        estimates, truth: (N, P): policies by patients.
        top: The k of regret@k; those above N are left out.

    Returns:
        "absolute_error": of the policies' values (mean over patients), mean over policies; "patient_error": of the
        patients' own values, mean over both; "rank_correlation" and "regret@k" of the policies' values;
        "patient_rank_correlation": mean over the patients for whom it is defined.
    """
    value, true = estimates.mean(1), truth.mean(1)
    own = [rank_correlation(estimates[:, p], truth[:, p]) for p in range(truth.shape[1])]
    defined = [r for r in own if r is not None]
    return {
        "absolute_error": float(np.abs(value - true).mean()),
        "patient_error": float(np.abs(estimates - truth).mean()),
        "rank_correlation": rank_correlation(value, true),
        "patient_rank_correlation": float(np.mean(defined)) if defined else None,
        **{f"regret@{k}": regret_at(k, value, true) for k in top if k <= len(value)},
    }


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

    Raises:
        PolicyError: Its actions depend on more than the observation.
    """

    bound: BoundPolicy
    patients: tuple[str, ...]
    sigma: float

    def __post_init__(self) -> None:
        if (history := getattr(self.bound.policy, "history", 1)) > 1:
            needs = "off-policy evaluation needs a function of the observation: train it with history=1"
            raise PolicyError(f"policy {self.bound.name!r} acts on history={history} observations; {needs}")
        require_repeatable(self.bound, self.patients)

    def mean(self, observations: Tensor) -> Tensor | None:
        """Actions before the noise: (P, B, d) -> (P, B, A); None where they are uniform in [-1, 1]^A."""
        if isinstance(self.bound.policy, RandomPolicy):
            return None
        seeds = np.zeros(observations.shape[:2], dtype=np.int64)
        return self.bound.act_on(self.patients, seeds)(observations)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of executed actions: (P, B, d), (P, B, A) -> (P, B), float64."""
        if (mean := self.mean(observations)) is None:
            return clipped_uniform_log_prob(actions, self.sigma)
        return clipped_normal_log_prob(actions, mean, self.sigma)

    def sample(self, mean: Tensor | None, normal: Tensor, uniform: Tensor) -> Tensor:
        """Actions from what :meth:`mean` gave (None for the uniform policy) and noise, all (..., A)."""
        center = uniform if mean is None else mean
        return (center + self.sigma * normal).clamp(-1.0, 1.0)


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
