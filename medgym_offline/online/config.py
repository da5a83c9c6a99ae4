"""Settings of online training, the recipe of behavior policies, and where the policies of a release lie.

Settings and recipe (`generation/behaviors.toml`) are saved with everything they produced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from medgym_offline.config import Count, NonNegative, Positive, Share, configuration, from_values, read, to_values
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
from medgym_offline.errors import PolicyError, unknown_name
from medgym_offline.files import release_folder

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor

__all__ = [
    "ALGORITHMS", "Algorithm", "BehaviorRecipe", "EARLY", "PEOPLE", "RELEASE", "SCOPES", "SHARED", "TIMINGS",
    "TrainConfig", "behavior_path", "load_behavior", "load_recipe", "require_trained",
]  # fmt: skip

Algorithm = Literal["trpo", "trpo-lag", "ppo", "ppo-lag", "sac"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


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


SCOPES: dict[str, str] = {
    "pop": "one policy trained on the population simulator",
    "dr": "one policy trained on every patient's own simulator",
    "ind": "the dr policy, fine-tuned for each patient on the patient's own simulator",
    "ind-scratch": "a policy per patient, trained from scratch on the patient's own simulator",
    "oracle": "a policy per patient, trained from scratch on the known truth: what could be reached",
}

PEOPLE: dict[str, str] = {
    "clu": "one policy per cluster of train people, trained as dr on the simulators of its members",
    "context": "one policy on every train person's own simulator that also reads the person's embedding, trained as dr",
}
"""Scopes for new people (:mod:`medgym_offline.people`); they have the settings of dr, and none is shipped."""

SHARED = ("dr", "pop", *PEOPLE)
"""Scopes in which people share a policy."""

EARLY: dict[str, tuple[str, float]] = {
    "ind-replay-25": ("ind-scratch", 0.25),
    "ind-medium": ("ind-scratch", 0.5),
    "ind-replay-75": ("ind-scratch", 0.75),
    "pop-medium": ("pop", 0.5),
    "dr-replay-25": ("dr", 0.25),
    "dr-replay-50": ("dr", 0.5),
    "dr-replay-75": ("dr", 0.75),
}
"""Early-stopped policy -> (whose training it is taken from, share of the return gap between random and expert).

The expert is the fully trained policy of the first word: ind for ind-medium, although that starts from dr and its early
form cannot (dr is past nine tenths of the gap before the first update)."""


TIMINGS = ("adaptive", "fixed")
RELEASE: tuple[tuple[str, str], ...] = (
    *((scope, timing) for timing in TIMINGS for scope in ("ind", "pop", "dr")),
    *((name, "adaptive") for name in EARLY if not name.startswith("ind-replay")),
)
"""The behavior policies that ship with a bank: (name, timing)."""


@configuration("behavior recipe")
class BehaviorRecipe:
    """How behavior policies are trained.

    Attributes:
        seed: Root of every random stream.
        decisions: Budget K; None: the disease's.
        reward: Reward kind of the process.
        algorithm: One of `medgym_offline.online.config.ALGORITHMS`.
        shard: Patients trained together. It is part of the result: float32 sums of another batch differ in their
            last digits. The number of workers is not.
        path_costs: Whether the constraint is on the first cost's integral along the path instead of the cost at a
            decision's end; `cost_limit` is then of that, per decision.
        early_world: World in which a share of the return gap is measured; "": the one trained in.
        patience: Stop a policy after this many updates without a better return (running mean of 10 updates); 0: never.
        early_updates: Longest training of ind-medium.
        early_episodes: Episodes per patient from which a share of the return gap is measured.
        settings: Scope -> settings of :class:`TrainConfig` that differ from its defaults.

    Raises:
        MedGymError: If a number is out of range; UnknownNameError for an unknown scope or setting.
    """

    seed: int = 0
    decisions: Count | None = None
    reward: RewardKind = "integral"
    algorithm: Algorithm = "trpo-lag"
    path_costs: bool = False
    early_world: str = ""
    shard: Count = 55
    patience: Annotated[int, Field(ge=0)] = 0
    early_updates: Count = 80
    early_episodes: Count = 16
    settings: Mapping[Literal["pop", "dr", "ind", "ind-scratch", "oracle"], Mapping[str, Any]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        for scope in SCOPES:
            self.config(scope)

    def config(self, scope: str, fine_tune_from: str | None = None) -> TrainConfig:
        """Training settings of one scope.

        Raises:
            UnknownNameError: If there is no such scope.
        """
        require_trained(scope)
        fixed = {"algorithm": self.algorithm, "seed": self.seed, "fine_tune_from": fine_tune_from}
        fixed |= {"shared": scope in SHARED}
        return TrainConfig.from_dict({**self.settings.get("dr" if scope in PEOPLE else scope, {}), **fixed})  # type: ignore[call-overload]

    def process(self, timing: Timing, disease: str, view: str = FULL) -> ProcessConfig:
        """The decision process that is trained in; infeasible budgets are refused here."""
        kind = (timing, self.decisions, self.reward)
        return ProcessConfig(*kind, path_costs=self.path_costs, disease=disease, view=view)  # type: ignore[arg-type]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the recipe."""
        return hashlib.sha256(json.dumps(to_values(self), sort_keys=True).encode()).hexdigest()


