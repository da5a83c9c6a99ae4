"""When to decide: the decision clock and the interval that an action asks for.

Time runs in whole ticks, the disease's own or the finest power of two that float32 counts up to the horizon: every time
that occurs is one float32 number, and an episode ends at exactly the horizon, however it was cut.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, WrapValidator
from torch import Tensor

from medgym_offline.config import configuration, plain_values
from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.diseases.registry import DEFAULT, disease
from medgym_offline.errors import ProtocolError
from medgym_offline.patients import whole_number

__all__ = [
    "ProcessConfig", "RewardKind", "Timing", "action_to_interval", "decision_interval", "decisions_before",
    "feasible_interval", "interval_to_action", "on_tick",
]  # fmt: skip

Timing = Literal["adaptive", "fixed"]
RewardKind = Literal["integral", "state", "paper", "authors"]


def _or_default(value: Any, check: Any) -> Any:
    number = whole_number(value)  # NumPy's too
    return None if value is None else check(value if number is None else number)


# None is the disease's own.
_Count = Annotated[int, Field(ge=1), WrapValidator(_or_default)]
_Number = Annotated[float, Field(ge=0), WrapValidator(_or_default)]
_Time = Annotated[float, Field(gt=0), WrapValidator(_or_default)]


@configuration("process", ProtocolError)
class ProcessConfig:
    """The decision process around a simulator.

        fixed timing      dt = horizon / decisions
        adaptive timing   dt = min_interval + (a + 1)/2 * (max_interval - min_interval),   a the last action component,
                          clipped to [max(min_interval, t - max_interval (k - 1)), min(max_interval, t)],
                          t the time and k the decisions that remain

    Attributes:
        timing: "adaptive" (the policy chooses the interval, one action component more) or "fixed".
        decisions: K, most decisions in an episode.
        reward: Reward of one decision, see :mod:`medgym_offline.envs.reward`.
        noise: False switches off the initial perturbation and the residual noise: the process is deterministic.
        horizon: Time until the episode terminates, in the disease's unit, as all times here.
        min_interval, max_interval: Shortest and longest interval.
        initial_noise: SD of the perturbation of the first state, normalized.
        cell: Longest quadrature cell of the integral reward.
        path_costs: Whether costs are also integrated along the path.
        remission: Whether an episode also terminates when severity has stayed below `remission_severity` for
            `remission_time` (looked at on the quadrature cells, judged at decisions).
        disease: Name of the disease. What is None above takes its value from the disease's process.
        view: What a policy sees, a name of `Disease.views` or "full".

    Raises:
        ProtocolError: A value out of range, or a budget of decisions that cannot fill the horizon.
        UnknownNameError: No such view.
    """

    timing: Timing = "adaptive"
    decisions: _Count = None  # type: ignore[assignment]
    reward: RewardKind = "integral"
    noise: bool = True
    horizon: _Time = None  # type: ignore[assignment]
    min_interval: _Time = None  # type: ignore[assignment]
    max_interval: _Time = None  # type: ignore[assignment]
    initial_noise: _Number = None  # type: ignore[assignment]
    cell: _Time = None  # type: ignore[assignment]
    path_costs: bool = False
    remission: bool = False
    remission_severity: _Number = None  # type: ignore[assignment]
    remission_time: _Time = None  # type: ignore[assignment]
    disease: str = DEFAULT
    view: str = FULL

    def __post_init__(self) -> None:
        process, unit = self.definition.process, self.definition.process.unit
        self.definition.view(self.view)
        shared = ("decisions", "horizon", "min_interval", "max_interval", "initial_noise", "cell")
        own = {name: getattr(process, name) for name in shared}
        if self.remission:
            if process.remission is None:
                raise ProtocolError(f"{self.definition.label} has no remission; leave `remission` out")
            own |= dict(zip(("remission_severity", "remission_time"), process.remission))
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        shortest, longest, step = self.min_interval, self.max_interval, process.tick or 1 / 1024
        if longest < 2 * shortest:
            raise ProtocolError("max_interval is below twice min_interval; widen the range of intervals")
        for name in ("horizon", "min_interval", "max_interval"):
            value = getattr(self, name)
            if abs(value / step - round(value / step)) > 1e-6 or value > 2**23 * step:
                # Only such times lie on the ticks of the clock.
                raise ProtocolError(f"{name} is {value!r} {unit}; give a multiple of {step:g}, within 2^23 of it")
        if not self.decisions * shortest <= self.horizon <= self.decisions * longest:
            least, most = math.ceil(self.horizon / longest), math.floor(self.horizon / shortest)
            raise ProtocolError(
                f"{self.decisions} decisions of {shortest:g} to {longest:g} cannot fill {self.horizon:g} {unit}; "
                f"set decisions to {least} or more, and {most} or fewer"
            )

    @property
    def definition(self) -> Disease:
        """The disease itself."""
        return disease(self.disease)

    @property
    def tick(self) -> float:
        """Resolution of the clock; a power of two, unless the disease has ticks of its own."""
        return self.definition.process.tick or 2.0 ** (math.ceil(math.log2(self.horizon)) - 24)

    @property
    def action_dim(self) -> int:
        """The treatments, and the interval if timing is adaptive."""
        return self.definition.action_dim(self.timing)

    @property
    def observation_dim(self) -> int:
        """Columns that a policy sees."""
        return len(self.definition.seen(self.view))

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-ready values."""
        return plain_values(self)


