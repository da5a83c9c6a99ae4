"""The networks of P learners: critic, target critic, deterministic actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.stack import StackedMLP

__all__ = ["Networks", "build_networks"]


@dataclass(frozen=True)
class Networks:
    """Q_phi (critic), Qbar (its slowly moving copy) and pi (actor), each a stack of P."""

    critic: StackedMLP
    target: StackedMLP
    actor: StackedMLP

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
    # A small last layer: the first actions are moderate and the tanh is not saturated from the start.
    actor = StackedMLP(
        len(seeds), (state_dim, *hidden, action_dim), "tanh", seeds=[2 * s + 1 for s in seeds], output_gain=0.1
    )
    return Networks(critics[0], critics[1], actor)
