"""BCQ with discrete actions: the best codeword among those that the data are likely to choose.

    A(s)    = { c : g(c | s) >= tau*max_c' g(c' | s) },    g = softmax(l_phi(s, .))
    pi(s)   = a_c*,   c* = argmax_{c in A(s)} Q_phi(s, c)
    L(phi)  = E_(s,a,r,s')~D [ (Q_phi(s, c(a)) - y)^2 - log g(c(a) | s) + 0.01*mean_c l_phi(s, c)^2 ]
    y       = r + gamma*(1 - d)*Qbar(s', c*(s')),    c*(s') by Q_phi and its g, the smallest of the members' Qbar

    Q_phi, l_phi   the two halves of one network's 2C outputs, with common hidden layers (the authors' own form for
                   images, and d3rlpy's); the mean of its members, with an ensemble
    tau            `OfflineConfig.threshold`; 0 would be DQN, 1 imitates the likeliest codeword

bcq-smdp is the same in a semi-Markov process: a decision that lasts dt is discounted by gamma^(dt / reference), that
is, `discount` is "elapsed" whatever the configuration says. Only the undiscounted integral of the reward over a
decision is stored, so the discount inside a decision is left out.

The policy is exact, not distilled: its file holds the network, the codebook and log(tau) (`StackedActor`, gate).
a_c, c(a), r, d, D: `dqn_discrete.py`. Source: Fujimoto et al. 2019 (discrete BCQ); Sutton et al. 1999 (semi-Markov).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.discrete import DiscreteNetworks, nearest, picked
from medgym_offline.offline.dqn_discrete import DiscreteDQN
from medgym_offline.offline.networks import each_member

__all__ = ["BCQ", "SemiMarkovBCQ"]


class BCQ(DiscreteDQN):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "bcq-discrete"

    def build(self, seeds: Sequence[int]) -> DiscreteNetworks:
        """Fresh networks, one per seed."""
        return self.networks(seeds, gate=math.log(self.config.threshold))

    def critic_loss(self, networks: DiscreteNetworks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and numbers to watch, each (P,): "td", "q" (largest |Q|), "nll" (of the data's codewords)."""
        values, logits = each_member(networks.critic, batch.state, networks.members).chunk(2, -1)
        code = nearest(self.codebook, batch.action)
        q = picked(values, code)
        td = (q - self.target(networks, batch)[:, None]).square().mean(2)
        nll = -picked(torch.log_softmax(logits, -1), code).mean(2)
        numbers = {"td": td.detach().mean(1), "q": values.detach().abs().amax((1, 2, 3)), "nll": nll.detach().mean(1)}
        return (td + nll + 0.01 * logits.square().mean((2, 3))).sum(1), numbers


class SemiMarkovBCQ(BCQ):
    """BCQ with the discount of the time that passes."""

    name = "bcq-smdp"
    settings: ClassVar[Mapping[str, Any]] = {"discount": "elapsed"}
