"""A policy as it acts with perturbed actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medgym_offline.errors import PolicyError
from medgym_offline.evaluation.binding import BoundPolicy, require_repeatable
from medgym_offline.policies.builtin import RandomPolicy
from medgym_offline.policies.density import clipped_normal_log_prob, clipped_uniform_log_prob

__all__ = ["PerturbedPolicy", "perturbed_policy"]


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
        raise PolicyError(
            f"policy {bound.name!r} acts on history={history} observations; off-policy evaluation needs a function of "
            "the observation: train it with history=1"
        )
    require_repeatable(bound, patients)
    return PerturbedPolicy(bound, patients, sigma)
