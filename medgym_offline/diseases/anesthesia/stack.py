"""What a law needs to be a world of a bank: its tensors, its patients' choice, its paths in a bank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.flow import Doses, Law, play
from medgym_offline.diseases.anesthesia.severity import NUMBERS, PER_MINUTE, phase_of
from medgym_offline.diseases.anesthesia.stimulation import schedule_of
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.scales import Scales, stack_last
from medgym_offline.diseases.stacked import StackedTensors

__all__ = ["FIRST", "Stacked", "usual"]

FIRST = 8
"""Components of the bank's state before those that a law hides: bis, pressure, phase, infusing_propofol,
infusing_norepinephrine, bis_now, bis_before, surgical_bis."""

_USUAL = (7.0, 24.5, 79.5) * 2 + (0.0,) * 11


def usual(like: Tensor) -> Tensor:
    """(*like.shape, 17) numbers of an operation where none are given: events at the middle times, no stimulation."""
    return like.new_tensor(_USUAL).expand(*like.shape, -1)


class Stacked(StackedTensors, Law):
    """A law of frozen dataclasses, as a world of a bank."""

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
        """States (P, B, ticks, D) after each tick; see :class:`~medgym_offline.diseases.model.Dynamics`."""
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
