"""Settings of online training, saved with everything they produced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from medgym_offline.config import configuration, from_values, to_values

__all__ = ["ALGORITHMS", "Algorithm", "TrainConfig"]

Algorithm = Literal["trpo", "trpo-lag", "ppo", "ppo-lag", "sac"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


@configuration("training config")
class TrainConfig:
    """Online training of a stack of tanh-squashed Gaussian policies.

        maximize  E sum_k gamma^(t_k / T) (r_k + rho dt_k)    subject to    E[cost per decision] <= cost_limit

    with T the disease's reference interval (4.8 h in sepsis).

    Attributes:
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
        reset_std: When starting from a given actor, its spreads are set to this; None keeps them.
        radius: TRPO: largest mean KL of one update.
        radius_fall: The radius of the last update as a share of the first one's; it falls linearly.
        iterations: Conjugate-gradient iterations.
        damping: Added to the diagonal of the Fisher matrix.
        line_search: Candidates tried, each half as long as the one before.
        fisher_stride: Every how many rows the Fisher matrix is estimated on.
        clip: PPO: how far a ratio may gain from leaving 1.
        policy_epochs: Passes over the rows of a rollout.
        minibatch: Rows of one Adam step at most.
        entropy: Weight of the entropy.
        policy_rate: Adam's learning rate of the actor.
        soft_steps: SAC: gradient steps per update of the loop.
        soft_batch: Transitions of one step.
        soft_rate: Adam's learning rate of actor, critics and log alpha.
        soft_tau: Share of the critics that their copies take over in each step.
        soft_alpha: Entropy weight at the start.
        soft_capacity: Transitions a policy holds at most.
        event_updates: Events of an episode (meals, errors of measurement) are drawn for so many updates and then come
            again, so that what follows from them alone is computed once; 0: always new.
        discount: gamma per reference interval.
        gae: Decay of generalized advantage estimation, per decision.
        center: Add rho dt to the reward, rho a running mean harm per unit of time of each simulator.
        center_rate: Rate of that running mean.
        cost_limit: Largest wanted mean cost per decision.
        multiplier_rate, multiplier_max: Step and ceiling of the Lagrange multiplier.
        value_rate, value_epochs, value_minibatches: Adam on the critic.
        value_warmup: First updates in which only the critic learns.
        fine_tune_from: What the given initial actor is (its content hash or file), for the record.

    Raises:
        MedGymError: A setting is out of range; UnknownNameError for an unknown algorithm or setting.
    """

    algorithm: Algorithm = "trpo-lag"
    shared: bool = False
    updates: Count = 200
    episodes: Count = 52
    seed: int = 0
    hidden: Count = 64
    initial_std: Positive = 0.6
    interval_std: Positive = 0.25
    first_doses: tuple[float, ...] = ()
    reset_std: Positive | None = None
    radius: Positive = 0.01
    radius_fall: Share = 1.0
    iterations: Count = 10
    damping: Positive = 1e-2
    line_search: Count = 10
    fisher_stride: Count = 5
    clip: Positive = 0.2
    policy_epochs: Count = 10
    minibatch: Count = 64
    entropy: NonNegative = 0.01
    policy_rate: Positive = 3e-4
    soft_steps: Count = 20
    soft_batch: Count = 256
    soft_rate: Positive = 1e-3
    soft_tau: Share = 0.01
    soft_alpha: Positive = 0.005
    soft_capacity: Count = 50_000
    event_updates: Annotated[int, Field(ge=0)] = 0
    discount: Share = 0.997
    gae: Share = 0.95
    center: bool = True
    center_rate: Share = 0.1
    cost_limit: float = 0.1
    multiplier_rate: NonNegative = 0.05
    multiplier_max: NonNegative = 1.0
    value_rate: Positive = 1e-3
    value_epochs: Count = 2
    value_minibatches: Count = 4
    value_warmup: Annotated[int, Field(ge=0)] = 2
    fine_tune_from: str | None = None

    @property
    def constrained(self) -> bool:
        """Whether a Lagrange multiplier weighs the cost: the algorithms whose name ends in "-lag"."""
        return self.algorithm.endswith("-lag")

    @property
    def base(self) -> str:
        """The algorithm without its constraint: "trpo", "ppo" or "sac"."""
        return self.algorithm.removesuffix("-lag")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; those of soft actor-critic only if it is the algorithm."""
        return {n: v for n, v in to_values(self).items() if self.base == "sac" or not n.startswith("soft_")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of :meth:`to_dict`; an unknown key is an error that suggests the nearest."""
        return from_values(cls, values, "training config")
