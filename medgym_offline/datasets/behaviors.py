"""The policies that a recipe names, and their rollouts."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import DatasetError, unknown_name
from medgym_offline.files import POLICY_SUFFIXES, sha256_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from medgym_offline.envs.process import ProcessConfig
    from medgym_offline.envs.rollout import Rollout
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Behavior", "action_log_prob", "play", "process_config", "recipe_behavior", "resolve_behavior"]

BUILTINS = ("random", "zero", "max", "clinician")
SCOPES = ("ind", "dr", "pop", "ind-scratch", "oracle")
"""Fully trained policies of a bank."""


@dataclass(frozen=True)
class Behavior:
    """A policy that acts in a dataset, or several that take turns.

    Attributes:
        name: As the recipe names it.
        digest: SHA-256 of its file, or `builtin:<name>`; of a mix, the SHA-256 of those of its parts.
        policy: A `medgym_offline.policies.Policy`; None for a mix.
        parts: Of a mix: part e mod n plays episode e of every patient.
    """

    name: str
    digest: str
    policy: Any
    parts: tuple[Behavior, ...] = ()

    def for_patients(self, patients: Sequence[str], precision: torch.dtype | None = None) -> Any:
        """The policy for these ids, in this order; one of our own in `precision` (its own if None)."""
        if self.parts:
            return _Turns([part.for_patients(patients, precision) for part in self.parts])
        policy = self.policy
        if policy.patients is not None and tuple(policy.patients) != tuple(patients):
            policy = policy.select(list(patients))
        from medgym_offline.policies.actor import StackedActor

        # Policies of other makers take float32 and are left as they are.
        return copy.deepcopy(policy).to(precision) if precision and isinstance(policy, StackedActor) else policy

    def select(self, patients: Sequence[str]) -> Behavior:
        """The same behavior for these patients alone (smaller to send to a worker)."""
        policy = None if self.parts else self.for_patients(patients)
        return Behavior(self.name, self.digest, policy, tuple(part.select(patients) for part in self.parts))

    def starting_at(self, number: int) -> Behavior:
        """The same behavior where the first episode it is shown is a patient's episode of this number."""
        first = number % max(len(self.parts), 1)
        return dataclasses.replace(self, parts=self.parts[first:] + self.parts[:first])

    def to_json(self) -> dict[str, Any]:
        """Name and digest, as the manifest has them."""
        found: dict[str, Any] = {"name": self.name, "sha256": self.digest}
        return found | ({"parts": [part.to_json() for part in self.parts]} if self.parts else {})


