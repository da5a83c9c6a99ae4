"""Behavior cloning: the actor repeats the mean action of the data.

    L_actor(psi) = E_(s,a)~D [ ||pi_psi(s) - a||^2 ]

    s        state (standardized observation, with remaining time and remaining decisions)
    a        action in [-1, 1]: treatment, and the interval under adaptive timing; the norm sums over its columns
    pi_psi   deterministic actor, tanh of a network; its optimum is E[a | s]
    D        the learner's dataset: one patient's episodes (ind) or everyone's (pop)

No rewards and no critic: it is the floor that an offline algorithm has to beat to have learned anything from the
rewards. Where the behavior is deterministic up to symmetric noise, the optimum is the behavior without its noise.

Source: Pomerleau 1991 (neural networks trained on demonstrations).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.networks import Actors, Objective, Step

__all__ = ["BC"]


class BC(Objective[Actors]):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "bc"

    def build(self, seeds: Sequence[int]) -> Actors:
        """Fresh actors, one per seed."""
        return Actors(actor=self.actor(seeds))

    def steps(self, networks: Actors) -> list[Step]:
        """The actor alone."""
        return [(networks.actor, self.config.actor_lr, self.loss)]

    def loss(self, networks: Actors, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,) and "mse", the same without gradient."""
        loss = (networks.policy(batch.state) - batch.action).square().sum(-1).mean(1)
        return loss, {"mse": loss.detach()}
