"""Settings of the offline algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field

from medgym_offline.config import Count, NonNegative, Positive, Share, configuration, from_text, from_values, to_values
from medgym_offline.errors import MedGymError
from medgym_offline.sequences import LONGEST

__all__ = ["OfflineConfig", "PROFILES"]

Scaling = Literal["learner", "dataset", "none"]


@configuration("offline config")
class OfflineConfig:
    """Settings of all algorithms; the equations are in the module of each (`dqn.py`, `cql.py`, ...).

    Attributes:
        updates, batch: Gradient steps, and transitions per learner and step.
        hidden, depth: Width and number of hidden layers of critic (ReLU) and actor (tanh).
        critic_lr, actor_lr: Adam step sizes.
        gamma: Discount of one decision.
        discount: "decision": gamma per decision, whatever it lasts; "elapsed": gamma**(dt / 4.8), so that 4.8 h (the
            default interval at K = 20) cost one gamma and splitting an interval changes nothing.
        state_scaling, reward_scaling: What observations and rewards are standardized with: "learner" (the learner's own
            rows), "dataset" (all rows given; of a whole dataset, the numbers its manifest lists) or "none". A patient's
            own spread is no scale for the states that another simulator leads to, so states have the dataset's.
        ensemble: Critics per learner. Targets use the smallest of their values, choices and actor their mean.
        tau: Step of the target critic, Qbar <- Qbar + tau*(Q - Qbar).
        saturation: lambda, weight of the squared output of the actor before its tanh (continuous forms with a critic).
        alpha: Weight of the conservative term (CQL, GCQL).
        candidates: Actions in its logsumexp: (near the policy, near the data, uniform).
        noise: Standard deviation of the candidates near policy and data, in action units.
        theta: Radius of GCQL's ball as a fraction of the farthest data point.
        theta_quantile: If given, that quantile (0 to 1) of the data's distances is the radius instead.
        beta_actor, beta_critic: Weights of GCQL's guard in the actor and inside the logsumexp.
        beta_target: Its weight in the Bellman target (continuous form; 0 in the default variant).
        guard: What the ball holds: "pair" (state and action) or "state" alone (continuous form, needs `beta_target`).
        codewords: Actions in the codebook of a discrete form.
        best: Share of each patient's episodes that bc-best and bc-safe learn from.
        weight: Of the values against the imitation in TD3+BC.
        penalties: Weights of ReBRAC's imitation in the actor and in the Bellman target.
        smoothing: Standard deviation and bound of the noise on the target's action (TD3+BC, ReBRAC), in action units.
        delay: Updates of the critic per update of the actor and of the slow copies (TD3+BC, ReBRAC).
        expectile: Of the values of the data's actions that IQL's V is.
        temperature: Of the weights exp(temperature*advantage) (IQL, AWAC); 0 is cloning, large is greedy.
        largest_weight: Bound of these weights.
        threshold: Codewords less likely than this share of the likeliest are not chosen (BCQ).
        cost: The cost that the safe algorithms bound: "end" (as it is at each decision's end) or "path" (its integral
            over the decision).
        cost_limit: Their bound of an episode's cost, as a factor of the mean episode of the learner's data.
        multiplier_lr: Adam step size of the Lagrange multiplier.
        history: Observations that a learner sees, with the actions and intervals between them
            (:mod:`medgym_offline.sequences`). Sequence learners take 8 where this is 1.
        target_return: Quantile of the patient's episode returns that a Decision Transformer asks for.
        explosion: A learner whose |Q| exceeds this many units of its scaled reward is stopped.
    """

    updates: Count = 1000
    batch: Count = 64
    hidden: Count = 64
    depth: Count = 2
    critic_lr: Positive = 1e-3
    actor_lr: Positive = 5e-4
    gamma: Share = 0.99
    discount: Literal["decision", "elapsed"] = "decision"
    state_scaling: Scaling = "dataset"
    reward_scaling: Scaling = "learner"
    ensemble: Count = 1
    tau: Share = 0.005
    saturation: NonNegative = 0.1
    alpha: NonNegative = 5.0
    candidates: tuple[Annotated[int, Field(ge=0)], Count, Annotated[int, Field(ge=0)]] = (4, 4, 4)
    noise: NonNegative = 0.1
    theta: NonNegative = 0.5
    theta_quantile: Annotated[float, Field(ge=0, le=1)] | None = None
    beta_actor: NonNegative = 2.0
    beta_critic: NonNegative = 2.0
    beta_target: NonNegative = 0.0
    guard: Literal["pair", "state"] = "pair"
    codewords: Annotated[int, Field(ge=2)] = 32
    best: Share = 0.1
    weight: Positive = 2.5
    penalties: tuple[NonNegative, NonNegative] = (0.1, 0.01)
    smoothing: tuple[NonNegative, NonNegative] = (0.2, 0.5)
    delay: Count = 2
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.7
    temperature: NonNegative = 3.0
    largest_weight: Positive = 100.0
    threshold: Share = 0.3
    cost: Literal["end", "path"] = "end"
    cost_limit: NonNegative = 1.0
    multiplier_lr: Positive = 1e-2
    history: Annotated[int, Field(ge=1, le=LONGEST)] = 1
    target_return: Annotated[float, Field(ge=0, le=1)] = 0.9
    explosion: Positive = 1e4

    def __post_init__(self) -> None:
        if self.guard == "state" and self.beta_target == 0:
            raise MedGymError(
                "guard is 'state' and beta_target is 0; a guard on states is the same for all actions, so it acts in "
                "the Bellman target alone: set beta_target"
            )

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-able values."""
        return to_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OfflineConfig:
        """Inverse of `to_dict`; missing fields take defaults, unknown ones raise `UnknownNameError`."""
        return from_values(cls, values, "offline config")

    def changed(self, assignments: Sequence[str]) -> OfflineConfig:
        """A copy with settings given as text, "name=value"; lists as "4,4,4", no value as "none".

        Raises:
            UnknownNameError: There is no such setting; with the nearest names.
            MedGymError: The text is not an assignment, or the value not of the setting's type.
        """
        forms = get_type_hints(type(self), include_extras=True)
        return dataclasses.replace(self, **from_text(forms, assignments, "offline setting"))


PROFILES: dict[str, OfflineConfig] = {
    "quick": OfflineConfig(),
    "paper": OfflineConfig(updates=4000, batch=256, hidden=256),
}
"""Named settings: "quick" (minutes for 110 patients on one core) and "paper" (the published sizes)."""
