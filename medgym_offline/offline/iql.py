"""IQL: values of the data's better actions without ever asking for another one, then imitation weighted by them.

    L_V(chi)      = E_(s,a)~D [ |t - 1(u < 0)|*u^2 ],    u = min_i Qbar_i(s, a) - V_chi(s)
    L_critic(phi) = E_(s,a,r,s')~D [ sum_i (Q_i(s, a) - r - gamma*(1 - d)*V(s'))^2 ]
    L_actor(psi)  = E_(s,a)~D [ min(exp(beta*A), w_max)*||pi(s) - a||^2 ],    A = min_i Qbar_i(s, a) - V(s)

    V_chi     state value: the t-expectile over the data's actions, t = `OfflineConfig.expectile`; 0.5 is their mean, 1
              would be the best one
    Q_i       two critics, or `OfflineConfig.ensemble` if it is more;  Qbar_i  their slowly moving copies
    beta      `OfflineConfig.temperature`;  w_max  `OfflineConfig.largest_weight`

The actor is the deterministic one of `awac.py`, a regression: a Gaussian of fixed spread, of which the mean is
exported. Other symbols: `dqn.py`; `saturation` has no part here.

Source: Kostrikov et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.offline.awac import AWAC
from medgym_offline.offline.data import Batch
from medgym_offline.offline.networks import Networks, Step
from medgym_offline.seeds import derive_seed
from medgym_offline.stack import StackedMLP

__all__ = ["IQL", "ValueNetworks"]


@dataclass(frozen=True, kw_only=True)
class ValueNetworks(Networks):
    """`Networks` and V."""

    value: StackedMLP

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (*super().parts(), self.value)

    def v(self, state: Tensor) -> Tensor:
        """V(s): (P, B, d) -> (P, B)."""
        return self.value(state).squeeze(-1)


class IQL(AWAC[ValueNetworks]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "iql"

    def build(self, seeds: Sequence[int]) -> ValueNetworks:
        """Fresh networks, one per seed."""
        value = self.network([derive_seed(s, "offline-value") for s in seeds], 1)
        return ValueNetworks(**vars(super().build(seeds)), value=value)

    def steps(self, networks: ValueNetworks) -> list[Step]:
        """V, critic, actor."""
        return [(networks.value, self.config.critic_lr, self.value_loss), *super().steps(networks)]

    def value_loss(self, networks: ValueNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and "v", the mean value."""
        with torch.no_grad():
            q = networks.target_q(batch.state, batch.action)
        v = networks.v(batch.state)
        u = q - v
        loss = ((self.config.expectile - (u.detach() < 0).float()).abs() * u.square()).mean(1)
        return loss, {"v": v.detach().mean(1)}

    def following(self, networks: ValueNetworks, batch: Batch) -> Tensor:
        """V(s'), (P, B)."""
        return networks.v(batch.next_state)

    def baseline(self, networks: ValueNetworks, batch: Batch) -> Tensor:
        """V(s), (P, B)."""
        return networks.v(batch.state)
