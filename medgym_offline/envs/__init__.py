"""Environments: the decision process over a bank, whole-episode rollouts, and the Gymnasium interfaces."""

from __future__ import annotations

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
    "Timing",
    "TreatmentEnv",
    "TreatmentVectorEnv",
    "dense",
    "draw_noise",
    "episode_seeds",
]
