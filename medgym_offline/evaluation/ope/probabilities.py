"""Who could have taken the logged actions: the behavior's probabilities, and policies as they act perturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medgym_offline.datasets.behaviors import Behavior
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.errors import DatasetError, PolicyError
from medgym_offline.evaluation.binding import BoundPolicy, resolve_policy
from medgym_offline.evaluation.ope.density import PerturbedPolicy
from medgym_offline.evaluation.ope.logged import Logged

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["behavior_log_prob", "perturbed_policy"]

_FAR = 8.0  # standard deviations; one of 1e5 normal draws lies beyond with probability 1e-10


def behavior_log_prob(logged: Logged, recipe: Recipe, behavior: Behavior, bank: SimulatorBank) -> Tensor:
    """Log-probability of every logged action under the behavior, (P, E, K); of a mix, under the episode's own part.

    Raises:
        DatasetError: An action so far from the behavior's that it did not act here.
    """
    parts = behavior.parts or (behavior,)
    found = torch.zeros(logged.valid.shape, dtype=torch.float64)
    for i, part in enumerate(parts):
        rows = slice(i, None, len(parts))
        observations, actions = logged.observations[:, rows], logged.actions[:, rows]
        if not observations.shape[1]:
            continue
        bound = resolve_policy(part.policy, bank, recipe.timing, recipe.decisions, recipe.decisions)
        policy = PerturbedPolicy(bound, logged.patients, recipe.perturbation)
        flat = observations.flatten(1, 2)
        found[:, rows] = policy.log_prob(flat, actions.flatten(1, 2)).view(actions.shape[:3])
        if not policy.uniform:
            off = (actions - policy.mean(flat).view(actions.shape)).abs() * (actions.abs() < 1.0)
            if float((off * logged.valid[:, rows, :, None]).max()) > _FAR * recipe.perturbation:
                raise DatasetError(
                    f"{recipe.id}: actions lie more than {_FAR:g} perturbations from those of behavior {part.name!r}, "
                    "which therefore did not act here; generate the dataset again"
                )
    return found


def perturbed_policy(bound: BoundPolicy, patients: tuple[str, ...], sigma: float, logged: Logged) -> PerturbedPolicy:
    """The policy with noise; refused if its actions depend on more than the observation."""
    policy = PerturbedPolicy(bound, patients, sigma)
    if not policy.uniform:
        first = logged.observations[:, :, 0]
        again = policy.mean(first.flip(1)).flip(1)
        if not torch.allclose(policy.mean(first), again, atol=1e-4):
            raise PolicyError(
                f"policy {bound.name!r} answers the same observations differently; off-policy evaluation needs a "
                "function of the observation (or the built-in random policy)"
            )
    return policy
