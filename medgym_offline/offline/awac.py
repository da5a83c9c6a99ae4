"""AWAC: the actor imitates the data's actions, the better ones more.

    L_critic(phi) = E_(s,a,r,s')~D [ sum_i (Q_i(s, a) - y)^2 ],    y = r + gamma*(1 - d)*min_i Qbar_i(s', pi(s'))
    L_actor(psi)  = E_(s,a)~D [ min(exp(beta*A), w_max)*||pi(s) - a||^2 ]
    A             = min_i Qbar_i(s, a) - min_i Qbar_i(s, pi(s))

    Q_i       two critics, or `OfflineConfig.ensemble` if it is more;  Qbar_i  their slowly moving copies
    beta      `OfflineConfig.temperature` (the authors' 1/lambda);  w_max  `OfflineConfig.largest_weight`

The authors' actor is Gaussian. Here its spread is fixed, so that its log-likelihood is the squared error up to a
factor, and the
policy is its mean, tanh of a network; the expectation of Q over the policy is its value at that mean. The
actor only ever sees actions of the data, so it cannot climb errors of Q between them. Rewards are divided by their
standard deviation, which beta is relative to. Other symbols: `dqn.py`; `saturation` has no part here.

Source: Nair et al. 2020; the bound of the weights as in Kostrikov et al. 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.dqn import C
from medgym_offline.offline.td3bc import TwinDQN

__all__ = ["AWAC"]


class AWAC(TwinDQN[C]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "awac"

    def baseline(self, networks: C, batch: Batch) -> Tensor:
        """What an action's value is compared with, (P, B)."""
        return networks.target_q(batch.state, networks.policy(batch.state))

    def actor_loss(self, networks: C, batch: Batch) -> Tensor:
        """Loss (P,)."""
        with torch.no_grad():
            advantage = networks.target_q(batch.state, batch.action) - self.baseline(networks, batch)
            weight = torch.exp(self.config.temperature * advantage).clamp(max=self.config.largest_weight)
        return (weight * (networks.policy(batch.state) - batch.action).square().sum(-1)).mean(1)
