"""CPQ, constraints-penalized Q-learning: only safe actions pass their value on.

    L_critic(phi) = E_(s,a,r,s')~D [ (Q(s, a) - y)^2 ]
    y             = r + gamma*(1 - d)*( Qbar(s', a')  if Qbar_cost(s', a') <= limit,  else min(Qbar(s', a'), worst) )
    L_actor(psi)  = E_s~D [ (-Q(s, pi(s))  if Q_cost(s, pi(s)) <= limit,  else Q_cost(s, pi(s))) + lambda*mean(h^2) ]

    a'       pi(s')
    worst    smallest return of the learner's episodes; the authors have 0, the worst where rewards are positive
    limit, Q_cost, L_cost   `cql_lagrangian.py`: costs of actions off the data are pushed up by CQL's bracket, where the
             authors push up those that an autoencoder finds unlikely

Two departures besides: where the actor's own action is unsafe it descends the cost (the authors' loss is zero there,
and has no gradient back), and the limit of an episode is asked of what is left of it from every state, as theirs.

Source: Xu et al. 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.cql_lagrangian import SafeCQL, SafeNetworks
from medgym_offline.offline.data import Batch
from medgym_offline.offline.dqn import DQN

__all__ = ["CPQ"]


class CPQ(SafeCQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "cpq"

    def following(self, networks: SafeNetworks, batch: Batch) -> Tensor:
        """Value of the next state, of unsafe actions at most the worst return, (P, B)."""
        action = networks.policy(batch.next_state)
        q = networks.target_q(batch.next_state, action)
        safe = -networks.cost.target_q(batch.next_state, action) <= self.limit
        return torch.where(safe, q, torch.minimum(q, self.worst))

    def critic_loss(self, networks: SafeNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and numbers to watch, as DQN's."""
        return DQN.critic_loss(self, networks, batch)

    def actor_loss(self, networks: SafeNetworks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        output = networks.actor(batch.state)
        action = torch.tanh(output)
        cost = networks.q_cost(batch.state, action)
        loss = torch.where(cost.detach() <= self.limit, -networks.q(batch.state, action), cost).mean(1)
        return loss + self.config.saturation * output.square().mean((1, 2))
