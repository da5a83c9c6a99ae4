"""Environments: the decision process over a bank, whole-episode rollouts, and the Gymnasium interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgym_offline.lazy import imported_late

if TYPE_CHECKING:
    from medgym_offline.envs.process import DecisionProcess, ProcessConfig
    from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds
    from medgym_offline.envs.treatment_env import TreatmentEnv
    from medgym_offline.envs.vector_env import TreatmentVectorEnv

__all__ = [
    "DecisionProcess", "ProcessConfig", "TreatmentEnv", "TreatmentVectorEnv", "dense", "draw_noise", "episode_seeds",
]  # fmt: skip

# Torch and gymnasium are imported with the first name asked for, not with the package.
__getattr__ = imported_late(
    __name__,
    {
        "process": ("DecisionProcess", "ProcessConfig"),
        "rollout": ("dense", "draw_noise", "episode_seeds"),
        "treatment_env": ("TreatmentEnv",),
        "vector_env": ("TreatmentVectorEnv",),
    },
)
