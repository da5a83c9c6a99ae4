"""What the algorithms learn, on a process whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.learner import Learner
from tests.offline.toy import DECISIONS, center, toy


def test_cloning_finds_the_behavior_without_its_noise() -> None:
    """The expert's noise is symmetric (within +-0.3), so E[a | s] is the best action; its regret is bounded."""
    config = OfflineConfig(updates=600, hidden=32, actor_lr=3e-3)
    data = stack_transitions(toy(spread=0.3, expert=True), "ind", config)
    learner = Learner("bc", data, 1, config)
    for _ in range(config.updates):
        learner.update()
    context = torch.linspace(-0.9, 0.9, 19)
    best = torch.tensor(center(np.arange(3)[:, None], context.numpy()[None]), dtype=torch.float32)
    observations = torch.zeros(3, 19, 9)
    observations[..., 0] = context
    observations[..., 7:] = 2 / DECISIONS
    with torch.no_grad():
        action = learner.networks.policy((observations - data.mean) / data.scale)
    regret = (action[..., 0] - best).square() + (action[..., 3] - 0.2).square()
    behavior = 2 * 0.3**2 / 3  # mean regret of the data itself: two uniform noises
    assert regret.mean() < 0.1 * behavior
    # What is left of the loss is the variance of four uniform noises.
    assert learner.log[-1]["mse"] == pytest.approx(4 * 0.3**2 / 3, rel=0.2)
