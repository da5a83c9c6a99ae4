"""ReBRAC: TD3+BC with an imitation of its own in actor and critic.

    y             = r + gamma*(1 - d)*( min_i Qbar_i(s', a') - beta_2*||a' - a_next||^2 )
    L_actor(psi)  = E_(s,a)~D [ -Q(s, pi(s)) / mean |Q(s, pi(s))| + beta_1*||pi(s) - a||^2 ]

    beta_1, beta_2   `OfflineConfig.penalties`
    a_next    the data's action at the following decision; norms sum over columns
    Q_i       with layer normalization after each hidden ReLU, without gain and shift of its own (the next layer has
              them); the authors' three hidden layers are `depth=3`

Other symbols, L_critic, delay and copies: `td3bc.py`.

Source: Tarasov et al. 2023.
"""

from __future__ import annotations

from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.networks import Networks
from medgym_offline.offline.td3bc import TD3BC, relative

__all__ = ["ReBRAC"]


class ReBRAC(TD3BC):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "rebrac"
    more = True
    activation = "relu-norm"

    def penalty(self, batch: Batch, action: Tensor) -> Tensor | float:
        """Subtracted from the following value, (P, B)."""
        return self.config.penalties[1] * (action - batch.next_action).square().sum(-1)

    def actor_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        action = networks.policy(batch.state)
        imitation = (action - batch.action).square().sum(-1)
        return (self.config.penalties[0] * imitation - relative(networks.q(batch.state, action))).mean(1)
