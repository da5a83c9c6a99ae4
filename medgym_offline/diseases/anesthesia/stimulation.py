"""Announced surgical stimulation: when intubation, incision and the end of surgery come, and what they do.

A schedule belongs to an operation's seed alone. Times and amplitudes are chosen: three announced events and three
surprises whose effect on BIS (10 to 25 points) is in the range that studies of closed-loop anesthesia use. Pressure
moves by 0.4 mmHg per point (chosen).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.severity import PER_MINUTE
from medgym_offline.seeds import generator

__all__ = ["END", "INCISION", "INTUBATION", "Schedule", "draw_schedule", "operation_numbers", "schedule_of", "seeded"]

INTUBATION, INCISION, END = range(3)
_PRESSURE_SHARE = 0.4
HORIZON_TICKS = 480
"""120 min."""

_STIMULUS_TICKS = 3 * PER_MINUTE
_LATEST_END = 15.0
"""Minutes that remain after the latest end of surgery, for awakening."""


@dataclass(frozen=True)
class Schedule:
    """P x E operations of N ticks; tick n is the time n x 15 s.

    Attributes:
        events: (P, E, 3) ticks of `severity.EVENTS`.
        announced: (P, E, 3) the ticks the anesthetist is told beforehand.
        stimulation: (P, E, N) points on BIS at the end of each tick, surprises included.
    """

    events: Tensor
    announced: Tensor
    stimulation: Tensor

    @property
    def ticks(self) -> int:
        """N."""
        return self.stimulation.shape[-1]

    @cached_property
    def phases(self) -> Tensor:
        """(P, E, N, 3) indicators at each tick's end: three minutes of intubation, of incision, then the rest."""
        return torch.stack(_phases(self.events, self.ticks), -1).to(self.stimulation)

    @cached_property
    def surgery(self) -> Tensor:
        """(P, E, N) booleans: from intubation to the end of surgery."""
        now = _clock(self.ticks)
        return (now > self.events[..., INTUBATION, None]) & (now <= self.events[..., END, None])

    @cached_property
    def after(self) -> Tensor:
        """(P, E, N) booleans: after the end of surgery."""
        return _clock(self.ticks) > self.events[..., END, None]

    def disturbance(self) -> Tensor:
        """(P, E, N, 2) what the stimulation adds to BIS (points) and pressure (mmHg)."""
        return torch.stack([self.stimulation, _PRESSURE_SHARE * self.stimulation], -1)

    def minutes_to(self, tick: int | Tensor) -> Tensor:
        """(P, E, 3) minutes from `tick` (a number or (P, E)) to each event as known then.

        An event that happened counts from its true time, negative; one that is late stays at 0 until it happens.
        """
        now = torch.as_tensor(tick)
        now = now[..., None] if now.dim() else now
        expected = (self.announced - now).clamp_min(0)
        return torch.where(self.events <= now, self.events - now, expected) / PER_MINUTE


def seeded(seeds: np.ndarray, purpose: str, *draws: Callable[[np.random.Generator], np.ndarray]) -> list[np.ndarray]:
    """(P, E, ...) arrays, one per function in `draws`, called in turn on each operation's own stream for `purpose`."""
    streams = [generator(int(seed), purpose) for seed in np.asarray(seeds).ravel()]
    arrays = [np.stack([draw(stream) for stream in streams]) for draw in draws]
    return [array.reshape(*np.shape(seeds), *array.shape[1:]) for array in arrays]


def operation_numbers(
    random: np.random.Generator, ticks: int = HORIZON_TICKS, announcement_error: float = 0.0, long: bool = False
) -> np.ndarray:
    """(17,) float32 numbers of one operation, named by `severity.NUMBERS`: minutes, and points on BIS.

    Args:
        random: The operation's stream.
        ticks: Length N, 360 or more.
        announcement_error: Standard deviation in minutes of the announced incision and end; of intubation 30 % of it.
            The order of the announced events is kept. Timing loses its worth above about 5 minutes.
        long: Surgery of 35 to 110 instead of 40 to 70 min, as records have.
    """
    # Uniform draws in fixed places of the stream: times, amplitudes, three surprises; then normal ones.
    uniform, normal = random.random(14), random.standard_normal(3)

    def between(place: int, low: float, high: float) -> float:
        return float(low + (high - low) * uniform[place])

    intubation = between(0, 5, 9)
    incision = intubation + between(1, 10, 25)
    end = incision + (between(2, 35, 110) if long else between(2, 40, 70))
    end = min(end, ticks / PER_MINUTE - _LATEST_END)
    true = np.array([intubation, incision, end])
    told = np.maximum.accumulate(true + announcement_error * np.array([0.3, 1.0, 1.0]) * normal)
    told = told.clip(0.0, ticks / PER_MINUTE)
    times = (np.concatenate([true, told]) * PER_MINUTE).round() / PER_MINUTE
    surprises = []
    for i in range(3):
        start = incision + between(5 + 3 * i, 5, 60)
        surprises += [start, start + between(6 + 3 * i, 1, 5), between(7 + 3 * i, 10, 25)]
    return np.array([*times, between(3, 10, 25), between(4, 5, 15), *surprises], np.float32)


def schedule_of(numbers: Tensor, ticks: int = HORIZON_TICKS, start: int | Tensor = 0) -> Schedule:
    """`ticks` ticks of operations from their numbers (P, E, 17 or more), counted from tick `start`, also (P, E)."""
    begin = start[..., None] if isinstance(start, Tensor) else start
    times = (numbers[..., :6] * PER_MINUTE).round().long() - begin
    events, announced = times.split(3, -1)
    amplitude, base = (numbers[..., i, None] for i in (6, 7))
    tube, cut, rest = (phase.to(numbers) for phase in _phases(events, ticks))
    stimulation = amplitude * tube + base * (1.5 * cut + rest)
    now = _clock(ticks)
    for i in (8, 11, 14):
        first, last, size = numbers[..., i : i + 3, None].unbind(-2)
        first, last = (t * PER_MINUTE - begin for t in (first, last))
        stimulation = stimulation + size * ((now > first) & (now < last) & (now <= events[..., END, None]))
    return Schedule(events, announced, stimulation)


def draw_schedule(
    seeds: np.ndarray, ticks: int = HORIZON_TICKS, announcement_error: float = 0.0, long: bool = False
) -> Schedule:
    """One operation for each of the seeds (P, E); the rest as in :func:`operation_numbers`."""
    (numbers,) = seeded(seeds, "operation", lambda g: operation_numbers(g, ticks, announcement_error, long))
    return schedule_of(torch.as_tensor(numbers), ticks)


def _clock(ticks: int) -> Tensor:
    return torch.arange(1, ticks + 1)


def _phases(events: Tensor, ticks: int) -> tuple[Tensor, Tensor, Tensor]:
    now = _clock(ticks)
    tube, cut, end = (events[..., i, None] for i in range(3))
    return (
        (now > tube) & (now <= tube + _STIMULUS_TICKS),
        (now > cut) & (now <= cut + _STIMULUS_TICKS) & (now <= end),
        (now > cut + _STIMULUS_TICKS) & (now <= end),
    )
