"""The clock, the doses and the monitor: what the published patients and the learned simulators share.

A law (`truth.Truth`, `surrogate.Surrogate`) holds P patients and advances P x E operations by ticks of 15 s. Every
number of an operation depends on that operation alone: the arithmetic is elementwise, so that a patient stacked with
others gives the same bits as alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.severity import BIS_BOUNDS, NUMBERS, PER_MINUTE, PRESSURE_BOUNDS, phase_of
from medgym_offline.diseases.anesthesia.stimulation import Schedule, schedule_of
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.scales import Scales, stack_last
from medgym_offline.stack import StackedTensors

__all__ = ["Course", "Doses", "FIRST", "Law", "MOST_TICKS", "combine", "exact_step", "flow", "power", "powers", "usual"]

MOST_TICKS = 240
"""An hour, the longest interval: so many steps are computed at once."""


FIRST = 8
"""Components of the bank's state before those that a law hides: bis, pressure, phase, infusing_propofol,
infusing_norepinephrine, bis_now, bis_before, surgical_bis."""

_USUAL = (7.0, 24.5, 79.5) * 2 + (0.0,) * 11


def usual(like: Tensor) -> Tensor:
    """(*like.shape, 17) numbers of an operation where none are given: events at the middle times, no stimulation."""
    return like.new_tensor(_USUAL).expand(*like.shape, -1)


@dataclass(frozen=True)
class Doses:
    """What is given from now on, each (P, E): mg/kg/h held, mg/kg at once, ug/kg/min held."""

    propofol_rate: Tensor
    propofol_bolus: Tensor
    norepinephrine: Tensor

    def at(self, tick: int) -> Doses:
        """(P, E) of (P, E, N) doses: what is given from tick `tick` on."""
        return Doses(*(dose[..., tick] for dose in vars(self).values()))


@dataclass(frozen=True)
class Course:
    """After each tick, (P, E, N): BIS and pressure without stimulation, effect-site level, hidden components."""

    bis: Tensor
    pressure: Tensor
    effect: Tensor
    hidden: list[Tensor]


class Law(StackedTensors, ABC):
    """P patients' dynamics, a frozen dataclass of tensors, as a world of a bank.

    `hidden` names the components of a state (P, E, C) that follow BIS now, BIS a tick ago, BIS as the monitor shows it
    (late) and mean arterial pressure (mmHg); `lag` is (P, 1), see `truth.bis_lag`.
    """

    kind: ClassVar[str]
    hidden: ClassVar[tuple[str, ...]]
    lag: Tensor

    @abstractmethod
    def initial_state(self, episodes: int) -> Tensor:
        """(P, episodes, C): awake, no drug."""

    @abstractmethod
    def course(self, hidden: Sequence[Tensor], doses: Doses, ticks: int) -> Course:
        """What follows hidden components (P, E) in the ticks after the bolus, under the held rates."""

    @abstractmethod
    def disturbance(self, schedule: Schedule, unexplained: Tensor | None = None, start: Tensor | int = 0) -> Tensor:
        """(P, E, N, 2) additions to BIS and pressure by stimulation, and by what the law cannot explain: standard
        normal numbers of each minute (P, E, minutes, 2), the schedule beginning at tick `start`."""

    def first_state(self) -> Tensor:
        """(P, FIRST + slots) physical state of the bank at the start: awake, no drug."""
        bis, before, shown, pressure, *hidden = self.initial_state(1)[:, 0].unbind(-1)
        none = torch.zeros_like(bis)
        return torch.stack([shown, pressure, none, none, none, bis, before, none, *hidden], -1)

    def path(
        self,
        disease: Disease,
        scales: Scales,
        physics: Any,
        x: Tensor,
        u: Tensor,
        start: Tensor,
        ticks: int,
        exogenous: Tensor | None,
    ) -> Tensor:
        """States (P, B, ticks, D) after each tick; see :class:`~medgym_offline.diseases.base.Dynamics`."""
        if not ticks:
            return x.new_zeros(*x.shape[:2], 0, x.shape[-1])
        begin = (start * PER_MINUTE).round().long()
        schedule = schedule_of(usual(start) if exogenous is None else exogenous, ticks, begin)
        unexplained = None if exogenous is None else exogenous[..., len(NUMBERS) :].unflatten(-1, (-1, 2))
        shift = self.disturbance(schedule, unexplained, begin)
        given = scales.denormalize_treatment(disease, u)
        columns = {j: scales.physical_column(disease, x[..., j], j) for j in (0, 1, 5, 6)}
        hidden = x[..., FIRST : FIRST + len(self.hidden)].unbind(-1)
        state = torch.stack([columns[5], columns[6], columns[0], columns[1], *hidden], -1)
        bis, before, shown, pressure, *reached, _ = play(self, state, Doses(*given.unbind(-1)), ticks, shift)
        zero = torch.zeros_like(bis)
        rate, _, pressor = ((d[..., None] + zero) for d in given.unbind(-1))
        phase = phase_of(schedule.surgery, schedule.after).to(bis)
        surgical = bis * schedule.surgery
        seen = [shown, pressure, phase, rate, pressor, bis, before, surgical]
        normal = [scales.normal_column(disease, column, j) for j, column in enumerate(seen)]
        rest = disease.state_dim - FIRST - len(reached)
        return stack_last([*normal, *reached, *[zero] * rest])


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


def powers(step: Tensor, gain: Tensor, ticks: int) -> tuple[Tensor, Tensor]:
    """Steps of 1 to `ticks` ticks: (P, n, n, ticks) and (P, n, m, ticks) of (P, n, n) and (P, n, m).

    x(k) = F^k x(0) + (F^(k-1) + ... + 1) G u, in double precision.
    """
    first, held = [step.double()], [gain.double()]
    for _ in range(ticks - 1):
        held.append(held[0] + first[0] @ held[-1])
        first.append(first[0] @ first[-1])
    return torch.stack(first, -1).to(step), torch.stack(held, -1).to(gain)


def combine(matrix: Tensor, vector: Sequence[Tensor], pattern: Sequence[Sequence[int]]) -> list[Tensor]:
    """Matrix (P, n, n, N) times vector of n components (P, E), elementwise: n of (P, E, N).

    `pattern` holds each row's columns that are not structurally zero. Products and sums are separate operations in a
    fixed order, so the bits do not depend on the batch.
    """
    wide = [x[..., None] for x in vector]
    return [
        sum((matrix[:, None, i, j] * wide[j] for j in row[1:]), matrix[:, None, i, row[0]] * wide[row[0]])
        for i, row in enumerate(pattern)
    ]


def power(base: Tensor, exponent: Tensor | float) -> Tensor:
    """base ** exponent for base >= 0 by exp and log, which round alike in a batch and alone (`torch.pow` does not)."""
    return torch.exp(exponent * torch.log(base))


def play(law: Law, state: Tensor, doses: Doses, ticks: int, disturbance: Tensor | None = None) -> list[Tensor]:
    """After each of the ticks the components of the state and the effect-site level, each (P, E, ticks); see `flow`."""
    bis, before, _, _, *hidden = state.unbind(-1)
    after = law.course(hidden, doses, ticks)
    new, pressure = after.bis, after.pressure
    if disturbance is not None:
        new, pressure = new + disturbance[:, :, :ticks, 0], pressure + disturbance[:, :, :ticks, 1]
    # BIS is an index from 0 to 100; pressure is kept where a circulation exists (chosen: 20 to 180 mmHg).
    new, pressure = new.clamp(*BIS_BOUNDS), pressure.clamp(*PRESSURE_BOUNDS)
    late = torch.cat([before[..., None], bis[..., None], new], -1)
    lag = law.lag[..., None]
    shown = (1.0 - lag) * late[..., 1:-1] + lag * late[..., :-2]
    return [new, late[..., 1:-1], shown, pressure, *after.hidden, after.effect]


def flow(
    law: Law, state: Tensor, doses: Doses, ticks: int = 1, disturbance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Play whole ticks with held doses, the bolus at the start.

    Args:
        law: P patients.
        state: (P, E, C) see `Law`.
        doses: What is given.
        ticks: How many.
        disturbance: (P, E, ticks, 2) additions to BIS (points) and pressure (mmHg) at the end of each tick; None is
            none.

    Returns:
        (P, E, C) state at the end, and the path (P, E, ticks, 3): BIS, pressure, effect-site concentration after every
        tick.
    """
    components = play(law, state, doses, ticks, disturbance)
    end = torch.stack([c[..., -1] for c in components[:-1]], -1)
    return end, torch.stack([components[0], components[3], components[-1]], -1)
