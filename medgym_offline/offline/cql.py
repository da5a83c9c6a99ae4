"""CQL, conservative Q-learning: DQN with Q pushed down on candidate actions and up on the data's.

    L_critic(phi) = L_DQN(phi) + alpha*E_s,a~D [ logsumexp_{a' in A(s)} Q_phi(s, a') - Q_phi(s, a) ]
    L_actor(psi)  = E_s~D [ -Q_phi(s, pi_psi(s)) + lambda*mean(h_psi(s)^2) ]

    alpha    weight of the conservative term
    A(s)     candidate actions, `OfflineConfig.candidates` = (4, 4, 4) by default:
                 pi(s) + noise*e      near the policy: what the actor would exploit
                 a, and a + noise*e   the data's own action first, then its neighbors
                 uniform in [-1, 1]   everything else
             all clipped to the box; e standard normal, noise 0.1. Other symbols: `dqn.py`.

Because the data's action is itself a candidate, the bracket is never negative and its gradient fades once
Q(s, a) dominates: the term is bounded below by 0 and cannot push Q away without end. All candidates go through
the critic in one pass, in which the first row is also the Q(s, a) of the Bellman error.

Source: Kumar et al. 2020, CQL(H); MedGym paper, appendix C.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.dqn import DQN, C
from medgym_offline.offline.networks import Networks

__all__ = ["CQL"]


class CQL(DQN[C]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "cql"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        super().__init__(config, data, seed)
        near_policy, near_data, self.uniforms = config.candidates
        self.normals = near_policy + near_data - 1

    def candidates(self, networks: Networks, batch: Batch) -> Tensor:
        """A(s): (P, C, B, A), without gradient; the data's action is number 0."""
        near_policy = self.config.candidates[0]
        with torch.no_grad():
            noise = self.config.noise * batch.normal
            policy = networks.policy(batch.state)[:, None] + noise[:, :near_policy]
            data = batch.action[:, None] + noise[:, near_policy:]
            near = torch.cat([data, policy], 1).clamp_(-1.0, 1.0)
            return torch.cat([batch.action[:, None], near, batch.uniform], 1)

    def guard(self, batch: Batch, actions: Tensor) -> Tensor | float:
        """Added to Q of every member inside the logsumexp, (P, 1, C, B); nothing in CQL."""
        return 0.0

    def critic_loss(self, networks: C, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and numbers to watch, each (P,): "td", "q", "gap" (the conservative bracket)."""
        return self.conservative_loss(networks, batch, self.target(networks, batch))

    def conservative_loss(self, networks: Networks, batch: Batch, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`critic_loss` towards the values `target` (P, B)."""
        actions = self.candidates(networks, batch)
        q = networks.q_candidates(batch.state, actions)
        own, guard = q[:, :, 0], self.guard(batch, actions)
        td = (own - target[:, None]).square().mean(2)
        gap = (torch.logsumexp(q + guard, 2) - own).mean(2)
        numbers = {"td": td.detach().mean(1), "gap": gap.detach().mean(1), "q": q.detach().abs().amax((1, 2, 3))}
        return (td + self.config.alpha * gap).sum(1), numbers
