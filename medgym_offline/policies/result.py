"""`TrainResult`: what a training leaves behind, offline or online."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy

__all__ = ["TrainResult"]

Log = TypeVar("Log")


@dataclass(frozen=True, eq=False)
class TrainResult(Generic[Log]):
    """A trained stack of policies.

    Attributes:
        policy: The policies after the last update (the protocol scores the last, never the best).
        log: Offline: a line per 50 updates, means over learners: update, and what the objective reports (mse; or td,
            q, gap). Online: name -> `(updates, S or P)`: return, cost, decisions, first and last interval, multiplier,
            kl, gain, accepted (TRPO) or clipped (PPO), alpha and entropy (SAC), value_loss.
        stopped: Learner or patient id -> why (offline) or at which update (online) it was stopped early.
        checkpoints: Offline: update -> the policies then, the last included; empty unless asked for.
        state: Online: what training would go on from; of `train_behavior`, without a replay buffer.
    """

    policy: StackedActor | HistoryPolicy
    log: Log
    stopped: dict[str, Any]
    checkpoints: dict[int, StackedActor | HistoryPolicy] = field(default_factory=dict)
    state: Any = None
