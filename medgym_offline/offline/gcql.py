"""GCQL, guarded CQL: CQL with a ball around the data outside of which critic and actor are pulled back.

    z        = (x, a)                                      state-action vector
    zbar     = mean of z over D,   R = max over D of ||z - zbar||
    g(s, a)  = max(0, ||z - zbar|| - theta*R)              the guard: distance outside the ball of radius theta*R

    L_critic(phi) = L_DQN(phi) + alpha*E_s,a~D [ logsumexp_{a' in A(s)} (Q_phi(s, a') + beta_c*g(s, a')) - Q_phi(s, a) ]
    L_actor(psi)  = E_s~D [ -Q_phi(s, pi_psi(s)) + beta_a*g(s, pi_psi(s)) ]

    x        the physiological columns and the fluid balance of the observation, in the cohort's normalised units
             (not remaining time and decisions: every episode runs through all of them)
    a        action in [-1, 1], the interval included under adaptive timing
    theta    radius of the ball as a fraction of R;  beta_c, beta_a  weights of the guard.  Others: `cql.py`.

g has no parameter of the critic, so a penalty beta*g added to the critic's loss has no gradient at all (the fault of
the published code). Inside the logsumexp it has one: the weight with which Q(s, a') is pushed down is softmax(Q +
beta_c*g), so candidates outside the ball are pushed first, and their Q settles about beta_c*g below where CQL would
leave it. The data's own action is a candidate, so the term stays bounded below. The actor's hinge has the gradient
beta_a*(z_a - zbar_a)/||z - zbar|| outside the ball and none inside.

Source: MedGym paper, appendix C.2 (there the distance to the centre stands in for a density).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.data import Batch, StackedData
from medgym_offline.offline.networks import Networks

__all__ = ["GCQL"]

_PHYSIOLOGY = 7  # leading observation columns that describe the patient


class GCQL(CQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,).

    Attributes:
        center: zbar's action part, (P, 1, A).
        radius: R, (P,).
    """

    name = "gcql"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int = 0):
        super().__init__(config, data, seed)
        d, a = data.state_dim, data.action_dim
        self._columns = min(_PHYSIOLOGY, d)
        # x - xbar = scale * state, since the state is the observation standardised by its mean over D.
        self._scale = data.scale[..., : self._columns]
        present = data.present.to(data.rows.device)[..., None]
        state, action = data.rows[..., : self._columns], data.rows[..., d : d + a]
        self.center = (action * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
        distance = torch.sqrt((self._scale * state).square().sum(-1) + (action - self.center).square().sum(-1))
        self.radius = torch.where(present[..., 0], distance, 0.0).amax(1)

    def distance_outside(self, state: Tensor, actions: Tensor) -> Tensor:
        """g(s, a): (P, B, d), (P, ..., B, A) -> (P, ..., B)."""
        extra = actions.dim() - 3
        x = (self._scale * state[..., : self._columns]).square().sum(-1)
        x = x.view(x.shape[0], *[1] * extra, x.shape[1])
        center = self.center.view(self.center.shape[0], *[1] * (extra + 1), -1)
        limit = (self.config.theta * self.radius).view(-1, *[1] * (extra + 1))
        distance = torch.sqrt(x + (actions - center).square().sum(-1) + 1e-12)
        return torch.relu(distance - limit)

    def guard(self, batch: Batch, actions: Tensor) -> Tensor:
        """beta_c*g of candidate actions (P, C, B, A) -> (P, C, B), without gradient."""
        with torch.no_grad():
            return self.config.beta_critic * self.distance_outside(batch.state, actions)

    def actor_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        action = networks.policy(batch.state)
        outside = self.distance_outside(batch.state, action)
        return (self.config.beta_actor * outside - networks.q(batch.state, action)).mean(1)
