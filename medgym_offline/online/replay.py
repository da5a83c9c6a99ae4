"""The replay buffer of soft actor-critic: the decisions of episodes as rows of one tensor per policy.

It keeps the raw reward, and which simulator gave it: the mean harm that a row is learnt with is today's, not that of
the day it was collected. In float32 a row of sepsis takes about 100 bytes: 50,000 rows are 5 MB a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.online.rollouts import Collected

__all__ = ["Rows", "append", "draw_rows", "rows_of"]


@dataclass(frozen=True)
class Rows:
    """Decisions `(P, N, ..)`: `observations`, `following` (d), `actions` (A); `rewards`, `dt`, `ended`, and
    `simulators`, the number of the simulator among those of the policy; W = 2 d + A + 4 numbers each."""

    observations: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor
    dt: Tensor
    ended: Tensor
    simulators: Tensor

    def packed(self) -> Tensor:
        """One tensor `(P, N, W)`."""
        scalars = torch.stack([self.rewards, self.dt, self.ended, self.simulators], -1)
        return torch.cat([self.observations, self.actions, self.following, scalars], -1)

    @classmethod
    def unpacked(cls, rows: Tensor, observation_dim: int) -> Rows:
        """Inverse of :meth:`packed`."""
        action_dim = rows.shape[-1] - 2 * observation_dim - 4
        seen, action, following, scalars = rows.split([observation_dim, action_dim, observation_dim, 4], -1)
        return cls(seen, action, following, *scalars.unbind(-1))


def rows_of(batch: Collected, policies: int) -> tuple[Rows, Tensor]:
    """Rows `(P, R, ..)` of whole episodes of S simulators, and which are valid `(P, R)` bool.

    The last decision of an episode is terminal (the horizon).

    Args:
        batch: The episodes.
        policies: P: S, or 1 when all simulators are of one policy.
    """
    # The decision after the last one of the budget does not exist.
    following, goes_on = torch.zeros_like(batch.observations), torch.zeros_like(batch.valid)
    following[:, :-1], goes_on[:, :-1] = batch.observations[:, 1:], batch.valid[:, 1:]
    number = torch.arange(batch.valid.shape[0] // policies, device=batch.valid.device).repeat(policies)
    parts = (
        batch.observations,
        batch.actions,
        following * goes_on.unsqueeze(-1),
        batch.rewards,
        batch.dt,
        batch.valid * (1.0 - goes_on),
        number.to(batch.valid.dtype).view(-1, 1, 1).expand_as(batch.valid),
    )
    rows = Rows(*(part.reshape(policies, -1, *part.shape[3:]) for part in parts))
    return rows, (batch.valid > 0).reshape(policies, -1)


def append(buffer: Tensor, filled: Tensor, rows: Tensor, valid: Tensor) -> None:
    """Write the valid ones of `rows (P, R, W)` into `buffer (P, N, W)` and count them in `filled (P, 1)`, in place.

    `filled` counts all rows ever written; R must not be above N. `valid` is `(P, R)` bool.
    """
    place = (filled + valid.long().cumsum(1) - 1) % buffer.shape[1]
    policy, row = valid.nonzero(as_tuple=True)
    buffer[policy, place[policy, row]] = rows[policy, row]
    filled += valid.sum(1, keepdim=True)


def draw_rows(filled: Tensor, capacity: int, generators: Sequence[np.random.Generator], count: int) -> Tensor:
    """Row numbers `(P, count)`, uniform with replacement over what each policy holds, from its own generator."""
    held = filled.flatten().clamp(1, capacity).tolist()
    return torch.from_numpy(np.stack([rng.integers(0, n, count) for rng, n in zip(generators, held)]))
