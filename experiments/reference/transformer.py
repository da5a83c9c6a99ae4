"""d3rlpy's Decision Transformer, told the same of every episode as ours, and acting in batches.

d3rlpy's network, loss and optimizer; its wrapper acts for one episode and reads rewards, which a policy does not see
here. So both transformers are told G tau, how good the episode was times the share of time that remains
(:mod:`medgym_offline.offline.decision_transformer`): rewards are given to d3rlpy such that this is its return-to-go.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline import Transitions
from medgym_offline.compute import one_thread, own_defaults
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.data import stack_transitions
from medgym_offline.policies.protocol import torch_or_numpy
from medgym_offline.sequences import REMAINING
from medgym_offline.third_party import import_d3rlpy

__all__ = ["NAME", "train_transformer"]

NAME = "d3rlpy-decision-transformer"
CONTEXT = 8
"""Decisions in a window: the default history of ours."""


class TransformerPolicy:
    """The trained network on windows of the last decisions, one memory per patient and episode."""

    patients, scope = None, "pop"

    def __init__(self, algorithm: Any, data: Transitions, target: float):
        self.timing, self.decisions, self.disease, self.view = data.timing, data.decisions, data.disease, data.view
        self.observation_dim, self.action_dim = data.observations.shape[1], data.action_dim
        self.algorithm, self._target = algorithm, target
        self._network, self._scaler = algorithm.impl.modules.transformer.eval(), algorithm.observation_scaler
        self.reset(np.zeros((1, 1)))

    def reset(self, seeds: np.ndarray) -> None:
        """Forget the episodes so far."""
        self._steps: list[list[Tensor]] = []

    @torch_or_numpy
    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A) in [-1, 1]."""
        seen = observations.to(torch.float32).flatten(0, 1)
        wanted = self._target * seen[:, REMAINING, None]
        self._steps.append([self._scaler.transform(seen), seen.new_zeros(len(seen), self.action_dim), wanted])
        kept = self._steps[-CONTEXT:]
        empty = CONTEXT - len(kept)
        parts = [torch.nn.functional.pad(torch.stack(part, 1), (0, 0, empty, 0)) for part in zip(*kept)]
        last = len(self._steps)
        number = torch.arange(last - CONTEXT + 1, last + 1).clamp(0, self.decisions).expand(len(seen), -1)
        # d3rlpy masks with 1 - mask and pads with time 0.
        actions: Tensor = self._network(*parts, number, (number == 0).float())[:, -1]
        self._steps[-1][1] = actions
        return actions.view(*observations.shape[:2], -1)

    def took(self, actions: Tensor) -> None:
        """Remember (P, B, A): what was played."""
        self._steps[-1][1] = actions.to(torch.float32).flatten(0, 1)


@own_defaults()
@one_thread()
def train_transformer(data: Transitions, seed: int, config: OfflineConfig) -> TransformerPolicy:
    """d3rlpy's Decision Transformer on the rows of all patients, with our widths, step size and number of updates."""
    from medgym_offline.third_party.training import seeded

    d3rlpy, stacked = import_d3rlpy(NAME), stack_transitions(data, "pop", config)
    # Share of the patient's episodes with no higher return: what ours is told.
    good = 1.0 - stacked.more[0, : len(data), -2].numpy()
    starts = data.episode_starts()
    episodes = []
    for a, b in zip(starts, np.r_[starts[1:], len(data)]):
        left = np.append(data.observations[a:b, REMAINING], 0.0)
        rewards = (good[a] * (left[:-1] - left[1:])).astype(np.float32)[:, None]
        episodes.append(d3rlpy.dataset.Episode(data.observations[a:b], data.actions[a:b], rewards, True))
    scaler = d3rlpy.preprocessing.StandardObservationScaler(
        mean=stacked.mean[0, 0].numpy(), std=stacked.scale[0, 0].numpy(), eps=0.0
    )
    settings = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=config.batch,
        context_size=CONTEXT,
        max_timestep=data.decisions,
        learning_rate=config.actor_lr,
        num_layers=config.depth,
        encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=[config.hidden] * config.depth),
        observation_scaler=scaler,
    )
    with contextlib.redirect_stdout(io.StringIO()), seeded(seed):
        buffer = d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=episodes)
        algorithm, quiet = settings.create(device="cpu:0"), d3rlpy.logging.NoopAdapterFactory()
        algorithm.fit(buffer, config.updates, config.updates, logger_adapter=quiet, show_progress=False)
    return TransformerPolicy(algorithm, data, config.target_return)
