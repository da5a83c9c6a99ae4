"""The offline algorithms by name."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from medgym_offline.errors import unknown_name
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.data import Batch, StackedData
from medgym_offline.offline.dqn import DQN
from medgym_offline.offline.gcql import GCQL
from medgym_offline.offline.networks import Networks

__all__ = ["ALGORITHMS", "Objective", "make_objective"]


class Objective(Protocol):
    """What a learner minimises: one loss per learner for the critic and one for the actor.

    Attributes:
        name: As in `ALGORITHMS`.
        normals, uniforms: Random candidate actions per batch row that `Batch` has to carry.
    """

    name: str
    normals: int
    uniforms: int

    def critic_loss(self, networks: Networks, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (P,), and numbers to watch (P,); "q", the largest |Q|, must be among them."""
        ...

    def actor_loss(self, networks: Networks, batch: Batch) -> Tensor:
        """Loss (P,)."""
        ...


ALGORITHMS: dict[str, type[DQN]] = {"dqn": DQN, "cql": CQL, "gcql": GCQL}


def make_objective(algorithm: str, config: OfflineConfig, data: StackedData) -> Objective:
    """The objective called `algorithm`; `UnknownNameError` with the nearest names if there is none."""
    if algorithm not in ALGORITHMS:
        raise unknown_name("offline algorithm", algorithm, ALGORITHMS)
    return ALGORITHMS[algorithm](config, data)
