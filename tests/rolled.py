"""Behavior data rolled out from a bank, for tests that need a dataset which no recipe makes."""

import dataclasses

from medgym_offline.datasets.behaviors import rollout_block
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.policies.protocol import clipped_normal_log_prob


def rolled(bank, act, episodes=6, config=None, name="medgym/unpublished-v0"):
    """`episodes` episodes per patient of the behavior `act`, perturbed as in eq. 15."""
    config = dataclasses.replace(config or ProcessConfig(), path_costs=True)
    seeds = episode_seeds(1, "test-dataset", bank.patients, episodes)
    noise = draw_noise(seeds, bank, config)
    played = rollout(DecisionProcess(bank, config), act, noise, action_noise=0.05)
    log_prob = clipped_normal_log_prob(played.actions, played.intended, 0.05)
    columns = rollout_block(bank, played, log_prob, seeds, range(len(bank))).columns
    names = {"patients": bank.patients, "timing": config.timing, "decisions": config.decisions}
    return Transitions(**columns, **names, dataset_id=name, identity="0" * 64)
