"""DQN with continuous actions: fitted Q-learning in which an actor approximates the argmax.

    L_critic(phi) = E_(s,a,r,s')~D [ (Q_phi(s, a) - y)^2 ],    y = r + gamma*(1 - d)*Qbar(s', pi(s'))
    L_actor(psi)  = E_s~D [ -Q_phi(s, pi_psi(s)) + lambda*mean(h_psi(s)^2) ],    pi_psi(s) = tanh(h_psi(s))

    s, s'    state (standardized observation, with remaining time and remaining decisions) before and after
    a        action in [-1, 1]: treatment, and the interval under adaptive timing
    r        reward of the decision, divided by the standard deviation of the learner's rewards
    d        1 where the 96 h have been reached
    gamma    discount of the decision (`OfflineConfig.discount`)
    Q_phi    critic;  Qbar  its slowly moving copy
    pi_psi   deterministic actor; max_a' Q(s', a') of DQN is approximated by Q(s', pi(s'))
    h_psi    its output before the tanh;  lambda  `OfflineConfig.saturation`
    D        the learner's dataset: one patient's episodes (ind) or everyone's (pop)

With an ensemble of E critics the loss is the sum of theirs, Qbar(s', a') in y the smallest of their values, and Q in
the actor's loss their mean.

The square of h keeps the actor off the walls of the box, where tanh has no gradient to bring it back; the mean is over
the action's components. In actor-critics with a random policy the entropy does that: d3rlpy's CQL without its
entropy term is as much worse as ours without lambda (`docs/algorithms.md`, "Saturation").

Nothing keeps pi near the data: where Q is overestimated between the data, the actor goes there. That is what
this baseline is for. Source: Mnih et al. 2015 for the target network, Lillicrap et al. 2016 for the actor,
Fujimoto et al. 2018 for the smallest value; MedGym paper, appendix C.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.networks import Networks, Objective, Step

__all__ = ["C", "DQN"]

C = TypeVar("C", bound=Networks)
"""Networks with a critic."""


class DQN(Objective[C]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "dqn"
    activation = "relu"
    """Of the critics."""

    def build(self, seeds: Sequence[int]) -> Any:
        """Fresh networks, one per seed."""
        critic, target = self.critics(seeds, 1, self.activation, self._widths[1])
        return Networks(critic=critic, target=target, actor=self.actor(seeds), members=self.config.ensemble)

    def steps(self, networks: C) -> list[Step]:
        """Critic first, then the actor."""
        return [
            (networks.critic, self.config.critic_lr, self.critic_loss),
            (networks.actor, self.config.actor_lr, lambda nets, batch: (self.actor_loss(nets, batch), {})),
        ]

    def following(self, networks: C, batch: Batch) -> Tensor:
        """Value of the next state, (P, B)."""
        return networks.target_q(batch.next_state, networks.policy(batch.next_state))

    def target(self, networks: C, batch: Batch) -> Tensor:
        """y of the Bellman error, (P, B), without gradient."""
        with torch.no_grad():
            return batch.reward + batch.discount * self.following(networks, batch)

    def critic_loss(self, networks: C, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and numbers to watch, each (P,): "td" (squared Bellman error), "q" (largest |Q| seen)."""
        q = networks.q_each(batch.state, batch.action)
        td = (q - self.target(networks, batch)[:, None]).square().mean(2)
        return td.sum(1), {"td": td.detach().mean(1), "q": q.detach().abs().amax((1, 2))}

    def actor_loss(self, networks: C, batch: Batch) -> Tensor:
        """Loss (P,)."""
        output = networks.actor(batch.state)
        action = torch.tanh(output)
        loss = (self.hinge(batch, action) - networks.q(batch.state, action)).mean(1)
        weight = self.config.saturation
        return loss + weight * output.square().mean((1, 2)) if weight else loss

    def hinge(self, batch: Batch, action: Tensor) -> Tensor | float:
        """Added to -Q of the actor's actions (P, B, A), (P, B); nothing here."""
        return 0.0
