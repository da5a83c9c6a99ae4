"""The offline algorithms by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from medgym_offline.errors import unknown_name
from medgym_offline.offline.awac import AWAC
from medgym_offline.offline.bc import BC
from medgym_offline.offline.bc_best import BestBC, SafeBC
from medgym_offline.offline.bcq_discrete import BCQ, SemiMarkovBCQ
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.cpq import CPQ
from medgym_offline.offline.cql import CQL
from medgym_offline.offline.cql_discrete import DiscreteCQL
from medgym_offline.offline.cql_lagrangian import LagrangianCQL
from medgym_offline.offline.data import StackedData
from medgym_offline.offline.dqn import DQN, Step
from medgym_offline.offline.dqn_discrete import DiscreteDQN
from medgym_offline.offline.gcql import GCQL
from medgym_offline.offline.gcql_discrete import DiscreteGCQL
from medgym_offline.offline.iql import IQL
from medgym_offline.offline.rebrac import ReBRAC
from medgym_offline.offline.td3bc import TD3BC
from medgym_offline.stack import StackedMLP

__all__ = ["ALGORITHMS", "ALIASES", "AnyNetworks", "Objective", "algorithm_name", "make_objective"]


class AnyNetworks(Protocol):
    """The networks of P learners, as a `Learner` sees them."""

    codebook: Any
    """(P, C, A) codewords of the discrete algorithms, None where actions are continuous."""
    gate: Any
    """As in `StackedActor`."""

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        ...

    def acting(self) -> StackedMLP:
        """The stack that decides, from the standardized state to the output before tanh or argmax."""
        ...

    def policy(self, state: Tensor) -> Tensor:
        """Actions: (P, B, d) -> (P, B, A)."""
        ...

    def update_target(self, tau: float) -> None:
        """Move slowly moving copies, if there are any."""
        ...


class Objective(Protocol):
    """What a learner minimizes.

    Attributes:
        name: As in `ALGORITHMS`.
        normals, uniforms: Random candidate actions per batch row that `Batch` has to carry.
        more: Whether it has to carry the columns of `StackedData.more`.
        delay: The last of `steps`, and the targets, are taken once in so many updates.
        settings: Settings that are part of the algorithm, whatever the configuration says.
    """

    name: str
    normals: int
    uniforms: int
    more: bool
    delay: int
    settings: ClassVar[Mapping[str, Any]]

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int | Sequence[int] = 0): ...

    def build(self, seeds: Sequence[int]) -> Any:
        """Fresh networks (`AnyNetworks`), one per seed."""
        ...

    def rows(self, data: StackedData) -> StackedData:
        """The slices to learn from, given those it was made with."""
        ...

    def steps(self, networks: Any) -> list[Step]:
        """The gradient steps of one update, in order: which stack, its step size, and its loss.

        A loss takes (networks, batch) and returns (P,) and numbers to watch (P,); "q" among them is the largest |Q|,
        by which a learner that diverges is stopped.
        """
        ...


ALGORITHMS: dict[str, type[Objective]] = {
    "bc": BC,
    "dqn": DQN,
    "cql": CQL,
    "gcql": GCQL,
    "dqn-discrete": DiscreteDQN,
    "cql-discrete": DiscreteCQL,
    "gcql-discrete": DiscreteGCQL,
    "bc-best": BestBC,
    "bc-safe": SafeBC,
    "td3bc": TD3BC,
    "iql": IQL,
    "awac": AWAC,
    "rebrac": ReBRAC,
    "bcq-discrete": BCQ,
    "bcq-smdp": SemiMarkovBCQ,
    "cql-lagrangian": LagrangianCQL,
    "cpq": CPQ,
}

ALIASES = {"dqn-continuous": "dqn", "cql-continuous": "cql", "gcql-continuous": "gcql"}
"""Other names, accepted wherever an algorithm is asked for."""


def algorithm_name(name: str) -> str:
    """The name in `ALGORITHMS` of an algorithm or alias; `UnknownNameError` with the nearest names if there is none."""
    name = ALIASES.get(name, name)
    if name not in ALGORITHMS:
        raise unknown_name("offline algorithm", name, ALGORITHMS)
    return name


def make_objective(
    algorithm: str, config: OfflineConfig, data: StackedData, seed: int | Sequence[int] = 0
) -> Objective:
    """The objective called `algorithm`; `UnknownNameError` with the nearest names if there is none."""
    return ALGORITHMS[algorithm_name(algorithm)](config, data, seed)
