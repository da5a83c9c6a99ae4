"""How well fitted simulators forecast operations under random doses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.clinician import Anesthetist, Draws, Records, between
from medgym_offline.diseases.anesthesia.flow import Doses, flow
from medgym_offline.diseases.anesthesia.patients import Patients
from medgym_offline.diseases.anesthesia.severity import TICK_SECONDS
from medgym_offline.diseases.anesthesia.stimulation import Schedule
from medgym_offline.diseases.anesthesia.surrogate import Surrogate

__all__ = ["RandomDoses", "Score", "score_surrogate"]

PER_MINUTE = 60 // TICK_SECONDS


class RandomDoses(Anesthetist):
    """Exploration: every 10 min a new rate, in half of the times norepinephrine, in 30 % a bolus."""

    name: ClassVar[str] = "random"

    def __init__(self, people: Patients, schedule: Schedule, draws: Draws):
        self.draws, zero = draws, torch.zeros_like(draws.habit)
        self.rate, self.pressor = 8.0 + zero, zero
        self.next = between(draws.once[..., 0], 0.0, 10.0)

    def __call__(self, tick: int, shown: Tensor, pressure: Tensor) -> Doses:
        now, u = tick / PER_MINUTE, self.draws.each[:, :, tick]
        due = self.next <= now
        self.rate = torch.where(due, between(u[..., 0], 0.0, 15.0), self.rate)
        self.pressor = torch.where(due, torch.where(u[..., 1] < 0.5, between(u[..., 2], 0.0, 0.3), 0.0), self.pressor)
        bolus = torch.where(due & (u[..., 3] < 0.3), u[..., 4], 0.0)
        bolus = bolus + (between(self.draws.once[..., 1], 0.5, 2.5) if tick == 0 else 0.0)
        self.next = torch.where(due, now + 10.0, self.next)
        return Doses(self.rate, bolus, self.pressor)


@dataclass(frozen=True)
class Score:
    """Of displacements over some minutes: explained share of variance, mean absolute error, that of predicting no
    change, and the share of patients in whom the simulator's error is the smaller."""

    r2: float
    error: float
    persistence: float
    better: float


def score_surrogate(law: Surrogate, records: Records, minutes: int = 15) -> tuple[Score, Score]:
    """BIS and pressure: predicted against true displacements over `minutes`, under the recorded doses alone.

    Args:
        law: P patients.
        records: Operations that were not fitted.
    """
    schedule = records.schedule
    state, path = law.initial_state(schedule.events.shape[1]), []
    disturbance = law.disturbance(schedule)
    for tick in range(schedule.ticks):
        state, played = flow(law, state, records.doses.at(tick), 1, disturbance[:, :, tick : tick + 1])
        path.append(played[:, :, 0])
    forecast, span = torch.stack(path, 2), minutes * PER_MINUTE
    starts = torch.tensor([m * PER_MINUTE - 1 for m in (4, 8, 12, 18, 25, 35, 45, 60, 75, 90)])
    starts = starts[starts + span < schedule.ticks]
    counted = records.valid[:, :, starts + span].float()

    def score(k: int) -> Score:
        true, ours = (x[:, :, starts + span, k] - x[:, :, starts, k] for x in (records.path, forecast))
        miss, total = (true - ours).abs(), counted.sum()
        around = true - (true * counted).sum() / total
        r2 = 1.0 - (miss.square() * counted).sum() / (around.square() * counted).sum()
        error, still = ((e * counted).sum((1, 2)) for e in (miss, true.abs()))
        better = (error < still).float().mean()
        return Score(*(float(x) for x in (r2, error.sum() / total, still.sum() / total, better)))

    return score(0), score(1)
