"""A synthetic cohort: records of patients whose dynamics are known, charted as irregularly as real ones.

The patients are the twin's (:class:`~medgym_offline.diseases.sepsis.twin.TwinPatients`). They are treated by the
`Clinician` and charted with gaps, missing variables and measurement error. What comes out is an ordinary `Cohort`,
which the same pipeline reads as it reads MIMIC. `experiments.twin_records` compares the two.

Every random number of a patient comes from the patient's own streams, so patient 7 has the same record alone as among
110, and nothing loops over patients while time runs.

Treatment is confounded by severity, as at the bedside. Every hour the clinician reads the patient late and with error,
and titrates by habit:

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
import polars as pl

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.diseases.concepts import Concept
from medgym_offline.diseases.sepsis.cohort.definition import COHORT
from medgym_offline.diseases.sepsis.cohort.rules import INSENSIBLE_LITRES_PER_HOUR
from medgym_offline.diseases.sepsis.twin import TwinPatients
from medgym_offline.seeds import derive_seed, generator

__all__ = ["CHARTING", "Charting", "Clinician", "Course", "Reading", "chart", "live", "synthetic_cohort"]

_DRAWS = 12  # random numbers an hour
_KINDS = {"patient": pl.String, "time_h": pl.Float64, "end_h": pl.Float64, "variable": pl.String, "value": pl.Float64}
#: A value of each of `_KINDS`.
Row = tuple[str, float, float | None, str, float]


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


HORIZON = 96
STEPS = 2  # integration steps an hour


@dataclass(frozen=True)
class Charting:
    """How one variable is charted; calibrated to summary statistics of the real cohort (docs/science.md).

    Attributes:
        gap: Median hours between two values while it is being measured.
        spread: SD of ln(gap) within a patient.
        between: SD of a patient's ln(median gap).
        never: Share of patients in whom it is never measured.
        ends: Share of patients in whom measuring stops during the stay.
        clumps: Share of values repeated within the hour.
        error: Measurement error, SD in the variable's transform below (see `chart`).
        decimals: Rounding.
    """

    gap: float
    spread: float
    between: float
    never: float = 0.0
    ends: float = 0.0
    clumps: float = 0.0
    error: float = 0.0
    decimals: int = 0


CHARTING = {
    "spo2": Charting(1.0, 0.15, 0.06, clumps=0.22, error=1.7),
    "pao2": Charting(3.9, 0.9, 0.3, never=0.07, ends=0.85, clumps=0.05, error=0.2),
    "bilirubin": Charting(15.0, 0.65, 0.3, never=0.22, ends=0.75, error=0.05, decimals=1),
    "gcs": Charting(3.6, 0.55, 0.25, error=0.9),
    "urine": Charting(1.25, 0.35, 0.25, error=0.5),
    "lactate": Charting(4.6, 1.0, 0.3, never=0.06, ends=0.85, error=0.07, decimals=1),
}
"""The six variables. Errors: SpO2 % and GCS points; ln for PaO2, bilirubin, lactate; ln, mean-corrected, for urine."""


@dataclass(frozen=True)
class Course:
    """What truly happened to P patients in 96 h.

    Attributes:
        patients: Ids.
        states: (P, 96 * STEPS + 1, 8) physical units, every half hour.
        doses: (P, 96, 3) physical units, per hour.
    """

    patients: tuple[str, ...]
    states: np.ndarray
    doses: np.ndarray


def live(people: TwinPatients, root: int, purpose: str = "records") -> Course:
    """Treat every patient of `people` for 96 h.

    Args:
        people: The patients.
        root: Root seed.
        purpose: Another purpose gives another clinician and other noise for the same patients.
    """
    patients = tuple(people.patients)
    streams = [generator(root, f"course-{purpose}", p) for p in patients]
    process = np.stack([g.normal(size=(HORIZON * STEPS, 8)) for g in streams])
    reading = np.stack([g.normal(size=(HORIZON, 5)) for g in streams])
    clinician = Clinician(derive_seed(root, "clinician-of", purpose), patients, HORIZON)
    state = people.admit()
    states, doses = [state], []
    dose = np.tile([concept.background for concept in COHORT.treatments], (len(patients), 1))
    for hour in range(HORIZON):
        z = reading[:, hour]
        seen = Reading(
            spo2=np.minimum(state[:, 0] + 1.3 * z[:, 0], 100.0),
            urine=state[:, 4] * np.exp(0.3 * z[:, 1]),
            lactate=state[:, 5] * np.exp(0.07 * z[:, 2]),
            gcs=np.clip(state[:, 3] + 0.8 * z[:, 3], 3.0, 15.0),
            pressure=people.pressure(state, dose) + 4.0 * z[:, 4],
            balance=state[:, 6],
        )
        dose = clinician.decide(hour, seen)
        doses.append(dose)
        for part in range(STEPS):
            state = people.advance(state, dose, 1.0 / STEPS, process[:, hour * STEPS + part])
            states.append(state)
    return Course(patients, np.stack(states, 1), np.stack(doses, 1))


def stay_lengths(root: int, patients: Sequence[str]) -> np.ndarray:
    """(P,) hours: lognormal around 108 h, at least 24.5 h (half fill the 96 h grid, as in the real cohort)."""
    z = np.array([generator(root, "length-of-stay", p).normal() for p in patients])
    return np.round(np.maximum(108.0 * np.exp(0.95 * z), 24.5 + 6.0 * np.exp(z)), 3)


def chart(course: Course, root: int) -> list[Row]:
    """Rows that a hospital would have kept of `course`.

    Urine is the volume since the last record (mL/day equivalent); the sicker the patient, the denser the laboratory
    values (as at the bedside); oxygen and vasopressor intervals end where the dose changes.
    """
    stay = stay_lengths(root, course.patients)
    end = np.minimum(stay, float(HORIZON))
    rows: list[Row] = []
    hours = np.arange(course.states.shape[1]) / STEPS
    urine = course.states[..., 4]
    voided = np.concatenate([np.zeros((len(urine), 1)), np.cumsum(0.5 * (urine[:, 1:] + urine[:, :-1]) / STEPS, 1)], 1)
    for row, patient in enumerate(course.patients):
        g = generator(root, "charting", patient)
        for column, name in enumerate(COHORT.observed):
            how = CHARTING[name]
            times = _times(how, g, float(end[row]), name == "urine")
            error = g.normal(size=len(times)) * how.error
            if not len(times):
                continue
            if name == "urine":
                last = np.concatenate([[0.0], times[:-1]])
                volume = np.interp(times, hours, voided[row]) - np.interp(last, hours, voided[row])
                value = volume / (times - last) * np.exp(error - 0.5 * how.error**2)
            else:
                truth = np.interp(times, hours, course.states[row, :, column])
                value = truth + error if name in ("spo2", "gcs") else truth * np.exp(error)
            value = np.clip(np.round(value, how.decimals), *COHORT.concepts[name].range)
            rows += [(patient, float(t), None, name, float(v)) for t, v in zip(times, value)]
        for column, concept in enumerate(COHORT.treatments):
            rows += _intervals(patient, concept, course.doses[row, :, column], float(end[row]))
    return rows


def _times(how: Charting, g: np.random.Generator, end: float, after: bool) -> np.ndarray:
    """Hours of one patient's values of one variable; the same number of draws whatever comes out."""
    z = g.normal(size=400)
    u = g.random(404)
    median = how.gap * np.exp(how.between * z[0])
    gaps = median * np.exp(how.spread * z[1:])
    first = 0.9 * gaps[0] if after else gaps[0] * u[0]
    times = first + np.concatenate([[0.0], np.cumsum(gaps[1:])])
    again = np.where(u[5:] < how.clumps, times + 0.3 * median * u[5:] / max(how.clumps, 1e-9), np.nan)
    times = np.sort(np.concatenate([times, again[np.isfinite(again)]]))
    if u[1] < how.never:
        return times[:0]
    limit = end * (0.15 + 0.85 * u[3]) if u[2] < how.ends else end
    return np.round(times[times <= limit], 4)


