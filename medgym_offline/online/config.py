"""Settings of online training, saved with everything they produced."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from medgym_offline.errors import MedGymError, unknown_name
from medgym_offline.online.ppo import Proximal
from medgym_offline.online.sac import SoftSettings
from medgym_offline.online.trpo import TrustRegion

__all__ = ["ALGORITHMS", "Algorithm", "TrainConfig"]

Algorithm = Literal["trpo", "trpo-lag", "ppo", "ppo-lag", "sac"]
ALGORITHMS: tuple[str, ...] = ("trpo", "trpo-lag", "ppo", "ppo-lag", "sac")
_SOFT = "soft_"


@dataclass(frozen=True)
class TrainConfig:
    """Online training of a stack of tanh-squashed Gaussian policies.

        maximise  E sum_k gamma^(t_k / 4.8) (r_k + rho dt_k)    subject to    E[cost per decision] <= cost_limit

    Args:
        algorithm: "trpo", "ppo" or "sac"; "trpo-lag" or "ppo-lag" with the safety constraint.
        shared: One policy for all simulators of the bank (scope "dr", or "pop" on the population simulator)
            instead of one per patient (scope "ind").
        updates: Policy updates.
        episodes: Episodes per simulator and update. Episodes, not decisions, are what is held equal when K is compared.
        seed: Root of every random stream.
        hidden: Width of both hidden layers, actor and critic.
        initial_std: Spread of the treatments before squashing at the start.
        interval_std: Spread of the interval head before squashing at the start.
        first_doses: Mean doses at the start, physical units, in the order of the disease's treatments; empty: the
            middle of the actions' range.
        radius_fall: The last update's radius as a share of the first one's; it falls linearly.
        event_updates: Events of an episode (meals, errors of measurement) are drawn for so many updates and then come
            again, so that what follows from them alone is computed once; 0: always new.
        reset_std: When starting from a given actor, its spreads are set to this; None keeps them.
        radius, iterations, damping, line_search, fisher_stride: The trust region (:class:`TrustRegion`).
        clip, policy_epochs, minibatch, entropy, policy_rate: The clipped surrogate (:class:`Proximal`).
        soft_steps, soft_batch, soft_rate, soft_tau, soft_alpha, soft_capacity: Soft actor-critic
            (:class:`~medgym_offline.online.sac.SoftSettings`).
        discount: gamma per 4.8 hours.
        gae: Decay of generalised advantage estimation, per decision.
        centre: Add rho dt to the reward, rho a running mean harm per hour of each simulator.
        centre_rate: Rate of that running mean.
        cost_limit: Largest wanted mean cost per decision.
        multiplier_rate, multiplier_max: Step and ceiling of the Lagrange multiplier.
        value_rate, value_epochs, value_minibatches: Adam on the critic.
        value_warmup: First updates in which only the critic learns.
        fine_tune_from: What the given initial actor is (its content hash or file), for the record.

    Raises:
        MedGymError: If a setting is out of range; UnknownNameError for an unknown algorithm.
    """

    algorithm: str = "trpo-lag"
    shared: bool = False
    updates: int = 200
    episodes: int = 52
    seed: int = 0
    hidden: int = 64
    initial_std: float = 0.6
    interval_std: float = 0.25
    first_doses: tuple[float, ...] = ()
    radius_fall: float = 1.0
    event_updates: int = 0
    reset_std: float | None = None
    radius: float = 0.01
    iterations: int = 10
    damping: float = 1e-2
    line_search: int = 10
    fisher_stride: int = 5
    clip: float = 0.2
    policy_epochs: int = 10
    minibatch: int = 64
    entropy: float = 0.01
    policy_rate: float = 3e-4
    soft_steps: int = SoftSettings.steps
    soft_batch: int = SoftSettings.batch
    soft_rate: float = SoftSettings.rate
    soft_tau: float = SoftSettings.tau
    soft_alpha: float = SoftSettings.alpha
    soft_capacity: int = SoftSettings.capacity
    discount: float = 0.997
    gae: float = 0.95
    centre: bool = True
    centre_rate: float = 0.1
    cost_limit: float = 0.1
    multiplier_rate: float = 0.05
    multiplier_max: float = 1.0
    value_rate: float = 1e-3
    value_epochs: int = 2
    value_minibatches: int = 4
    value_warmup: int = 2
    fine_tune_from: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise unknown_name("online algorithm", self.algorithm, ALGORITHMS)
        for name in ("updates", "episodes", "hidden", "iterations", "line_search", "fisher_stride"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("value_epochs", "value_minibatches", "policy_epochs", "minibatch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("soft_steps", "soft_batch", "soft_capacity"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("initial_std", "interval_std", "radius", "damping", "value_rate", "clip", "policy_rate"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("soft_rate", "soft_alpha"):
            self._require(name, getattr(self, name) > 0, "above 0")
        object.__setattr__(self, "first_doses", tuple(self.first_doses))
        for name in ("discount", "gae", "centre_rate", "soft_tau", "radius_fall"):
            self._require(name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        for name in ("multiplier_rate", "multiplier_max", "value_warmup", "entropy", "event_updates"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("reset_std", self.reset_std is None or self.reset_std > 0, "above 0, or left out")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise MedGymError(f"training setting {name} is {getattr(self, name)!r}; it must be {wanted}")

    @property
    def constrained(self) -> bool:
        """Whether a Lagrange multiplier weighs the cost: the algorithms whose name ends in "-lag"."""
        return self.algorithm.endswith("-lag")

    @property
    def base(self) -> str:
        """The algorithm without its constraint: "trpo", "ppo" or "sac"."""
        return self.algorithm.removesuffix("-lag")

    @property
    def proximal(self) -> Proximal:
        """The part of the clipped surrogate."""
        return Proximal(self.clip, self.policy_epochs, self.minibatch, self.entropy, self.policy_rate)

    @property
    def soft(self) -> SoftSettings:
        """The part of soft actor-critic."""
        names = [field.name for field in dataclasses.fields(SoftSettings)]
        return SoftSettings(**{name: getattr(self, _SOFT + name) for name in names})

    def trust_region(self, update: int) -> TrustRegion:
        """The trust-region part of an update."""
        radius = self.radius * (1.0 - (1.0 - self.radius_fall) * update / self.updates)
        return TrustRegion(radius, self.iterations, self.damping, self.line_search, self.fisher_stride)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able settings; those of soft actor-critic only if it is the algorithm."""
        values = dataclasses.asdict(self)
        return {n: v for n, v in values.items() if self.base == "sac" or not n.startswith(_SOFT)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Inverse of :meth:`to_dict`; an unknown key is an error that suggests the nearest."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise unknown_name("training setting", name, known)
        return cls(**values)
