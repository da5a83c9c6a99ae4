"""The anesthetist: how records come about, with human error, and a reference behavior for comparisons.

Habits are chosen after textbook practice: 2 mg/kg at induction, less above 65 years, then 10, 8 and 6 mg/kg/h (Roberts
et al., Anaesthesia 43 Suppl:14, 1988), looks every few minutes, corrections of BIS outside 40..60 and of pressure
below 65.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia import AHEAD_SCALE, DISEASE
from medgym_offline.diseases.anesthesia.flow import Doses, flow
from medgym_offline.diseases.anesthesia.patients import Patients
from medgym_offline.diseases.anesthesia.severity import BIS_NOISE, CUFF_NOISE, LIMITS, PER_MINUTE
from medgym_offline.diseases.anesthesia.stimulation import END, INCISION, INTUBATION, Schedule, draw_schedule, seeded
from medgym_offline.diseases.anesthesia.truth import published
from medgym_offline.seeds import derive_seed

__all__ = ["Anesthetist", "Draws", "RECORD_TICKS", "Records", "between", "record_operations", "reference_behavior"]

RECORD_TICKS = 600
"""150 min."""


@dataclass(frozen=True)
class Records:
    """S operations of P patients as recorded, and what truly happened.

    Attributes:
        doses: Each (P, S, N): what was given from tick n on (boluses at its start).
        schedule: The operations; its events are recorded.
        bis, pressure: (P, S, N/4) readings every minute; `bis_known` and `pressure_known` say which exist.
        path: (P, S, N, 3) true BIS, pressure and effect-site level, for scoring only.
        valid: (P, S, N) until 15 min after the end of surgery.
    """

    doses: Doses
    schedule: Schedule
    bis: Tensor
    pressure: Tensor
    bis_known: Tensor
    pressure_known: Tensor
    path: Tensor
    valid: Tensor


class Draws:
    """Each operation's random numbers from its own seed: once, as a habit, tick by tick, as noise."""

    def __init__(self, seeds: np.ndarray):
        drawn = seeded(
            seeds,
            "anesthetist",
            lambda g: g.random(8, dtype=np.float32),
            lambda g: g.standard_normal(1, dtype=np.float32),
            lambda g: g.random((RECORD_TICKS, 8), dtype=np.float32),
            lambda g: g.standard_normal((RECORD_TICKS, 4), dtype=np.float32),
        )
        self.once, habit, self.each, self.noise = map(torch.as_tensor, drawn)
        self.habit = habit[..., 0]


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


class Anesthetist:
    """Doses tick by tick: looks at irregular times, overlooks a quarter, corrects by unequal steps."""

    name: ClassVar[str] = "anesthetist"

    def __init__(self, people: Patients, schedule: Schedule, draws: Draws):
        once, minutes = draws.once, schedule.events.float() / PER_MINUTE
        elderly = torch.as_tensor(people.age > 65.0)[:, None]
        self.draws, self.tube, self.end = draws, minutes[..., INTUBATION], minutes[..., END]
        self.induction = between(once[..., 0], 1.5, 2.5) * torch.where(elderly, 0.8, 1.0)
        self.stop = self.end - between(once[..., 1], 0.0, 8.0)
        # Before intubation and around incision: first draw, earliest and latest minute, how often.
        self.extras = []
        for k, at, last, share in ((2, self.tube, 1.0, 0.4), (5, minutes[..., INCISION], 4.0, 0.65)):
            given = once[..., k + 2] < share
            self.extras.append((at + between(once[..., k], -2.0, last), between(once[..., k + 1], 0.3, 0.8), given))
        self.scale = torch.exp(0.12 * draws.habit)
        self.pressor = torch.zeros_like(self.scale)
        self.look = between(draws.each[:, :, 0, 7], 3.0, 6.0)

    def __call__(self, tick: int, shown: Tensor, pressure: Tensor) -> Doses:
        now, u, noise = tick / PER_MINUTE, self.draws.each[:, :, tick], self.draws.noise[:, :, tick]
        due = (self.look <= now) & (now > 3.0)
        bis, cuff = shown + BIS_NOISE * noise[..., 0], pressure + CUFF_NOISE * noise[..., 1]
        seen = due & (u[..., 0] < 0.75)
        up, down = seen & (bis > 60.0) & (self.tube < now), seen & (bis < 40.0)
        changed = torch.where(up, between(u[..., 1], 1.1, 1.45), torch.where(down, between(u[..., 1], 0.6, 0.9), 1.0))
        self.scale = (self.scale * changed).clamp(0.3, 2.2)
        low, high = due & (cuff < 65.0), due & (cuff > 85.0)
        pressor = torch.where(low, self.pressor + between(u[..., 2], 0.02, 0.08), self.pressor)
        pressor = torch.where(high, self.pressor * between(u[..., 2], 0.0, 0.6), pressor)
        self.pressor = torch.where(pressor < 0.005, 0.0, pressor).clamp(*LIMITS["norepinephrine"])
        self.look = torch.where(due, now + between(u[..., 3], 3.0, 9.0), self.look)
        base = 10.0 if now < 10 else 8.0 if now < 20 else 6.0
        on = now < self.stop
        bolus = torch.where(up & (u[..., 4] < 0.5), between(u[..., 5], 0.2, 0.6), 0.0)
        for at, size, given in self.extras:
            bolus = bolus + size * (given & (at <= now) & (now < at + 1.0 / PER_MINUTE))
        bolus = bolus * on + (self.induction if tick == 0 else 0.0)
        rate = (base * self.scale * on).clamp(*LIMITS["propofol_rate"])
        return Doses(rate, bolus.clamp(*LIMITS["propofol_bolus"]), self.pressor)


