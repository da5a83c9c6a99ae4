"""Behavior data rolled out from a bank, for tests that need a dataset which no recipe makes."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.policies.density import clipped_normal_log_prob


def rolled(bank, act, episodes=6, config=None, name="medgym/unpublished-v0"):
    """`episodes` episodes per patient of the behavior `act`, perturbed as in eq. 15."""
    config = dataclasses.replace(config or ProcessConfig(), path_costs=True)
    seeds = episode_seeds(1, "test-dataset", bank.patients, episodes)
    noise = draw_noise(seeds, bank, config)
    played = rollout(DecisionProcess(bank, config), act, noise, action_noise=0.05)
    valid = played.valid.numpy()
    patient, episode, _ = np.nonzero(valid)

    def flat(values: Tensor) -> np.ndarray:
        return values.numpy()[valid]

    return Transitions(
        observations=flat(played.observations[:, :, :-1]),
        actions=flat(played.actions),
        rewards=flat(played.rewards),
        costs=flat(played.costs),
        next_observations=flat(played.observations[:, :, 1:]),
        terminations=flat(played.terminated),
        truncations=np.zeros(valid.sum(), bool),
        dt=flat(played.dt),
        time=flat(played.time),
        severity=flat(played.severity),
        monitored=flat(played.monitored),
        costs_path=flat(played.costs_path),
        costs_peak=flat(played.costs_peak),
        behavior_log_prob=flat(clipped_normal_log_prob(played.actions, played.intended, 0.05).float()),
        patient=patient.astype(np.int32),
        episode=(patient * episodes + episode).astype(np.int32),
        patients=bank.patients,
        timing=config.timing,
        decisions=config.decisions,
        dataset_id=name,
        identity="0" * 64,
    )