def action_to_interval(action: Tensor, config: ProcessConfig) -> Tensor:
    """Interval that an action component in [-1, 1] asks for, before feasibility: affine, -1 shortest, 1 longest."""
    share = (action.clamp(-1.0, 1.0) + 1.0) / 2.0
    return config.min_interval + share * (config.max_interval - config.min_interval)


def interval_to_action(dt: Tensor, config: ProcessConfig) -> Tensor:
    """Inverse of :func:`action_to_interval`; those outside the range of intervals give the nearer end."""
    share = (dt - config.min_interval) / (config.max_interval - config.min_interval)
    return (2.0 * share - 1.0).clamp(-1.0, 1.0)


def on_tick(time: Tensor, config: ProcessConfig) -> Tensor:
    """The nearest whole number of ticks; the gradient passes, for schedules found by gradient search."""
    ticked = torch.round(time / config.tick) * config.tick
    return time + (ticked - time).detach() if time.requires_grad else ticked


def feasible_interval(time: Tensor, left: Tensor, config: ProcessConfig) -> tuple[Tensor, Tensor]:
    """Shortest and longest interval after which the rest of the horizon can still be filled.

        lower = max(min_interval, t - max_interval (k - 1))        upper = min(max_interval, t)

    with t the time and k the decisions that remain. The last decision takes all that remains (lower = upper = t).

    Args:
        time: Since the start.
        left: Decisions left, the next one included; same shape.

    Returns:
        Lower and upper; both 0 where the horizon has been reached.
    """
    remaining = config.horizon - time
    lower = (remaining - config.max_interval * (left - 1)).clamp_min(config.min_interval)
    upper = remaining.clamp_max(config.max_interval)
    return torch.minimum(lower, upper), upper


def decision_interval(
    time: Tensor, left: Tensor, config: ProcessConfig, wish: Tensor | None = None, takeover: float = 0.0
) -> Tensor:
    """Length of the next interval, on the clock's ticks.

    Fixed timing cuts what remains into equal parts. Adaptive timing takes the wish into the feasible range. A wish
    that would leave less than the shortest interval takes the rest as well; where that would be too long, it
    leaves exactly the shortest interval. So every interval is within [min_interval, max_interval] and they sum to the
    horizon exactly.

    Args:
        time: Since the start (P, B).
        left: Decisions left, the next one included (P, B).
        config: Clock and limits.
        wish: Interval asked for (P, B); needed for adaptive timing only.
        takeover: Until then intervals are equal parts whatever the timing, and one ends there, however short.

    Returns:
        (P, B); 0 where the horizon has been reached.
    """
    remaining = config.horizon - time
    equal = remaining / left.clamp_min(1.0)
    if config.timing == "fixed":
        dt = equal
    else:
        assert wish is not None
        lower, upper = feasible_interval(time, left, config)
        dt = torch.maximum(torch.minimum(wish, upper), lower)
        rest = remaining - dt
        short = (rest > 0) & (rest < config.min_interval)
        absorbed = torch.where(remaining <= config.max_interval, remaining, remaining - config.min_interval)
        dt = torch.where(short, absorbed, dt)
    if takeover:
        due = takeover - time
        dt = torch.where(due > config.tick / 2, torch.minimum(equal, due), dt)
    return on_tick(dt, config)


def decisions_before(takeover: float, config: ProcessConfig) -> int:
    """How many decisions are made until a takeover; 0 where there is none (`takeover` 0).

    Raises:
        ProtocolError: It is not within the horizon, or the decisions that are left then cannot fill the rest.
    """
    unit, horizon = config.definition.process.unit, config.horizon
    if takeover and not 0 < takeover < horizon:
        raise ProtocolError(f"takeover is {takeover:g} {unit}; give a time between 0 and the horizon of {horizon:g}")
    time, left = torch.zeros(()), torch.tensor(float(config.decisions))
    while takeover - float(time) > config.tick / 2:
        time = on_tick(time + decision_interval(time, left, config, time, takeover), config)
        left = left - 1
    rest = int(left)
    if rest < 1 or (config.timing == "adaptive" and rest * config.max_interval < horizon - takeover):
        raise ProtocolError(
            f"takeover is {takeover:g} {unit}: {rest} of {config.decisions} decisions are left then, too few for the "
            "rest of the episode; choose an earlier time"
        )
    return config.decisions - rest
