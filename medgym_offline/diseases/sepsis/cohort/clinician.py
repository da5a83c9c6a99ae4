"""A synthetic clinician whose treatment is confounded by severity, as at the bedside.

Every hour the clinician reads the patient late and with error, and titrates by habit:

- *vasopressor* by arterial pressure, towards a pressure goal of the clinician's own. The pressure follows unmet
  perfusion and is in no record (as the MIMIC cohort here leaves it out), so the confounder is hidden;
- *oxygen* by saturation: up when low, down when high, off when the patient is well enough to breathe alone;
- *fluids* as a maintenance rate that falls over the stay, and boluses for low pressure, low urine or high lactate,
  withheld from the visibly overloaded.

The sick are treated more, so treatment marks severity: read from the records alone, vasopressor raises lactate.
Nothing loops over patients; all random numbers of a patient are drawn beforehand from the patient's own stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgym_offline.seeds import generator

__all__ = ["Clinician", "Reading"]

_DRAWS = 12  # random numbers an hour


@dataclass(frozen=True)
class Reading:
    """What is read at the bedside in one hour, each (P,).

    Attributes:
        spo2: %.
        urine: mL/day.
        lactate: mmol/L.
        gcs: Points.
        pressure: Mean arterial pressure, mmHg; in no record.
        balance: Litres.
    """

    spo2: np.ndarray
    urine: np.ndarray
    lactate: np.ndarray
    gcs: np.ndarray
    pressure: np.ndarray
    balance: np.ndarray


class Clinician:
    """Titrates three treatments hour by hour; state is what is running now and a smoothed memory of the readings.

    Args:
        root: Root seed; patient p draws from stream (root, "clinician", p).
        patients: Ids.
        hours: Hours that will be decided.
    """

    def __init__(self, root: int, patients: Sequence[str], hours: int):
        streams = [generator(root, "clinician", p) for p in patients]
        z = np.stack([g.normal(size=10) for g in streams])
        self._normal = np.stack([g.normal(size=(hours, _DRAWS)) for g in streams])
        self._uniform = np.stack([g.random((hours, _DRAWS)) for g in streams])
        count = len(patients)
        self.goal = 75.0 + 3.0 * z[:, 0]  # mmHg
        self.start_dose = 0.1 * np.exp(0.5 * z[:, 1])
        self.weaning = 0.3 * np.exp(0.3 * z[:, 2])  # chance an hour of acting on a pressure above the goal
        self.oxygen_goal = np.clip(96.0 + 1.2 * z[:, 3], 93.5, 98.5)
        self.oxygen_floor = 42.0 + 4.0 * z[:, 4]
        self.oxygen_start = np.where(z[:, 5] < -0.7, np.inf, np.where(z[:, 5] < 0.25, 0.0, 5.0 * np.abs(z[:, 6])))
        self.maintenance = 22.0 * np.exp(1.0 * z[:, 7])
        self.bolus_habit = 0.08 * np.exp(0.5 * z[:, 8])
        self.drip = z[:, 9]
        self.vasopressor: np.ndarray = np.zeros(count)
        self.oxygen: np.ndarray = np.full(count, 21.0)
        self.supported, self.weaned = np.zeros(count, bool), np.zeros(count, bool)
        self._pressure: np.ndarray = np.full(count, 80.0)
        self._seen: list[Reading] = []

    def decide(self, hour: int, now: Reading) -> np.ndarray:
        """Doses for the coming hour, (P, 3): FiO2 %, vasopressor mcg/kg/min, fluids mL/h.

        Args:
            hour: Hours since admission, consecutive calls from 0.
            now: This hour's readings; laboratory values are acted on two hours late.
        """
        z, chance = self._normal[:, hour], self._uniform[:, hour]
        self._seen.append(now)
        late = self._seen[max(0, len(self._seen) - 3)]
        self._pressure = now.pressure if hour == 0 else 0.5 * self._pressure + 0.5 * now.pressure
        self._titrate_vasopressor(z, chance)
        self._titrate_oxygen(hour, z, chance, now)
        fluids = self._fluids(hour, z, chance, now, late)
        return np.stack([self.oxygen, self.vasopressor, fluids], 1)

    def _titrate_vasopressor(self, z: np.ndarray, chance: np.ndarray) -> None:
        dose, running = self.vasopressor, self.vasopressor > 0
        begins = ~running & (self._pressure < self.goal - 12.0) & (chance[:, 0] < 0.5)
        # The higher the dose, the more a clinician hesitates to raise it.
        up = running & (self._pressure < self.goal) & (chance[:, 1] < 0.6 / (1.0 + (dose / 0.25) ** 2))
        down = running & (self._pressure > self.goal + 2.0) & (chance[:, 1] < self.weaning)
        dose = np.where(begins, self.start_dose * np.exp(0.3 * z[:, 0]), dose)
        dose = np.where(up, dose * np.exp(0.15 + 0.2 * np.abs(z[:, 1])), dose)
        dose = np.where(down, dose * np.exp(-0.1 - 0.25 * np.abs(z[:, 1])), dose)
        stops = down & (dose < 0.025)
        self.vasopressor = np.where(stops, 0.0, np.minimum(np.round(dose, 4), 1.2))

    def _titrate_oxygen(self, hour: int, z: np.ndarray, chance: np.ndarray, now: Reading) -> None:
        begins = ~self.supported & ~self.weaned & (hour >= self.oxygen_start)
        begins |= ~self.supported & (now.spo2 < 88.0) & (chance[:, 2] < 0.5)
        first = 50.0 + 8.0 * z[:, 2] + 50.0 * (chance[:, 3] < 0.35)
        self.supported |= begins
        acts = self.supported & ~begins & (chance[:, 4] < 0.3)
        high = acts & (now.spo2 > self.oxygen_goal) & (self.oxygen > self.oxygen_floor)
        low = acts & (now.spo2 < self.oxygen_goal - 3.0)
        well = (self.oxygen < 46.0) & (now.gcs > 8.0) & (now.spo2 > 93.0) & (self._pressure > self.goal)
        ends = self.supported & ~begins & well & (chance[:, 5] < 0.014)
        self.supported &= ~ends
        self.weaned |= ends
        oxygen = np.where(begins, first, self.oxygen)
        oxygen = oxygen - np.where(high, 5.0 + 5.0 * (chance[:, 6] < 0.4), 0.0) + np.where(low, 10.0, 0.0)
        self.oxygen = np.where(self.supported, np.clip(5.0 * np.round(oxygen / 5.0), 30.0, 100.0), 21.0)

    def _fluids(self, hour: int, z: np.ndarray, chance: np.ndarray, now: Reading, late: Reading) -> np.ndarray:
        rate = self.maintenance * (1.0 + 2.0 * np.exp(-hour / 10.0)) * np.exp(0.8 * z[:, 3])
        # The carrier drips of the vasopressor and other drugs run even where no fluid is meant.
        rate = np.where(chance[:, 7] < 0.19, 0.0, rate + 8.0 * (self.drip > -0.5) * (self.vasopressor > 0))
        cue = 1.0 * (self._pressure < self.goal - 2.0) + 1.0 * (now.urine < 700.0) + 1.0 * (late.lactate > 3.0)
        cue = cue * (now.balance < 5.0) + 1.5 * (hour < 3)
        bolus = chance[:, 8] < np.minimum(self.bolus_habit * cue, 0.6)
        volume = np.where(chance[:, 9] < 0.15, 1000.0, np.where(chance[:, 9] < 0.5, 500.0, 250.0))
        return np.minimum(rate + np.where(bolus, volume, 0.0), 1200.0)
