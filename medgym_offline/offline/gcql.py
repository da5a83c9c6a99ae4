"""GCQL, guarded CQL: CQL with a ball around the data outside of which critic and actor are pulled back.

    g(s, a)  = max(0, ||z - zbar|| - L)     the guard, z = (x, a): distance outside the ball, see `ball.py`

    L_critic(phi) = L_DQN(phi) + alpha*E_s,a~D [ logsumexp_{a' in A(s)} (Q_phi(s, a') + beta_c*g(s, a')) - Q_phi(s, a) ]
    L_actor(psi)  = E_s~D [ -Q_phi(s, pi_psi(s)) + beta_a*g(s, pi_psi(s)) + lambda*mean(h_psi(s)^2) ]

    L             theta*R, R the largest distance of the data from their mean zbar; or a quantile of those distances
    beta_c, beta_a  weights of the guard.  Other symbols: `cql.py`.

g has no parameter of the critic, so a penalty beta*g added to the critic's loss has no gradient at all (the fault of
the published code). Inside the logsumexp it has one: the weight with which Q(s, a') is pushed down is softmax(Q +
beta_c*g), so candidates outside the ball are pushed first, and their Q settles about beta_c*g below where CQL would
leave it. The data's own action is a candidate, so the term stays bounded below. The actor's hinge has the gradient
beta_a*(z_a - zbar_a)/||z - zbar|| outside the ball and none inside.

Variants, for the ablation: any weight may be 0, and beta_t (`beta_target`, 0 by default) puts the guard in the target,

    y = r + gamma*(1 - d)*(Qbar(s', pi(s')) - beta_t*g(s', pi(s')))

With `guard` "state" the ball holds x alone. g(s) is then the same for every action and cancels from the gradients of
the logsumexp and the actor: the target is the only place where it acts.

Source: MedGym paper, appendix C.2 (there the distance to the center stands in for a density).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medgym_offline.offline.ball import Ball
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.data import Batch, StackedData
from medgym_offline.offline.networks import Networks

__all__ = ["GCQL"]


class GCQL(CQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gcql"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int | Sequence[int] = 0):
        super().__init__(config, data, seed)
        self.ball = Ball(config, data)

    def guard(self, batch: Batch, actions: Tensor) -> Tensor:
        """beta_c*g of candidate actions (P, C, B, A) -> (P, 1, C, B), without gradient."""
        with torch.no_grad():
            return self.config.beta_critic * self.ball.outside(batch.state, actions)[:, None]

    def target(self, networks: Networks, batch: Batch) -> Tensor:
        """y of the Bellman error, (P, B), without gradient."""
        y, weight = super().target(networks, batch), self.config.beta_target
        if not weight:
            return y
        with torch.no_grad():
            outside = self.ball.outside(batch.next_state, networks.policy(batch.next_state))
            return y - weight * batch.discount * outside

    def hinge(self, batch: Batch, action: Tensor) -> Tensor:
        """beta_a*g of the actor's actions, (P, B)."""
        return self.config.beta_actor * self.ball.outside(batch.state, action)
