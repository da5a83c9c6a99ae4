"""GCQL with discrete actions: guarded CQL over a codebook.

    L(phi) = L_DQN(phi) + alpha*E_s,a~D [ log sum_c exp(Q_phi(s, c) + beta_c*g(s, a_c)) - Q_phi(s, c(a)) ]
    pi(s)  = a_c*,   c*(s) = argmax_c (Q_phi(s, c) - beta_a*g(s, a_c))

    g         distance of (x, a_c) outside the ball around the learner's data (`ball.py`), in this state
    beta_c    weight of the guard inside the logsumexp;  beta_a  its weight where a codeword is chosen
    Others: `dqn_discrete.py`, `cql_discrete.py`.

The same c* chooses in the target, y = r + gamma*(1 - d)*Qbar(s', c*(s')). In the continuous form the actor carries the
hinge beta_a*g(s, pi(s)); there is no actor here, so it stands in the argmax. A term that is the same for all codewords
would cancel there, as it does in the gradient of the logsumexp; one averaged over states would hold a codeword back
also where it lies inside the ball. So g is that of the state-action pair, and both guards are zero inside.

A policy stays what every discrete policy is, a network and a codebook, because the network is parametrized as

    f_phi(s, c) = Q_phi(s, c) - beta_a*g(s, a_c),   so that   Q_phi = f_phi + beta_a*g,   c*(s) = argmax_c f_phi(s, c)

which is the objective above, term by term; g has no parameters.

Source: MedGym paper, appendix C.2 (there the distance to the center stands in for a density).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql_discrete import DiscreteCQL
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.discrete import DiscreteNetworks
from medgym_offline.offline.gcql import Ball

__all__ = ["DiscreteGCQL"]


class DiscreteGCQL(DiscreteCQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gcql-discrete"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        if config.beta_target or config.guard != "pair":
            raise MedGymError(
                "gcql-discrete: its guard is on state-action pairs, in the logsumexp and the choice; leave guard and "
                "beta_target out, or use gcql"
            )
        super().__init__(config, data, seed)
        self.ball = Ball(config, data)

    def build(self, seeds: Sequence[int]) -> DiscreteNetworks:
        """Fresh networks, one per seed."""
        return self.networks(seeds, partial(self._guard, self.config.beta_actor))

    def _guard(self, weight: float, state: Tensor) -> Tensor:
        """`weight` times g of every codeword, (P, B, d) -> (P, B, C), without gradient."""
        with torch.no_grad():
            return weight * self.ball.outside(state, self.codebook[:, :, None]).mT.contiguous()

    def guard(self, batch: Batch) -> Tensor:
        """beta_c*g of every codeword, (P, 1, B, C), without gradient."""
        return self._guard(self.config.beta_critic, batch.state)[:, None]
