"""Recurrent forms of BC and IQL: every network of the learner reads the window through a gated recurrent unit.

    e_t  = GRU(w_t),   w_t the window of the last `OfflineConfig.history` decisions (:mod:`medgym_offline.sequences`)
    pi   = tanh(f(e_t)),   Q = f(e_t, a),   V = f(e_t)

Objectives are those of `bc.py` and `iql.py` with the window for the state. An episode has few decisions, so gradients
pass through the whole window and no further. Networks share the form, not the weights: the critic's gradient, larger
than the actor's, would else decide what is remembered.

Source: Cho et al. 2014 (GRU); Hausknecht & Stone 2015 (recurrent Q-learning).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from medgym_offline.offline.bc import BC
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.iql import IQL, ValueNetworks
from medgym_offline.offline.networks import Actors, member_seeds
from medgym_offline.seeds import derive_seed
from medgym_offline.sequences import StackedGRU
from medgym_offline.stack import Steps

__all__ = ["RecurrentBC", "RecurrentIQL"]

_HISTORY = 8


def _network(
    seeds: Sequence[int],
    widths: tuple[int, int],
    config: OfflineConfig,
    outputs: int,
    extra: int = 0,
    gain: float = 1.0,
) -> StackedGRU:
    """A network per seed on windows and actions of these widths; with one hidden layer behind the unit at `depth` 2."""
    window, action = widths
    sizes = (window + extra, *[config.hidden] * config.depth, outputs)
    steps = Steps(config.history, action, extra)
    return StackedGRU(len(seeds), sizes, "relu", seeds=list(seeds), output_gain=gain, steps=steps)


class RecurrentBC(BC):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gru-bc"
    history: ClassVar[int] = _HISTORY

    def build(self, seeds: Sequence[int]) -> Actors:
        """Fresh actors, one per seed."""
        return Actors(actor=_network([2 * s + 1 for s in seeds], self._widths, self.config, self._widths[1], gain=0.1))


class RecurrentIQL(IQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gru-iql"
    history: ClassVar[int] = _HISTORY

    def build(self, seeds: Sequence[int]) -> ValueNetworks:
        """Fresh networks, one per seed."""
        config, widths, action = self.config, self._widths, self._widths[1]
        members = member_seeds(seeds, config.ensemble)
        critic, target = (_network(members, widths, config, 1, extra=action) for _ in range(2))
        target.requires_grad_(False)
        actor = _network([2 * s + 1 for s in seeds], widths, config, action, gain=0.1)
        value = _network([derive_seed(s, "offline-value") for s in seeds], widths, config, 1)
        return ValueNetworks(critic=critic, target=target, actor=actor, members=config.ensemble, value=value)
