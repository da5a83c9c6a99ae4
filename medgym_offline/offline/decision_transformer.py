"""Decision Transformer in continuous time: imitation of every episode, told how good the episode was.

    L_actor(psi) = E_(w,a)~D [ mean_k ||pi_psi(G*tau_0, o_0, a_0, ..., G*tau_k, o_k) - a_k||^2 ]

    k       decisions of the window w;  o_k, a_k  observation and action of each
    G       how good the episode was: the share of its patient's episodes in the data with no higher return, in (0, 1]
    tau_k   share of the horizon that remains at decision k;  G*tau_k  the return-to-go
    pi_psi  tanh of `StackedTransformer`, where time is embedded as a real number, since decisions are irregular in time

When the policy acts, G is `OfflineConfig.target_return`: 0.9 asks for what the patient's best tenth begins with. A
policy sees no rewards, so nothing could be subtracted as they come: instead a return is taken as earned evenly over the
time, and G*tau is what remains of it, in training and in acting alike. A quantile of the patient's own returns, rather
than the return, means the same for every patient, whether one policy serves all or each has one.

Windows have `OfflineConfig.history` decisions, blocks are as many as `depth` says, of width `hidden`. Every decision in
a window is learned from, so batches are worth about as many decisions more.

Source: Chen et al. 2021; that a command need not be followed reward by reward: Emmons et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from medgym_offline.offline.bc import BC
from medgym_offline.offline.data import Batch
from medgym_offline.offline.networks import Actors
from medgym_offline.sequences import StackedTransformer, split_windows
from medgym_offline.stack import Steps

__all__ = ["DecisionTransformer"]


class DecisionTransformer(BC):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "decision-transformer"
    history: ClassVar[int] = 8
    more = True

    def build(self, seeds: Sequence[int]) -> Actors:
        """Fresh actors, one per seed."""
        (window, action), config = self._widths, self.config
        sizes = (window, *[config.hidden] * config.depth, action)
        steps, own = Steps(config.history, action), [2 * s + 1 for s in seeds]
        net = StackedTransformer(len(seeds), sizes, "relu", seeds=own, output_gain=0.1, steps=steps)
        net.target.fill_(config.target_return)
        return Actors(actor=net)

    def loss(self, networks: Actors, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and "mse", the same without gradient."""
        assert isinstance(networks.actor, StackedTransformer)
        steps, present = split_windows(batch.state, self._widths[1], self.config.history)
        earlier = steps[:, :, :-1, -self._widths[1] - 2 : -2]
        wanted = torch.cat([batch.action[:, :, None], earlier], 2).flip(2)
        errors = (torch.tanh(networks.actor.answers(batch.state, 1.0 - batch.better)) - wanted).square().sum(-1)
        there = present.flip(2).to(errors.dtype)
        loss = (errors * there).sum((1, 2)) / there.sum((1, 2))
        return loss, {"mse": loss.detach()}
