"""When to decide: the decision clock and the interval that an action asks for.

Time runs in ticks of 2^-17 h (0.03 s, for the 96 h horizon): every hour that occurs is then a float32 number, sums of
intervals are exact, and an episode ends at exactly the horizon, however it was cut.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from medgym_offline.errors import ProtocolError

__all__ = [
    "ProcessConfig",
    "RewardKind",
    "Timing",
    "action_to_interval",
    "decision_interval",
    "feasible_interval",
    "interval_to_action",
]

Timing = Literal["adaptive", "fixed"]
RewardKind = Literal["integral", "paper", "authors"]


@dataclass(frozen=True)
class ProcessConfig:
    """The decision process around a simulator.

        fixed timing      dt = horizon / decisions
        adaptive timing   dt = min_interval + (a + 1)/2 * (max_interval - min_interval),   a the last action component,
                          clipped to [max(min_interval, t - max_interval (k - 1)), min(max_interval, t)],
                          t the hours and k the decisions that remain

    Attributes:
        timing: "adaptive" (the policy chooses the interval; 4 action components) or "fixed" (3).
        decisions: K, most decisions in an episode.
        reward: Reward of one decision, see :mod:`medgym_offline.envs.reward`.
        noise: False switches off the initial perturbation and the residual noise: the process is deterministic.
        horizon: Hours until the episode terminates.
        min_interval, max_interval: Shortest and longest hold of one treatment, hours.
        initial_noise: Standard deviation of the perturbation of the first state, normalised units.
        cell: Longest quadrature cell of the integral reward, hours.
        remission: Whether an episode also terminates when severity has stayed below `remission_severity` for
            `remission_hours` hours (looked at on the quadrature cells, judged at decisions).

    Raises:
        ProtocolError: A value out of range, or a budget of decisions that cannot fill the horizon.
    """

    timing: Timing = "adaptive"
    decisions: int = 20
    reward: RewardKind = "integral"
    noise: bool = True
    horizon: float = 96.0
    min_interval: float = 0.5
    max_interval: float = 36.0
    initial_noise: float = 0.05
    cell: float = 1.0
    remission: bool = False
    remission_severity: float = 2.0
    remission_hours: float = 12.0

    def __post_init__(self) -> None:
        if self.timing not in get_args(Timing):
            raise ProtocolError(f"timing is {self.timing!r}; choose one of {', '.join(get_args(Timing))}")
        if self.reward not in get_args(RewardKind):
            raise ProtocolError(f"reward is {self.reward!r}; choose one of {', '.join(get_args(RewardKind))}")
        count = self.decisions
        if isinstance(count, bool) or not isinstance(count, numbers.Real) or count % 1 != 0 or count < 1:
            raise ProtocolError(f"decisions is {self.decisions!r}; give a whole number of at least 1")
        object.__setattr__(self, "decisions", int(self.decisions))
        for name in ("horizon", "min_interval", "max_interval", "cell", "remission_hours"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ProtocolError(f"{name} is {value!r}; give a positive number of hours")
        if not (math.isfinite(self.initial_noise) and self.initial_noise >= 0):
            raise ProtocolError(f"initial_noise is {self.initial_noise!r}; give a number of at least 0")
        if self.max_interval < 2 * self.min_interval:
            raise ProtocolError("max_interval is below twice min_interval; widen the range of intervals")
        for name in ("horizon", "min_interval", "max_interval"):
            if (getattr(self, name) * 1024) % 1 or self.horizon > 8192:
                # Only such hours lie on the ticks of the clock.
                raise ProtocolError(f"{name} is {getattr(self, name)!r} h; give a multiple of 1/1024 h, up to 8192 h")
        if self.decisions * self.max_interval < self.horizon:
            least = math.ceil(self.horizon / self.max_interval)
            raise ProtocolError(
                f"{self.decisions} decisions of at most {self.max_interval:g} h cannot fill {self.horizon:g} h; "
                f"set decisions to {least} or more"
            )
        if self.decisions * self.min_interval > self.horizon:
            most = math.floor(self.horizon / self.min_interval)
            raise ProtocolError(
                f"{self.decisions} decisions of at least {self.min_interval:g} h do not fit in {self.horizon:g} h; "
                f"set decisions to {most} or fewer"
            )

    @property
    def tick(self) -> float:
        """Resolution of the clock in hours: a power of two, so that every multiple up to the horizon is a float32."""
        return 2.0 ** (math.ceil(math.log2(self.horizon)) - 24)

    @property
    def action_dim(self) -> int:
        """3 treatments, and the interval if timing is adaptive."""
        return 4 if self.timing == "adaptive" else 3

    @property
    def observation_dim(self) -> int:
        """6 physiological variables, fluid balance, remaining time, remaining decisions."""
        return 9

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-ready values."""
        return asdict(self)


