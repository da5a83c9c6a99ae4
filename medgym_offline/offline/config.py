"""Settings of the offline algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgym_offline.errors import MedGymError, unknown_name

__all__ = ["PROFILES", "OfflineConfig", "assignment", "parse_setting"]

_SCALINGS = ("learner", "dataset", "none")
_GUARDS = ("pair", "state")


@dataclass(frozen=True)
class OfflineConfig:
    """Settings of all algorithms; the equations are in the module of each (`dqn.py`, `cql.py`, ...).

    Attributes:
        updates, batch: Gradient steps, and transitions per learner and step.
        hidden, depth: Width and number of hidden layers of critic (ReLU) and actor (tanh).
        critic_lr, actor_lr: Adam step sizes.
        gamma: Discount of one decision.
        discount: "decision": gamma per decision, whatever it lasts; "elapsed": gamma**(dt / 4.8), so that 4.8 h (the
            default interval at K = 20) cost one gamma and splitting an interval changes nothing.
        state_scaling, reward_scaling: What observations and rewards are standardised with: "learner" (the learner's own
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
        explosion: A learner whose |Q| exceeds this many units of its scaled reward is stopped.
    """

    updates: int = 1000
    batch: int = 64
    hidden: int = 64
    depth: int = 2
    critic_lr: float = 1e-3
    actor_lr: float = 5e-4
    gamma: float = 0.99
    discount: str = "decision"
    state_scaling: str = "dataset"
    reward_scaling: str = "learner"
    ensemble: int = 1
    tau: float = 0.005
    saturation: float = 0.1
    alpha: float = 5.0
    candidates: tuple[int, int, int] = (4, 4, 4)
    noise: float = 0.1
    theta: float = 0.5
    theta_quantile: float | None = None
    beta_actor: float = 2.0
    beta_critic: float = 2.0
    beta_target: float = 0.0
    guard: str = "pair"
    codewords: int = 32
    explosion: float = 1e4

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        for name in ("updates", "batch", "hidden", "depth", "ensemble"):
            if getattr(self, name) < 1:
                raise MedGymError(f"offline config: {name} is {getattr(self, name)}; at least 1 is needed")
        if not 0.0 < self.gamma <= 1.0 or not 0.0 < self.tau <= 1.0:
            raise MedGymError(f"offline config: gamma {self.gamma} and tau {self.tau} must lie in (0, 1]")
        if self.discount not in ("decision", "elapsed"):
            raise unknown_name("discount", self.discount, ("decision", "elapsed"))
        if self.codewords < 2:
            raise MedGymError(f"offline config: codewords is {self.codewords}; at least 2 are needed")
        if self.theta_quantile is not None and not 0.0 <= self.theta_quantile <= 1.0:
            raise MedGymError(f"offline config: theta_quantile is {self.theta_quantile}; it must lie in [0, 1]")
        for name in ("state_scaling", "reward_scaling"):
            if getattr(self, name) not in _SCALINGS:
                raise unknown_name(name, getattr(self, name), _SCALINGS)
        if self.guard not in _GUARDS:
            raise unknown_name("guard", self.guard, _GUARDS)
        if self.guard == "state" and self.beta_target == 0:
            raise MedGymError(
                "offline config: guard is 'state' and beta_target is 0; a guard on states is the same for all actions, "
                "so it acts in the Bellman target alone: set beta_target"
            )
        if len(self.candidates) != 3 or min(self.candidates) < 0 or self.candidates[1] < 1:
            raise MedGymError(
                f"offline config: candidates {self.candidates} must be three counts, the second (data) at least 1"
            )
        for name in ("critic_lr", "actor_lr", "explosion"):
            if not getattr(self, name) > 0:
                raise MedGymError(f"offline config: {name} is {getattr(self, name)}; it must be positive")
        for name in ("saturation", "alpha", "noise", "theta", "beta_actor", "beta_critic", "beta_target"):
            if not getattr(self, name) >= 0:
                raise MedGymError(f"offline config: {name} is {getattr(self, name)}; it must not be negative")

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-able values."""
        return dataclasses.asdict(self) | {"candidates": list(self.candidates)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OfflineConfig:
        """Inverse of `to_dict`; missing fields take defaults, unknown ones raise `UnknownNameError`."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("offline setting", name, known)
        return cls(**values)

    def changed(self, assignments: Sequence[str]) -> OfflineConfig:
        """A copy with settings given as text, "name=value"; lists as "4,4,4", no value as "none".

        Raises:
            UnknownNameError: There is no such setting; with the nearest names.
            MedGymError: The text is not an assignment, or the value not of the setting's type.
        """
        values = self.to_dict()
        for text in assignments:
            name, value = assignment(text)
            if name not in values:
                raise unknown_name("offline setting", name, values)
            kind = "optional" if name == "theta_quantile" else type(values[name]).__name__
            values[name] = parse_setting(name, kind, value)
        return type(self).from_dict(values)


def assignment(text: str) -> tuple[str, str]:
    """Name and value of "name=value"; `MedGymError` if it is none."""
    name, sign, value = text.partition("=")
    if not sign:
        raise MedGymError(f"setting {text!r} is not of the form name=value, for example gamma=0.95")
    return name.strip().replace("-", "_"), value.strip()


def parse_setting(name: str, kind: str, text: str) -> Any:
    """The value of a setting given as text; `kind` is the name of its type, "optional" for a number or none.

    Raises:
        MedGymError: The text is no such value.
    """
    try:
        return _PARSERS[kind](text)
    except (ValueError, KeyError):
        raise MedGymError(f"setting {name}: {text!r} is not {_KINDS[kind]}") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": float,
    "optional": lambda text: None if text == "none" else float(text),
    "str": str,
    "list": lambda text: [int(part) for part in text.split(",")],
}
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "optional": "a number or none",
    "str": "text",
    "list": "whole numbers separated by commas",
}

PROFILES: dict[str, OfflineConfig] = {
    "quick": OfflineConfig(),
    "paper": OfflineConfig(updates=4000, batch=256, hidden=256),
}
"""Named settings: "quick" (minutes for 110 patients on one core) and "paper" (the published sizes)."""
