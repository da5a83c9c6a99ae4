"""The policy that a recipe names, and its rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.recipes import Recipe
from medgym_offline.errors import DatasetError, unknown_name
from medgym_offline.files import sha256_file

if TYPE_CHECKING:
    from medgym_offline.envs.process import ProcessConfig
    from medgym_offline.envs.rollout import Rollout
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Behavior", "play", "process_config", "resolve_behavior"]

BUILTINS = ("random", "zero", "max", "clinician")
SCOPES = ("ind", "dr", "pop", "ind-scratch")
_POLICY_FILES = (".safetensors", ".pt", ".onnx")


@dataclass(frozen=True)
class Behavior:
    """A policy that acts in a dataset.

    Attributes:
        name: As the recipe names it.
        digest: SHA-256 of its file, or `builtin:<name>`.
        policy: A `medgym_offline.policies.Policy`.
    """

    name: str
    digest: str
    policy: Any

    def for_patients(self, patients: Sequence[str]) -> Any:
        """The policy for these ids, in this order."""
        if self.policy.patients is None or tuple(self.policy.patients) == tuple(patients):
            return self.policy
        return self.policy.select(list(patients))


def process_config(recipe: Recipe) -> ProcessConfig:
    """The decision process that a recipe describes."""
    from medgym_offline.envs.process import ProcessConfig

    return ProcessConfig(timing=recipe.timing, decisions=recipe.decisions, reward=recipe.reward)  # type: ignore[arg-type]


def resolve_behavior(name: str, bank: SimulatorBank, timing: str, decisions: int) -> Behavior:
    """The policy called `name`: a shipped scope, a built-in, or a policy file.

    Args:
        name: `ind`, `dr`, `pop` (shipped with the bank), `random`, `zero`, `max`, `clinician`, or a file's path.
        bank: The whole bank.
        timing, decisions: Of the process it will act in.

    Raises:
        DatasetError: no such name, or a policy made for the other timing.
        PolicyError: the policy is not shipped for this bank, or its file is damaged.
    """
    if name in SCOPES:
        from medgym_offline.online.behavior import behavior_path, load_behavior

        digest = sha256_file(path) if (path := behavior_path(bank.name, name, timing)).is_file() else ""
        found = Behavior(name, digest, load_behavior(bank.name, name, timing))
    elif name in BUILTINS:
        from medgym_offline.policies.builtin import builtin_policy

        found = Behavior(name, f"builtin:{name}", builtin_policy(name, bank, timing, decisions))
    elif name.endswith(_POLICY_FILES):
        from medgym_offline.policies import load_policy

        if not Path(name).is_file():
            raise DatasetError(f"behavior {name}: there is no such policy file; correct the recipe's `behavior`")
        found = Behavior(Path(name).name, sha256_file(name), load_policy(name))
    else:
        raise DatasetError(str(unknown_name("behavior", name, (*SCOPES, *BUILTINS))))
    if found.policy.timing != timing:
        raise DatasetError(
            f"behavior {name} was made for {found.policy.timing} timing, the recipe asks for {timing}; change one"
        )
    return found


def play(
    bank: SimulatorBank, behavior: Behavior, config: ProcessConfig, seeds: np.ndarray, perturbation: float
) -> Rollout:
    """Episodes of `behavior` on every patient of `bank`.

    Args:
        bank: P patients.
        behavior: Acts for them.
        config: The process.
        seeds: (P, B) int64, one per episode: everything random in it derives from its seed alone.
        perturbation: Standard deviation of the action noise.
    """
    from medgym_offline.envs.process import DecisionProcess
    from medgym_offline.envs.rollout import draw_noise, rollout
    from medgym_offline.policies.protocol import reset_policy

    policy = behavior.for_patients(bank.patients)
    reset_policy(policy, seeds)
    noise = draw_noise(seeds, config.decisions, bank.state_dim, config.action_dim)
    return rollout(DecisionProcess(bank, config), policy.act, noise, perturbation)
