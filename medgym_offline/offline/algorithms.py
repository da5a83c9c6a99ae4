"""The offline algorithms by name."""

from __future__ import annotations

import dataclasses

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
from medgym_offline.offline.decision_transformer import DecisionTransformer
from medgym_offline.offline.dqn import DQN
from medgym_offline.offline.dqn_discrete import DiscreteDQN
from medgym_offline.offline.gcql import GCQL
from medgym_offline.offline.gcql_discrete import DiscreteGCQL
from medgym_offline.offline.gru import RecurrentBC, RecurrentIQL
from medgym_offline.offline.iql import IQL
from medgym_offline.offline.networks import Objective
from medgym_offline.offline.rebrac import ReBRAC
from medgym_offline.offline.td3bc import TD3BC

__all__ = ["ALGORITHMS", "algorithm_name", "settled"]

_OBJECTIVES: tuple[type[Objective], ...] = (
    *(BC, DQN, CQL, GCQL, DiscreteDQN, DiscreteCQL, DiscreteGCQL),
    *(BestBC, SafeBC, TD3BC, IQL, AWAC, ReBRAC, BCQ, SemiMarkovBCQ, LagrangianCQL, CPQ),
    *(RecurrentBC, RecurrentIQL, DecisionTransformer),
)
ALGORITHMS = {objective.name: objective for objective in _OBJECTIVES}


def algorithm_name(name: str) -> str:
    """`name`, if it is in `ALGORITHMS`; else `UnknownNameError` with the nearest names."""
    if name not in ALGORITHMS:
        raise unknown_name("offline algorithm", name, ALGORITHMS)
    return name


def settled(algorithm: str, config: OfflineConfig) -> OfflineConfig:
    """The settings with which `algorithm` learns when asked for `config`."""
    found = ALGORITHMS[algorithm]
    history = found.history if config.history == 1 else config.history
    return dataclasses.replace(config, **{"history": history, **found.settings})
