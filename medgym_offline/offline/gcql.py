"""GCQL, guarded CQL: CQL with a ball around the data outside of which critic and actor are pulled back.

    g(s, a)  = max(0, ||z - zbar|| - L)     the guard, z = (x, a): distance outside the ball, below

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

The ball around a learner's data:

    z        = (x, a)                                      state-action vector
    zbar     = mean of z over D
    R        = max over D of ||z - zbar||
    L        = theta*R, or a quantile of ||z - zbar|| over D (`OfflineConfig.theta_quantile`)

    x        the columns of the observation that describe the patient, in the cohort's normalized units
             (not remaining time and decisions: every episode runs through all of them)
    a        action in [-1, 1], the interval included under adaptive timing; with `OfflineConfig.guard` "state" z = x

R belongs to a single row, the farthest; a quantile does not hang on one row and says which share of the data lies
outside.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import CLOCKS
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.networks import Networks

__all__ = ["Ball", "GCQL"]


class Ball:
    """The ball of the module's docstring, for P learners at once.

    Args:
        config: `theta`, `theta_quantile` and `guard`.
        data: The learners' slices.

    Attributes:
        center: zbar's action part, (P, 1, A), or (P, 1, 0) where z is the state alone.
        radius: R, (P,).
        limit: L, (P,).
    """

    def __init__(self, config: OfflineConfig, data: StackedData):
        d, a = data.state_dim, data.action_dim
        self._columns = d - len(CLOCKS)
        self._actions = a if config.guard == "pair" else 0
        self._scale = data.scale[..., : self._columns]
        present = data.present.numpy()
        # Float64, and sums in row order, so that the ball does not depend on the padding beside the learner's rows.
        rows = data.rows.cpu().numpy()
        x = rows[..., : self._columns] * self._scale.cpu().double().numpy()
        z = np.concatenate([x, rows[..., d : d + self._actions]], -1)
        center = _mean(z, present)
        distance = np.where(present, np.sqrt(np.square(z - center).sum(-1)), 0.0)
        radius = distance.max(1)
        limit = config.theta * radius
        if config.theta_quantile is not None:
            limit = _quantile(distance, present, config.theta_quantile)
        self._middle, self.center, self.radius, self.limit = (
            torch.from_numpy(part.astype(np.float32)).to(data.rows.device)
            for part in (center[..., : self._columns], center[..., self._columns :], radius, limit)
        )

    def outside(self, state: Tensor, actions: Tensor) -> Tensor:
        """g(s, a): (P, B, d), (P, ..., B, A) -> (P, ..., B); actions (P, ..., 1, A) are those of every state."""
        extra = actions.dim() - 3
        x = (self._scale * state[..., : self._columns] - self._middle).square().sum(-1)
        x = x.view(x.shape[0], *[1] * extra, x.shape[1])
        center = self.center.view(self.center.shape[0], *[1] * (extra + 1), -1)
        limit = self.limit.view(-1, *[1] * (extra + 1))
        distance = torch.sqrt(x + (actions[..., : self._actions] - center).square().sum(-1) + 1e-12)
        return torch.relu(distance - limit)


def _mean(z: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(P, N, W), (P, N) -> (P, 1, W)."""
    learners, _, width = z.shape
    owner = np.nonzero(present)[0]
    sums = [np.bincount(owner, weights=z[..., column][present], minlength=learners) for column in range(width)]
    return (np.stack(sums, 1) / present.sum(1)[:, None])[:, None]


def _quantile(values: np.ndarray, present: np.ndarray, share: float) -> np.ndarray:
    """Quantile over the rows that are data, interpolated linearly: (P, N), (P, N) -> (P,)."""
    ordered = np.sort(np.where(present, values, np.inf), 1)
    last = present.sum(1) - 1
    at = share * last
    low = np.floor(at).astype(np.int64)
    picked = np.take_along_axis(ordered, np.stack([low, np.minimum(low + 1, last)], 1), 1)
    return picked[:, 0] + (at - low) * (picked[:, 1] - picked[:, 0])


class GCQL(CQL[Networks]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gcql"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
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