def record_operations(
    people: Patients, numbers: Sequence[int] = range(6), seed: int = 0, doses: type[Anesthetist] = Anesthetist
) -> Records:
    """Operations of `people` on the published truth, under the anesthetist or random doses; pressure is by cuff.

    Args:
        people: P patients.
        numbers: Which S operations of each, by number.
        seed: Root of the streams; an operation depends on (seed, patient, its number) alone.
        doses: Who doses; its `name` is part of an operation's stream.
    """
    seeds = np.array([[derive_seed(seed, f"record-{doses.name}", p, s) for s in numbers] for p in people.ids])
    schedule, draws = draw_schedule(seeds, RECORD_TICKS, long=True), Draws(seeds)
    doctor = doses(people, schedule, draws)
    law, disturbance = published(people), schedule.disturbance()
    state, given, path, shown = law.initial_state(len(numbers)), [], [], []
    for tick in range(RECORD_TICKS):
        now = doctor(tick, state[..., 2], state[..., 3])
        state, played = flow(law, state, now, 1, disturbance[:, :, tick : tick + 1])
        given.append(torch.stack([*vars(now).values()]))
        path.append(played[:, :, 0])
        shown.append(state[..., 2])
    full = torch.stack(path, 2)
    minute = slice(PER_MINUTE - 1, None, PER_MINUTE)
    noise = draws.noise[:, :, minute]
    valid = torch.arange(1, RECORD_TICKS + 1) <= schedule.events[..., END, None] + 15 * PER_MINUTE
    known = valid[:, :, minute]
    start, gap = (draws.each[:, :, 1, k, None] for k in (6, 7))
    minutes = torch.arange(RECORD_TICKS // PER_MINUTE)
    # A cuff measures every 3 to 5 minutes.
    inflated = (minutes - (3 * start).floor()) % (3 + (3 * gap).floor()) == 0
    readings = (torch.stack(shown, 2)[:, :, minute] + BIS_NOISE * noise[..., 2]).clamp(0, 100).round()
    pressure = (full[:, :, minute, 1] + CUFF_NOISE * noise[..., 3]).round()
    given_doses = Doses(*torch.stack(given, -1))
    return Records(given_doses, schedule, readings, pressure, known, known & inflated, full, valid)


def reference_behavior(
    context: Tensor, observations: Tensor, horizon: float, decisions: int, longest: float = 60.0
) -> tuple[Tensor, Tensor]:
    """Textbook doses, and a look just before each announced event.

    Args:
        context: Of the patients; not looked at.
        observations: (P, E, d) as policies see them.
        horizon, longest: Minutes of the operation, and of the longest interval.
        decisions: K.

    Returns:
        (P, E, 3) doses, and (P, E) minutes until the next decision, at least 1, such that the decisions left reach the
        horizon.
    """
    shown, mean_pressure, _, _, _, *to, remaining, decisions_left = observations.unbind(-1)
    scales = DISEASE.default_scales()
    bis, pressure = (scales.physical_column(DISEASE, x, j) for j, x in enumerate((shown, mean_pressure)))
    tube, cut, end = (t * AHEAD_SCALE for t in to)
    left, left_decisions = remaining * horizon, (decisions_left * decisions).round()
    started, before_end = remaining < 1.0, end > 5.0
    # Chosen: of the gains 0.8, 1.5, 2 and 3 on BIS the one with the least harm over 110 patients at 6 decisions.
    rate = torch.where(cut > 1.0, 8.0, 7.0) * (1.0 + 1.5 * (bis - 50.0) / 50.0 * started)
    stimulus = ((tube > -0.5) & (tube < 2.1)) | ((cut > -0.5) & (cut < 2.1))
    correction = 0.5 * (bis > 65.0) * started
    bolus = torch.where(started, (0.4 * stimulus + correction) * before_end, 2.0)
    pressor = (0.05 + 0.1 * (70.0 - pressure) / 20.0) * started
    # A look 1.5 min ahead of what is announced, and 4.5 min before the end, when the infusion stops.
    ahead = torch.stack([tube - 1.5, cut - 1.5, end - 4.5], -1)
    ahead = torch.where(ahead > 0.9, ahead, left[..., None]).amin(-1)
    wait = torch.minimum(ahead, (left / left_decisions.clamp_min(1)).clamp_min(15.0))
    wait = torch.maximum(wait, left - longest * (left_decisions - 1))
    wait = torch.where(left_decisions <= 1, left, wait.clamp(1.0, longest))
    doses = zip((rate * before_end, bolus, pressor), LIMITS.values())
    return torch.stack([d.clamp(*limits) for d, limits in doses], -1), torch.minimum(wait, left)
