"""The clock, the doses and the monitor: what the published patients and the learned simulators share.

A law (`truth.Truth`, `surrogate.Surrogate`) holds P patients and advances P x E operations by ticks of 15 s. Every
number of an operation depends on that operation alone: the arithmetic is elementwise, so that a patient stacked with
others gives the same bits as alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.stimulation import Schedule
from medgym_offline.diseases.anesthesia.severity import BIS_BOUNDS, LIMITS, PRESSURE_BOUNDS, TICK_SECONDS

__all__ = ["OBSERVED", "Advance", "Doses", "Law", "Matrix", "combine", "exact_step", "flow", "play", "power", "select"]

OBSERVED = ("bis", "bis_before", "bis_monitor", "pressure")
"""First components of every state: BIS now, a tick ago and as the monitor shows it (late), mean arterial pressure,
mmHg."""

T = TypeVar("T")
Advance = Callable[[list[Tensor]], list[Tensor]]
Matrix = Sequence[Sequence[Tensor | None]]
"""Rows of (P, 1) coefficients; None is a structural zero."""


@dataclass(frozen=True)
class Doses:
    """What is given from now on, each (P, E): mg/kg/h held, mg/kg at once, ug/kg/min held."""

    propofol_rate: Tensor
    propofol_bolus: Tensor
    norepinephrine: Tensor

    def at(self, tick: int) -> Doses:
        """(P, E) of (P, E, N) doses: what is given from tick `tick` on."""
        return Doses(*(dose[..., tick] for dose in vars(self).values()))


class Law(Protocol):
    """P patients' dynamics; `hidden` names the components that follow `OBSERVED`."""

    hidden: ClassVar[tuple[str, ...]]

    @property
    def lag(self) -> Tensor:
        """(P, 1), see `truth.bis_lag`."""

    def prepared(self, hidden: list[Tensor], doses: Doses) -> tuple[list[Tensor], Advance]:
        """The hidden components after the bolus, and the function that advances them by a tick under the held rates."""

    def effects(self, hidden: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """BIS and pressure without stimulation, and the effect-site concentration, each (P, E)."""

    def disturbance(self, schedule: Schedule, unexplained: Tensor | None = None, start: Tensor | int = 0) -> Tensor:
        """(P, E, N, 2) additions to BIS and pressure by stimulation, and by what the law cannot explain: standard
        normal numbers of each minute (P, E, minutes, 2), the schedule beginning at tick `start`."""


def exact_step(rates: Tensor, inputs: Tensor, minutes: float) -> tuple[Tensor, Tensor]:
    """Exact step of x' = A x + B u with u held: x(t + h) = F x(t) + G u.

    Args:
        rates: (..., n, n) A in 1/min.
        inputs: (..., n, m) B.
        minutes: h.

    Returns:
        F (..., n, n) and G (..., n, m), from the exponential of the augmented matrix [[A, B], [0, 0]] h.
    """
    n, m = inputs.shape[-2:]
    top = torch.cat([rates, inputs], -1)
    joint = torch.cat([top, torch.zeros_like(top[..., :1, :]).expand(*top.shape[:-2], m, n + m)], -2)
    step = torch.linalg.matrix_exp(joint * minutes)
    return step[..., :n, :n], step[..., :n, n:]


def combine(matrix: Matrix, vector: Sequence[Tensor]) -> list[Tensor]:
    """Matrix times vector of (P, E) components with (P, 1) coefficients, elementwise; None is a structural zero.

    Products and sums are separate operations in a fixed order, so the bits do not depend on the batch.
    """
    result = []
    for row in matrix:
        terms = [c * x for c, x in zip(row, vector) if c is not None]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        result.append(total)
    return result


def power(base: Tensor, exponent: Tensor | float) -> Tensor:
    """base ** exponent for base >= 0 by exp and log, which round alike in a batch and alone (`torch.pow` does not)."""
    return torch.exp(exponent * torch.log(base))


def select(tree: T, indices: Sequence[int], axis: int = 0) -> T:
    """Some entries along `axis` of every tensor of a law, schedule or record, in order; patients are axis 0."""
    index = torch.as_tensor(indices, dtype=torch.long)

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(axis, index)
        if is_dataclass(value) and not isinstance(value, type):
            return type(value)(**{f.name: pick(getattr(value, f.name)) for f in fields(value)})
        if isinstance(value, list):
            return [pick(v) for v in value]
        return {k: pick(v) for k, v in value.items()} if isinstance(value, dict) else value

    return pick(tree)


def play(
    law: Law, state: Tensor, doses: Doses, ticks: int, disturbance: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """After each of the ticks the components of the state and the effect-site level, each (P, E); see :func:`flow`."""
    bis, before, shown, pressure, *hidden = (x.contiguous() for x in state.unbind(-1))
    hidden, advance = law.prepared(hidden, doses)
    shift = None if disturbance is None else disturbance[:, :, :ticks].permute(3, 2, 0, 1).contiguous()
    early = 1.0 - law.lag
    for tick in range(ticks):
        hidden = advance(hidden)
        new_bis, pressure, effect = law.effects(hidden)
        if shift is not None:
            new_bis, pressure = new_bis + shift[0, tick], pressure + shift[1, tick]
        # BIS is an index from 0 to 100; pressure is kept where a circulation exists (chosen: 20 to 180 mmHg).
        new_bis, pressure = new_bis.clamp(*BIS_BOUNDS), pressure.clamp(*PRESSURE_BOUNDS)
        bis, before, shown = new_bis, bis, early * bis + law.lag * before
        yield [bis, before, shown, pressure, *hidden, effect]


def flow(
    law: Law, state: Tensor, doses: Doses, ticks: int = 1, disturbance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Play whole ticks with held doses, the bolus at the start.

    Args:
        law: P patients.
        state: (P, E, C) components `OBSERVED` then `law.hidden`.
        doses: What is given.
        ticks: How many.
        disturbance: (P, E, ticks, 2) additions to BIS (points) and pressure (mmHg) at the end of each tick; None is
            none.

    Returns:
        (P, E, C) state at the end, and the path (P, E, ticks, 3): BIS, pressure, effect-site concentration after every
        tick.
    """
    path: list[Tensor] = []
    components: list[Tensor] = []
    for components in play(law, state, doses, ticks, disturbance):
        path += [components[0], components[3], components[-1]]
    played = torch.stack(path).unflatten(0, (ticks, 3)).permute(2, 3, 0, 1)
    return torch.stack(components[:-1], -1), played
