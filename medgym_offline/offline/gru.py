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
from medgym_offline.offline.iql import IQL, ValueNetworks
from medgym_offline.offline.networks import Actors, N, Objective
from medgym_offline.sequences import StackedGRU
from medgym_offline.stack import StackedMLP, Steps

__all__ = ["RecurrentBC", "RecurrentIQL"]


class Recurrent(Objective[N]):
    """Every network is a gated recurrent unit on the window; with one hidden layer behind it at `depth` 2."""

    history: ClassVar[int] = 8

    def network(
        self, seeds: Sequence[int], outputs: int, activation: str = "relu", extra: int = 0, gain: float = 1.0
    ) -> StackedMLP:
        """See `Objective`; every activation is a ReLU."""
        (window, action), config = self._widths, self.config
        sizes = (window + extra, *[config.hidden] * config.depth, outputs)
        steps = Steps(config.history, action, extra)
        return StackedGRU(len(seeds), sizes, "relu", seeds=seeds, output_gain=gain, steps=steps)


class RecurrentBC(Recurrent[Actors], BC):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gru-bc"


class RecurrentIQL(Recurrent[ValueNetworks], IQL):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "gru-iql"
