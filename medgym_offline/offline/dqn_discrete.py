"""DQN with discrete actions: fitted Q-learning over a codebook, with a true argmax.

    L(phi) = E_(s,a,r,s')~D [ (Q_phi(s, c(a)) - y)^2 ],    y = r + gamma*(1 - d)*max_c Qbar(s', c)
    pi(s)  = a_c*,   c* = argmax_c Q_phi(s, c)

    a_1..a_C   the learner's codebook (`codebook.py`), C = `OfflineConfig.codewords`; under adaptive timing a codeword
               holds the interval too, so the argmax also chooses when to decide next
    c(a)       number of the codeword nearest to the data's action a
    Q_phi      network from the state to C values;  Qbar  its slowly moving copy

s, r, d, gamma, D and ensembles as in `dqn.py`. What is learned is the value of a codeword as the data's actions near it
turned out, so the rounding of actions costs accuracy, never consistency: more codewords are finer and have fewer rows
each. The policy can only do what some row of the data nearly did, in any state.

Source: Mnih et al. 2015; MedGym paper, section 5 (its text; its code is the continuous form).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.offline.discrete import DiscreteNetworks, build_codebook, nearest, picked
from medgym_offline.offline.networks import Objective, Step

__all__ = ["DiscreteDQN"]


class DiscreteDQN(Objective[DiscreteNetworks]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,).

    Args:
        config: Settings.
        data: The learners' slices, from which the codebooks are made.
        seed: Root seed of the codebooks.

    Raises:
        DatasetError: If a learner has fewer distinct actions than codewords.
    """

    name = "dqn-discrete"

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        super().__init__(config, data, seed)
        self.codebook = build_codebook(data, config.codewords, seed)

    def build(self, seeds: Sequence[int]) -> DiscreteNetworks:
        """Fresh networks, one per seed."""
        return self.networks(seeds)

    def networks(
        self, seeds: Sequence[int], extra: Callable[[Tensor], Tensor] | None = None, gate: float | None = None
    ) -> DiscreteNetworks:
        """The same with `extra` or `gate` of :class:`DiscreteNetworks`."""
        critic, target = self.critics(seeds, (1 if gate is None else 2) * self.codebook.shape[1])
        return DiscreteNetworks(critic, target, self.codebook, extra, self.config.ensemble, gate)

    def steps(self, networks: DiscreteNetworks) -> list[Step]:
        """The critic alone: the argmax needs no actor."""
        return [(networks.critic, self.config.critic_lr, self.critic_loss)]

    def target(self, networks: DiscreteNetworks, batch: Batch) -> Tensor:
        """y of the Bellman error, (P, B), without gradient."""
        with torch.no_grad():
            return batch.reward + batch.discount * networks.target_value(batch.next_state)

    def conservative(self, batch: Batch, values: Tensor, q: Tensor) -> Tensor | None:
        """Added to each member's loss, (P, E), given Q of all codewords (P, E, B, C) and of the data's (P, E, B)."""
        return None

    def critic_loss(self, networks: DiscreteNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and numbers to watch, each (P,): "td", "q" (largest |Q|), and with a conservative term "gap"."""
        values = networks.values_each(batch.state)
        q = picked(values, nearest(self.codebook, batch.action))
        td = (q - self.target(networks, batch)[:, None]).square().mean(2)
        numbers = {"td": td.detach().mean(1), "q": values.detach().abs().amax((1, 2, 3))}
        gap = self.conservative(batch, values, q)
        if gap is None:
            return td.sum(1), numbers
        return (td + self.config.alpha * gap).sum(1), numbers | {"gap": gap.detach().mean(1)}