class _Turns:
    """Policies that take turns along the axis of episodes: policy i acts in columns i, i + n, i + 2n, ..."""

    def __init__(self, policies: Sequence[Any]):
        self.policies = list(policies)

    def _turns(self, episodes: int) -> list[tuple[Any, slice]]:
        """Each policy that acts in so many episodes, and its columns."""
        count = len(self.policies)
        return [(policy, slice(i, None, count)) for i, policy in enumerate(self.policies[:episodes])]

    def reset(self, seeds: np.ndarray) -> None:
        """Give every policy the seeds of its own episodes."""
        from medgym_offline.policies.protocol import reset_policy

        for policy, own in self._turns(seeds.shape[1]):
            reset_policy(policy, seeds[:, own])

    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A)."""
        turns = self._turns(observations.shape[1])
        found = [policy.act(observations[:, own]) for policy, own in turns]
        actions = observations.new_empty(*observations.shape[:2], found[0].shape[-1])
        for part, (_, own) in zip(found, turns):
            actions[:, own] = part
        return actions

    def took(self, actions: Tensor) -> None:
        """Tell every policy what was played in its own episodes."""
        for policy, own in self._turns(actions.shape[1]):
            if hasattr(policy, "took"):
                policy.took(actions[:, own])


def process_config(recipe: Recipe, disease: str) -> ProcessConfig:
    """The decision process that a recipe describes, of the disease of its bank."""
    from medgym_offline.envs.process import ProcessConfig

    return ProcessConfig(
        timing=recipe.timing,
        decisions=recipe.decisions,
        reward=recipe.played_reward,
        path_costs=True,
        disease=disease,
        view=recipe.view,
    )


def resolve_behavior(name: str, bank: SimulatorBank, timing: str, decisions: int, view: str = FULL) -> Behavior:
    """The policy called `name`: a shipped one, a built-in, or a policy file.

    Args:
        name: `ind`, `dr`, `pop` and the early-stopped ones (shipped with the bank), `random`, `zero`, `max`,
            `clinician`, or a file's path.
        bank: The whole bank.
        timing, decisions: Of the process it will act in.
        view: Likewise; a shipped policy, which was trained on "full", takes what it shows for what is.

    Raises:
        DatasetError: no such name, or a policy made for the other timing or another view.
        PolicyError: the policy is not shipped for this bank, or its file is damaged.
    """
    from medgym_offline.online.config import EARLY, behavior_path, load_behavior
    from medgym_offline.online.config import SCOPES as TRAINED

    if name in (*TRAINED, *EARLY):
        digest = sha256_file(path) if (path := behavior_path(bank.name, name, timing)).is_file() else ""
        shipped = load_behavior(bank.name, name, timing)
        found = Behavior(name, digest, shipped if view == FULL else shipped.under(view))
    elif name in BUILTINS:
        from medgym_offline.policies.builtin import builtin_policy

        found = Behavior(name, f"builtin:{name}", builtin_policy(name, bank, timing, decisions, view=view))
    elif name.endswith(POLICY_SUFFIXES):
        from medgym_offline.policies import load_policy

        if not Path(name).is_file():
            raise DatasetError(f"behavior {name}: there is no such policy file; correct the recipe's `behavior`")
        found = Behavior(Path(name).name, sha256_file(name), load_policy(name))
    else:
        raise DatasetError(str(unknown_name("behavior", name, (*TRAINED, *EARLY, *BUILTINS))))
    if found.policy.timing != timing:
        made = f"behavior {name} was made for {found.policy.timing} timing"
        raise DatasetError(f"{made}, the recipe asks for {timing}; change one")
    if (seen := getattr(found.policy, "view", FULL)) != view:
        raise DatasetError(f"behavior {name} sees view {seen!r}, the recipe asks for {view!r}; change one")
    return found


def recipe_behavior(recipe: Recipe, bank: SimulatorBank) -> Behavior:
    """The behavior of a recipe, one policy or a mix; errors as `resolve_behavior`."""
    parts = [resolve_behavior(name, bank, recipe.timing, recipe.decisions, recipe.view) for name in recipe.policies]
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256("\n".join(part.digest for part in parts).encode()).hexdigest()
    return Behavior(" + ".join(part.name for part in parts), digest, None, tuple(parts))


def play(bank: SimulatorBank, behavior: Behavior, config: ProcessConfig, seeds: np.ndarray, sigma: float) -> Rollout:
    """Episodes of `behavior` on every patient of `bank`.

    Args:
        bank: P patients.
        behavior: Acts for them; of a mix, part b mod n acts in column b.
        config: The process.
        seeds: (P, B) int64, one per episode: everything random in it derives from its seed alone.
        sigma: Standard deviation of the action noise.

    Returns:
        What they were; observations are "full", whatever the process shows its policy.
    """
    import torch

    from medgym_offline.envs.process import DecisionProcess
    from medgym_offline.envs.rollout import draw_noise, observed, rollout
    from medgym_offline.policies.protocol import reset_policy

    # In float64: two kinds of processor then agree to the last digit that is stored, and data have one content.
    exact = bank.to(torch.float64)
    policy = behavior.for_patients(bank.patients, torch.float64)
    reset_policy(policy, seeds)
    noise = draw_noise(seeds, bank, config)
    rolled = rollout(DecisionProcess(exact, config), policy.act, noise, sigma)
    if config.view == FULL:
        return rolled
    plain = DecisionProcess(exact, dataclasses.replace(config, view=FULL))
    return dataclasses.replace(rolled, observations=observed(plain, rolled))


def action_log_prob(rolled: Rollout, behavior: Behavior, perturbation: float) -> Tensor:
    """Log-probability of every action of a rollout under the behavior that took it, float64.

    Args:
        rolled: P x B episodes from :func:`play`.
        behavior: Who played; of a mix, part b mod n in column b.
        perturbation: Standard deviation of the action noise.

    Returns:
        (P, B, K); 0 where no decision took place, NaN where an action without noise has no density.
    """
    import torch

    from medgym_offline.policies.builtin import RandomPolicy
    from medgym_offline.policies.protocol import clipped_normal_log_prob, clipped_uniform_log_prob

    parts = behavior.parts or (behavior,)
    found = torch.full(rolled.valid.shape, torch.nan, dtype=torch.float64)
    for i, part in enumerate(parts):
        rows = slice(i, None, len(parts))
        if isinstance(part.policy, RandomPolicy):
            found[:, rows] = clipped_uniform_log_prob(rolled.actions[:, rows], perturbation)
        elif perturbation:
            found[:, rows] = clipped_normal_log_prob(rolled.actions[:, rows], rolled.intended[:, rows], perturbation)
    return torch.where(rolled.valid, found, 0.0)
