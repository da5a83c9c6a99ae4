"""CQL under a bound on the cost of an episode, with a Lagrange multiplier.

    L_critic(phi)   = L_CQL(phi)                                        on the rewards
    L_cost(chi)     = L_CQL(chi) with -k for r and gamma = 1            Q_cost = minus what it learns
    L_actor(psi)    = E_s~D [ (-Q(s, pi(s)) + lam*Q_cost(s, pi(s))) / (1 + lam) + lambda*mean(h_psi(s)^2) ]
    L_multiplier    = -lam*( E_s0~D Q_cost(s0, pi(s0)) - limit ),       lam = softplus of one number per learner

    k        cost of the decision: `OfflineConfig.cost` = "end" or "path", the first cost of the disease; divided by its
             standard deviation
    limit    `OfflineConfig.cost_limit` times the mean cost of the learner's episodes
    s0       the first state of an episode. Costs are not discounted, so Q_cost(s0, .) is an episode's
    lam      moved by `OfflineConfig.multiplier_lr` up while the estimate is above the limit, down while it is below

Being conservative in -k, the cost critic's error is to take actions off the data for too expensive: with a large alpha
the policy stays below the limit. Q_cost in the actor is the members' mean, in targets the largest.
Other symbols: `cql.py`.

Source: Kumar et al. 2020 (CQL); Altman 1999, Liu et al. 2023 (Lagrangian forms of offline algorithms).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.errors import DatasetError
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.networks import Networks, Step
from medgym_offline.seeds import derive_seed
from medgym_offline.stack import StackedMLP

__all__ = ["LagrangianCQL", "SafeCQL", "SafeNetworks"]


@dataclass(frozen=True, kw_only=True)
class SafeNetworks(Networks):
    """`Networks`, critics of -k with the same actor, and the multiplier: networks of one input, which is 0."""

    cost: Networks
    multiplier: StackedMLP

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (*super().parts(), self.cost.critic, self.cost.target, self.multiplier)

    def update_target(self, tau: float) -> None:
        """Both kinds of critics."""
        super().update_target(tau)
        self.cost.update_target(tau)

    def q_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Q_cost(s, a), (P, B)."""
        return -self.cost.q(state, action)

    def lam(self) -> Tensor:
        """(P,)."""
        zero = torch.zeros_like(self.multiplier.layers[0].bias)  # type: ignore[arg-type]
        return torch.nn.functional.softplus(self.multiplier(zero)).flatten()


class SafeCQL(CQL[SafeNetworks]):
    """What algorithms with a critic of costs share.

    Raises:
        DatasetError: If no episode of a learner's data is as cheap as the limit.
    """

    more = True

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        super().__init__(config, data, seed)
        for key, (_, mean, least, scale) in zip(data.keys, data.episodes):
            if config.cost_limit * mean < least - 1e-6 * abs(least):
                raise DatasetError(
                    f"{key}: cost_limit {config.cost_limit:g} allows a cost of {config.cost_limit * mean * scale:.4g} "
                    f"per episode, and the cheapest in its data has {least * scale:.4g}; raise cost_limit to "
                    f"{least / mean:.3g} or more"
                )
        episodes = torch.as_tensor(data.episodes, dtype=torch.float32).to(data.rows.device)
        self.worst, self.limit = episodes[:, :1], config.cost_limit * episodes[:, 1:2]
        present = data.present.to(data.rows.device)
        first = data.more[..., data.action_dim + 1]
        self.first_share = (first * present).sum(1) / present.sum(1)

    def build(self, seeds: Sequence[int]) -> SafeNetworks:
        """Fresh networks, one per seed."""
        nets = super().build(seeds)
        cost = super().build([derive_seed(s, "offline-cost") >> 2 for s in seeds])
        multiplier = StackedMLP(len(seeds), (1, 1), seeds=seeds)
        return SafeNetworks(**vars(nets), cost=dataclasses.replace(cost, actor=nets.actor), multiplier=multiplier)

    def steps(self, networks: SafeNetworks) -> list[Step]:
        """Critic, critic of costs, actor."""
        critic, actor = super().steps(networks)
        return [critic, (networks.cost.critic, self.config.critic_lr, self.cost_loss), actor]

    def cost_loss(self, networks: SafeNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and "cost_td"."""
        with torch.no_grad():
            following = networks.cost.target_q(batch.next_state, networks.policy(batch.next_state))
            target = (batch.discount > 0).float() * following - batch.cost
        loss, numbers = self.conservative_loss(networks.cost, batch, target)
        return loss, {"cost_td": numbers["td"]}


class LagrangianCQL(SafeCQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "cql-lagrangian"

    def steps(self, networks: SafeNetworks) -> list[Step]:
        """Critic, critic of costs, multiplier, actor."""
        *critics, actor = super().steps(networks)
        return [*critics, (networks.multiplier, self.config.multiplier_lr, self.multiplier_loss), actor]

    def multiplier_loss(self, networks: SafeNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,), "lam", and "excess", the estimated cost of an episode above the limit in units of its scale."""
        with torch.no_grad():
            above = networks.q_cost(batch.state, networks.policy(batch.state)) - self.limit
            excess = (batch.first * above).mean(1) / self.first_share
        lam = networks.lam()
        return -lam * excess, {"lam": lam.detach(), "excess": excess}

    def actor_loss(self, networks: SafeNetworks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        output = networks.actor(batch.state)
        action, lam = torch.tanh(output), networks.lam().detach()
        value = networks.q(batch.state, action).mean(1) - lam * networks.q_cost(batch.state, action).mean(1)
        return self.config.saturation * output.square().mean((1, 2)) - value / (1 + lam)
