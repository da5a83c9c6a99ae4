"""GCQL with discrete actions: guarded CQL over a codebook.

    L(phi) = L_DQN(phi) + alpha*E_s,a~D [ log sum_c exp(Q_phi(s, c) + beta_c*g(s, a_c)) - Q_phi(s, c(a)) ]
    pi(s)  = a_c*,   c* = argmax_c (Q_phi(s, c) - beta_a*gbar_c),    gbar_c = E_s~D [ g(s, a_c) ]

    g         distance of (x, a_c) outside the ball around the learner's data (`ball.py`)
    gbar_c    its mean over the states of the data: how far a codeword leads out of the ball on the average
    beta_c    weight of the guard inside the logsumexp;  beta_a  its weight where a codeword is chosen
    Others: `dqn_discrete.py`, `cql_discrete.py`.

The same c* chooses in the target, y = r + gamma*(1 - d)*Qbar(s', c*(s')). In the continuous form the actor carries the
hinge beta_a*g(s, pi(s)); here there is no actor, so it stands in the argmax. It is averaged over states, so that a
policy stays what every discrete policy is, a network and a codebook: gbar goes into the last layer's bias.

Source: MedGym paper, appendix C.2 (there the distance to the centre stands in for a density).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.ball import Ball
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql_discrete import DiscreteCQL
from medgym_offline.offline.data import Batch, StackedData

__all__ = ["DiscreteGCQL"]


class DiscreteGCQL(DiscreteCQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gcql-discrete"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int = 0):
        super().__init__(config, data, seed)
        self.ball = Ball(config, data)

    def penalty(self) -> Tensor:
        """beta_a*gbar, (P, C)."""
        return self.config.beta_actor * self.ball.mean_outside(self.codebook)

    def guard(self, batch: Batch) -> Tensor:
        """beta_c*g of every codeword, (P, 1, B, C), without gradient."""
        with torch.no_grad():
            words = self.codebook[:, :, None].expand(-1, -1, batch.state.shape[1], -1)
            return self.config.beta_critic * self.ball.outside(batch.state, words).transpose(1, 2)[:, None]