def require_trained(scope: str) -> None:
    """Raise `UnknownNameError` unless policies of `scope` are trained to their end."""
    if scope not in (*SCOPES, *PEOPLE):
        raise unknown_name("trained scope", scope, (*SCOPES, *PEOPLE))


def load_recipe(path: str | Path | None = None, disease: str = DEFAULT) -> BehaviorRecipe:
    """Read a recipe file; by default the release's `generation/<disease>-behaviors.toml`, or else `behaviors.toml`.

    Raises:
        MedGymError: If the file is missing, is not TOML, or holds an unknown or ill-typed entry.
    """
    if path is None:
        own = release_folder("generation") / f"{disease}-behaviors.toml"
        path = own if own.exists() else own.with_name("behaviors.toml")
    return read(BehaviorRecipe, path)


def behavior_path(
    bank_name: str, scope: str = "ind", timing: str = "adaptive", folder: str | Path | None = None
) -> Path:
    """Where the behavior policy of (bank, scope, timing) lies: `<bank>-<scope>-<timing>.safetensors`.

    `scope` is any of :data:`SCOPES`, or early-stopped, of :data:`EARLY`; or of :data:`PEOPLE`.

    Raises:
        UnknownNameError: For an unknown scope or timing.
    """
    known = (*SCOPES, *EARLY, *PEOPLE)
    if scope not in known:
        raise unknown_name("behavior scope", scope, known)
    if timing not in TIMINGS:
        raise unknown_name("timing", timing, TIMINGS)
    home = Path(folder) if folder is not None else release_folder("generation") / "behaviors"
    return home / f"{bank_name}-{scope}-{timing}.safetensors"


def load_behavior(bank_name: str, scope: str = "ind", timing: str = "adaptive") -> StackedActor:
    """The behavior policy shipped for a bank.

    Raises:
        UnknownNameError: For an unknown scope or timing.
        PolicyError: If none is shipped, naming those that are and the command that trains it.
    """
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.policies.loading import load_policy

    path = behavior_path(bank_name, scope, timing)
    if not path.exists():
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors"))) or "none"
        train = f"medgym-offline behavior train --bank {bank_name} --scope {scope} --timing {timing}"
        raise PolicyError(f"no behavior policy {path.stem!r} (shipped: {have}); train it with: {train}")
    policy = load_policy(path)
    if not isinstance(policy, StackedActor):
        raise PolicyError(f"{path}: not a stacked actor; a behavior policy must be one")
    return policy