def action_to_interval(action: Tensor, config: ProcessConfig) -> Tensor:
    """Hours that an action component in [-1, 1] asks for, before feasibility: affine, -1 shortest, 1 longest."""
    share = (action.clamp(-1.0, 1.0) + 1.0) / 2.0
    return config.min_interval + share * (config.max_interval - config.min_interval)


def interval_to_action(hours: Tensor, config: ProcessConfig) -> Tensor:
    """Inverse of :func:`action_to_interval`; hours outside the range of intervals give the nearer end."""
    share = (hours - config.min_interval) / (config.max_interval - config.min_interval)
    return (2.0 * share - 1.0).clamp(-1.0, 1.0)


def feasible_interval(time: Tensor, left: Tensor, config: ProcessConfig) -> tuple[Tensor, Tensor]:
    """Shortest and longest interval after which the rest of the horizon can still be filled.

        lower = max(min_interval, t - max_interval (k - 1))        upper = min(max_interval, t)

    with t the hours and k the decisions that remain. The last decision takes all that remains (lower = upper = t).

    Args:
        time: Hours since the start.
        left: Decisions left, the next one included; same shape.

    Returns:
        Lower and upper, hours; both 0 where the horizon has been reached.
    """
    remaining = config.horizon - time
    lower = (remaining - config.max_interval * (left - 1)).clamp_min(config.min_interval)
    upper = remaining.clamp_max(config.max_interval)
    return torch.minimum(lower, upper), upper


def decision_interval(time: Tensor, left: Tensor, config: ProcessConfig, wish: Tensor | None = None) -> Tensor:
    """Length of the next hold in hours, on the clock's ticks.

    Fixed timing cuts what remains into equal parts. Adaptive timing takes the wish into the feasible range. A wish
    that would leave less than the shortest interval takes the rest as well; where that would be too long a hold, it
    leaves exactly the shortest interval. So every hold is within [min_interval, max_interval] and holds sum to the
    horizon exactly.

    Args:
        time: Hours since the start (P, B).
        left: Decisions left, the next one included (P, B).
        config: Clock and limits.
        wish: Hours asked for (P, B); needed for adaptive timing only.

    Returns:
        Hours (P, B); 0 where the horizon has been reached.
    """
    remaining = config.horizon - time
    if config.timing == "fixed":
        hours = remaining / left.clamp_min(1.0)
    else:
        if wish is None:
            raise ProtocolError("adaptive timing needs the interval that the action asks for")
        lower, upper = feasible_interval(time, left, config)
        hours = torch.maximum(torch.minimum(wish, upper), lower)
        rest = remaining - hours
        short = (rest > 0) & (rest < config.min_interval)
        absorbed = torch.where(remaining <= config.max_interval, remaining, remaining - config.min_interval)
        hours = torch.where(short, absorbed, hours)
    ticked = torch.round(hours / config.tick) * config.tick
    # Rounding passes the gradient on, for schedules found by gradient search.
    return hours + (ticked - hours).detach() if hours.requires_grad else ticked
