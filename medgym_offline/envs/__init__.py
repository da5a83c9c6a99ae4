"""Environments: the decision process over a bank, whole-episode rollouts, and the Gymnasium interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgym_offline.lazy import imported_late

if TYPE_CHECKING:
    from medgym_offline.envs.process import DecisionProcess, Episodes, Outcome
    from medgym_offline.envs.rollout import EpisodeNoise, Rollout, dense, draw_noise, episode_seeds
    from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
    from medgym_offline.envs.treatment_env import TreatmentEnv
    from medgym_offline.envs.vector_env import TreatmentVectorEnv

__all__ = [
    "DecisionProcess",
    "EpisodeNoise",
    "Episodes",
    "Outcome",
    "ProcessConfig",
    "RewardKind",
    "Rollout",
    "TreatmentEnv",
    "TreatmentVectorEnv",
    "Timing",
    "dense",
    "draw_noise",
    "episode_seeds",
]

_HOMES = {
    "process": ("DecisionProcess", "Episodes", "Outcome"),
    "rollout": ("EpisodeNoise", "Rollout", "dense", "draw_noise", "episode_seeds"),
    "treatment_env": ("TreatmentEnv",),
    "timing": ("ProcessConfig", "RewardKind", "Timing"),
    "vector_env": ("TreatmentVectorEnv",),
}

# Torch and gymnasium are imported with the first name asked for, not with the package.
__getattr__ = imported_late(__name__, _HOMES)
