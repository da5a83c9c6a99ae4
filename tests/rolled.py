"""Rollouts, and behavior data made of them, for tests that need a dataset which no recipe makes."""

import dataclasses

from medgym_offline.datasets.shards import rollout_block
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.policies.protocol import clipped_normal_log_prob


def played(process, act, seed, episodes, purpose="evaluation", **options):
    """A rollout of `act` for all patients, and the seeds (P, E) of its episodes."""
    seeds = episode_seeds(seed, purpose, process.bank.patients, episodes)
    return rollout(process, act, draw_noise(seeds, process.bank, process.config), **options), seeds


def rolled(bank, act, episodes=6, config=None, name="medgym/unpublished-v0"):
    """`episodes` episodes per patient of the behavior `act`, perturbed as in eq. 15."""
    config = dataclasses.replace(config or ProcessConfig(), path_costs=True)
    found, seeds = played(DecisionProcess(bank, config), act, 1, episodes, "test-dataset", action_noise=0.05)
    log_prob = clipped_normal_log_prob(found.actions, found.intended, 0.05)
    columns = rollout_block(bank, found, log_prob, seeds, range(len(bank))).columns
    names = {"patients": bank.patients, "timing": config.timing, "decisions": config.decisions}
    return Transitions(**columns, **names, dataset_id=name, identity="0" * 64)
