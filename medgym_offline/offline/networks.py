"""The networks of P learners: critic, target critic, deterministic actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.fused import relu_network
from medgym_offline.seeds import derive_seed
from medgym_offline.stack import StackedMLP

__all__ = ["Actors", "Networks", "build_actor", "build_networks", "each_member", "follow", "member_seeds"]


def member_seeds(seeds: Sequence[int], members: int) -> list[int]:
    """Seeds of the critics of an ensemble, those of a learner side by side; the first does not depend on how many."""
    return [derive_seed(s, "offline-member", e) if e else 2 * s for s in seeds for e in range(members)]


def each_member(critic: StackedMLP, rows: Tensor, members: int) -> Tensor:
    """Every member on the learner's rows: (P, N, W) -> (P, E, N, out)."""
    spread = rows if members == 1 else rows.repeat_interleave(members, 0)
    values = critic(spread)
    return values.view(rows.shape[0], members, *values.shape[1:])


@torch.no_grad()
def follow(slow: StackedMLP, fast: StackedMLP, tau: float) -> None:
    """slow <- slow + tau*(fast - slow)."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), tau)


@dataclass(frozen=True, kw_only=True)
class Actors:
    """pi alone, a stack of P, for algorithms without a critic.

    Attributes:
        codebook, gate: Of the discrete forms (`DiscreteNetworks`); here actions are continuous.
    """

    actor: StackedMLP
    codebook: ClassVar[None] = None
    gate: ClassVar[None] = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (self.actor,)

    def acting(self) -> StackedMLP:
        """The stack that decides: a function of the standardized state whose tanh is the action."""
        return self.actor

    def policy(self, state: Tensor) -> Tensor:
        """pi(s): (P, B, d) -> (P, B, A) in [-1, 1]."""
        return torch.tanh(self.actor(state))

    def update_target(self, tau: float) -> None:
        """There is no target."""


@dataclass(frozen=True, kw_only=True)
class Networks(Actors):
    """pi (actor), Q_phi (critic) and Qbar (its slowly moving copy).

    Attributes:
        critic, target: Stacks of P*E, the E members of a learner side by side.
        members: E.
    """

    critic: StackedMLP
    target: StackedMLP
    members: int = 1

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target, self.actor

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a), mean over members: (P, B, d), (P, B, A) -> (P, B)."""
        return self.q_each(state, action).mean(1)

    def q_each(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of each member: (P, B, d), (P, B, A) -> (P, E, B)."""
        return each_member(self.critic, torch.cat([state, action], -1), self.members).squeeze(-1)

    def target_q(self, state: Tensor, action: Tensor) -> Tensor:
        """Qbar(s, a), the smallest of the members': (P, B, d), (P, B, A) -> (P, B)."""
        return each_member(self.target, torch.cat([state, action], -1), self.members).squeeze(-1).amin(1)

    def q_candidates(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q of C actions per state and member, in one pass: (P, B, d), (P, C, B, A) -> (P, E, C, B)."""
        count, candidates, batch, width = actions.shape
        rows = torch.empty((count, candidates, batch, state.shape[-1] + width), dtype=state.dtype, device=state.device)
        rows[..., : state.shape[-1]] = state[:, None]
        rows[..., state.shape[-1] :] = actions
        spread = rows.flatten(1, 2).repeat_interleave(self.members, 0) if self.members > 1 else rows.flatten(1, 2)
        return relu_network(self.critic, spread).view(count, self.members, candidates, batch)

    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        follow(self.target, self.critic, tau)


def build_networks(
    seeds: Sequence[int], state_dim: int, action_dim: int, config: OfflineConfig, critic_activation: str = "relu"
) -> Networks:
    """Fresh networks, one per seed; a learner's initial weights depend on its own seed alone."""
    hidden, members = [config.hidden] * config.depth, member_seeds(seeds, config.ensemble)
    sizes = (state_dim + action_dim, *hidden, 1)
    critic, target = (StackedMLP(len(members), sizes, critic_activation, seeds=members) for _ in range(2))
    target.requires_grad_(False)
    actor = build_actor(seeds, state_dim, action_dim, config)
    return Networks(critic=critic, target=target, actor=actor, members=config.ensemble)


def build_actor(seeds: Sequence[int], state_dim: int, action_dim: int, config: OfflineConfig) -> StackedMLP:
    """Fresh actors, one per seed, the output before the tanh."""
    # A small last layer: the first actions are moderate and the tanh is not saturated from the start.
    sizes = (state_dim, *[config.hidden] * config.depth, action_dim)
    return StackedMLP(len(seeds), sizes, "tanh", seeds=[2 * s + 1 for s in seeds], output_gain=0.1)