def _intervals(patient: str, concept: Concept, dose: np.ndarray, end: float) -> list[Row]:
    """Charted intervals of one treatment: one for each run of hours at one dose above the background."""
    breaks = np.flatnonzero(np.diff(dose)) + 1
    starts = np.concatenate([[0], breaks])
    ends = np.minimum(np.concatenate([breaks, [len(dose)]]), end)
    runs = [(a, b) for a, b in zip(starts, ends) if dose[a] > concept.background and a < b]
    return [(patient, float(a), float(b), concept.name, float(dose[a])) for a, b in runs]


def synthetic_cohort(people: TwinPatients, root: int) -> tuple[Cohort, Course]:
    """Records of every patient of `people`, validated, and what truly happened.

    Args:
        people: The patients.
        root: Root seed.

    Raises:
        MissingExtraError: polars is not installed.
    """
    course = live(people, root)
    rows = chart(course, root)
    table = pl.DataFrame(rows, schema=_KINDS, orient="row").with_columns(source=pl.lit("synthetic"))
    length = stay_lengths(root, course.patients)
    stays = pl.DataFrame({"patient": list(course.patients), "los_h": length, "dataset": "synthetic"})
    metadata = {
        "license": "MIT, synthetic",
        "provenance": [{"dataset": "synthetic", "layout": "simulated", "folder": "none", "seed": root}],
        "definitions": {"insensible_litres_per_hour": INSENSIBLE_LITRES_PER_HOUR},
    }
    return Cohort.from_table(table, COHORT, stays, metadata, where="synthetic cohort"), course
