"""The networks of P learners: critic, target critic, deterministic actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.stack import StackedMLP

__all__ = ["Actors", "Networks", "build_actor", "build_networks"]


@dataclass(frozen=True)
class Actors:
    """pi alone, a stack of P, for algorithms without a critic."""

    actor: StackedMLP
    codebook: ClassVar[None] = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (self.actor,)

    def acting(self) -> StackedMLP:
        """The stack that decides: a function of the standardised state whose tanh is the action."""
        return self.actor

    def policy(self, state: Tensor) -> Tensor:
        """pi(s): (P, B, d) -> (P, B, A) in [-1, 1]."""
        return torch.tanh(self.actor(state))

    def update_target(self, tau: float) -> None:
        """There is no target."""


@dataclass(frozen=True)
class Networks:
    """Q_phi (critic), Qbar (its slowly moving copy) and pi (actor), each a stack of P."""

    critic: StackedMLP
    target: StackedMLP
    actor: StackedMLP
    codebook: ClassVar[None] = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target, self.actor

    def acting(self) -> StackedMLP:
        """The stack that decides: a function of the standardised state whose tanh is the action."""
        return self.actor

    def policy(self, state: Tensor) -> Tensor:
        """pi(s): (P, B, d) -> (P, B, A) in [-1, 1]."""
        return torch.tanh(self.actor(state))

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a): (P, B, d), (P, B, A) -> (P, B)."""
        return self.critic(torch.cat([state, action], -1)).squeeze(-1)

    def target_q(self, state: Tensor, action: Tensor) -> Tensor:
        """Qbar(s, a): (P, B, d), (P, B, A) -> (P, B)."""
        return self.target(torch.cat([state, action], -1)).squeeze(-1)

    def q_candidates(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q of C actions per state in one pass: (P, B, d), (P, C, B, A) -> (P, C, B)."""
        count, candidates, batch, width = actions.shape
        rows = torch.empty((count, candidates, batch, state.shape[-1] + width), dtype=state.dtype, device=state.device)
        rows[..., : state.shape[-1]] = state[:, None]
        rows[..., state.shape[-1] :] = actions
        return self.critic(rows.flatten(1, 2)).view(count, candidates, batch)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), tau)


def build_networks(seeds: Sequence[int], state_dim: int, action_dim: int, config: OfflineConfig) -> Networks:
    """Fresh networks, one per seed; a learner's initial weights depend on its own seed alone."""
    hidden = [config.hidden] * config.depth
    critics = [
        StackedMLP(len(seeds), (state_dim + action_dim, *hidden, 1), "relu", seeds=[2 * s for s in seeds])
        for _ in range(2)
    ]
    critics[1].requires_grad_(False)
    critics[1].load_state_dict(critics[0].state_dict())
    return Networks(critics[0], critics[1], build_actor(seeds, state_dim, action_dim, config))


def build_actor(seeds: Sequence[int], state_dim: int, action_dim: int, config: OfflineConfig) -> StackedMLP:
    """Fresh actors, one per seed, the output before the tanh."""
    # A small last layer: the first actions are moderate and the tanh is not saturated from the start.
    sizes = (state_dim, *[config.hidden] * config.depth, action_dim)
    return StackedMLP(len(seeds), sizes, "tanh", seeds=[2 * s + 1 for s in seeds], output_gain=0.1)
