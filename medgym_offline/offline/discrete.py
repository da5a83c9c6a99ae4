"""The networks of P learners with discrete actions: one value per codeword."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.offline.codebook import nearest
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.stack import StackedMLP

__all__ = ["DiscreteNetworks", "build_discrete"]


@dataclass(frozen=True)
class DiscreteNetworks:
    """Q_phi(s, .) (critic) and Qbar (its slowly moving copy), stacks of P networks from the state to C values.

    Attributes:
        critic, target: The stacks.
        codebook: a_1 .. a_C, (P, C, A).
        penalty: (P, C), taken from the values where a codeword is chosen; zeros in all but GCQL.
    """

    critic: StackedMLP
    target: StackedMLP
    codebook: Tensor
    penalty: Tensor

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target

    def acting(self) -> StackedMLP:
        """The stack that decides: a copy of the critic, from the standardised state to Q - penalty."""
        copy = self.critic.select(range(self.critic.patients))
        with torch.no_grad():
            copy.layers[-1].bias.sub_(self.penalty[:, None])  # type: ignore[operator]
        return copy

    def choice(self, values: Tensor) -> Tensor:
        """Number of the codeword chosen on values (P, B, C) -> (P, B); the first of equals."""
        return (values - self.penalty[:, None]).argmax(-1)

    def policy(self, state: Tensor) -> Tensor:
        """The chosen codeword: (P, B, d) -> (P, B, A)."""
        chosen = self.choice(self.critic(state))[..., None]
        return self.codebook.gather(1, chosen.expand(-1, -1, self.codebook.shape[-1]))

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q of the codeword nearest to an action: (P, B, d), (P, B, A) -> (P, B)."""
        return self.critic(state).gather(-1, nearest(self.codebook, action)[..., None]).squeeze(-1)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), tau)


def build_discrete(
    seeds: Sequence[int], state_dim: int, codebook: Tensor, penalty: Tensor, config: OfflineConfig
) -> DiscreteNetworks:
    """Fresh networks, one per seed; a learner's initial weights depend on its own seed alone."""
    sizes = (state_dim, *[config.hidden] * config.depth, codebook.shape[1])
    critic, target = (StackedMLP(len(seeds), sizes, "relu", seeds=[2 * s for s in seeds]) for _ in range(2))
    target.requires_grad_(False)
    return DiscreteNetworks(critic, target, codebook, penalty)
