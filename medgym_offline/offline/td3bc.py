"""TD3+BC: a deterministic actor-critic whose actor is also drawn to the data's action.

    L_critic(phi) = E_(s,a,r,s')~D [ sum_i (Q_i(s, a) - y)^2 ]
    y             = r + gamma*(1 - d)*min_i Qbar_i(s', a'),    a' = clip(pibar(s') + clip(sigma*e, -c, c), -1, 1)
    L_actor(psi)  = E_(s,a)~D [ -lam*Q(s, pi(s)) + mean((pi(s) - a)^2) ],    lam = weight / mean |Q(s, pi(s))|

    Q_i       two critics, or `OfflineConfig.ensemble` if it is more; Q without index is their mean
    Qbar, pibar  slowly moving copies of critics and actor
    e         standard normal; sigma, c: `OfflineConfig.smoothing`
    weight    `OfflineConfig.weight`; the mean in lam is over the batch, the one of the squares over the columns too

Actor and copies are moved every `OfflineConfig.delay` updates. Other symbols: `dqn.py`; `saturation` has no part here.
The authors' actor climbs the first critic, here their mean.

Source: Fujimoto and Gu 2021; Fujimoto et al. 2018 (TD3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.dqn import DQN, C
from medgym_offline.offline.networks import Networks, follow
from medgym_offline.stack import StackedMLP

__all__ = ["TD3BC", "TD3Networks", "TwinDQN", "relative"]


class TwinDQN(DQN[C]):
    """DQN with at least two critics: what actor-critics of the TD3 family share."""

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        super().__init__(dataclasses.replace(config, ensemble=max(2, config.ensemble)), data, seed)


def relative(q: Tensor) -> Tensor:
    """Q (P, B) by the mean of its absolute values, which carries no gradient."""
    return q / q.detach().abs().mean(1, keepdim=True).clamp(min=1e-6)


@dataclass(frozen=True, kw_only=True)
class TD3Networks(Networks):
    """`Networks` and a slowly moving copy of the actor."""

    target_actor: StackedMLP

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (*super().parts(), self.target_actor)

    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar), and pibar likewise."""
        super().update_target(tau)
        follow(self.target_actor, self.actor, tau)


class TD3BC(TwinDQN[TD3Networks]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "td3bc"
    normals = 1

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        super().__init__(config, data, seed)
        self.delay = config.delay

    def build(self, seeds: Sequence[int]) -> TD3Networks:
        """Fresh networks, one per seed."""
        nets = super().build(seeds)
        return TD3Networks(**vars(nets), target_actor=self.actor(seeds).requires_grad_(False))

    def following(self, networks: TD3Networks, batch: Batch) -> Tensor:
        """Value of the next state under a', (P, B)."""
        spread, bound = self.config.smoothing
        noise = (spread * batch.normal[:, 0]).clamp(-bound, bound)
        action = (torch.tanh(networks.target_actor(batch.next_state)) + noise).clamp(-1.0, 1.0)
        return networks.target_q(batch.next_state, action) - self.penalty(batch, action)

    def penalty(self, batch: Batch, action: Tensor) -> Tensor | float:
        """Subtracted from the following value, (P, B); nothing here."""
        return 0.0

    def actor_loss(self, networks: TD3Networks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        action = networks.policy(batch.state)
        imitation = (action - batch.action).square().mean((1, 2))
        return imitation - self.config.weight * relative(networks.q(batch.state, action)).mean(1)
