"""A synthetic cohort: records of patients whose dynamics are known, charted as irregularly as real ones.

The patients are the twin's (`twin_people.TwinPatients`). They are treated by the `Clinician` and charted with gaps,
missing variables and measurement error. What comes out is an ordinary `Cohort`, which the same pipeline reads as it
reads MIMIC. `experiments.twin_records` compares the two.

Every random number of a patient comes from the patient's own streams, so patient 7 has the same record alone as among
110, and nothing loops over patients while time runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.diseases.sepsis.cohort.clinician import Clinician, Reading
from medgym_offline.diseases.sepsis.cohort.definition import COHORT, INSENSIBLE_LITRES_PER_HOUR, ROOM_AIR, URINE_CAP
from medgym_offline.diseases.sepsis.twin_people import TwinPatients
from medgym_offline.seeds import derive_seed, generator

__all__ = ["CHARTING", "Charting", "Course", "chart", "live", "synthetic_cohort"]

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
    dose = np.tile([ROOM_AIR, 0.0, 0.0], (len(patients), 1))
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


def chart(course: Course, root: int) -> list[tuple[str, float, float | None, str, float]]:
    """Rows (patient, time_h, end_h, variable, value) that a hospital would have kept of `course`.

    Urine is the volume since the last record (mL/day equivalent); the sicker the patient, the denser the laboratory
    values (as at the bedside); oxygen and vasopressor intervals end where the dose changes.
    """
    stay = stay_lengths(root, course.patients)
    end = np.minimum(stay, float(HORIZON))
    rows: list[tuple[str, float, float | None, str, float]] = []
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
            low, high = COHORT.concepts[name].range
            value = np.clip(np.round(value, how.decimals), low, min(high, URINE_CAP) if name == "urine" else high)
            rows += [(patient, float(t), None, name, float(v)) for t, v in zip(times, value)]
        for column, name in enumerate(COHORT.given):
            rows += _intervals(patient, name, course.doses[row, :, column], float(end[row]))
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


def _intervals(
    patient: str, name: str, dose: np.ndarray, end: float
) -> list[tuple[str, float, float | None, str, float]]:
    """Charted intervals of one treatment: one for each run of hours at one dose above the background."""
    background = ROOM_AIR if name == "fio2" else 0.0
    breaks = np.flatnonzero(np.diff(dose)) + 1
    starts = np.concatenate([[0], breaks])
    ends = np.minimum(np.concatenate([breaks, [len(dose)]]), end)
    return [
        (patient, float(a), float(b), name, float(dose[a]))
        for a, b in zip(starts, ends)
        if dose[a] > background and a < b
    ]


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
    kinds = {"patient": pl.String, "time_h": pl.Float64, "end_h": pl.Float64, "variable": pl.String}
    table = pl.DataFrame(rows, schema={**kinds, "value": pl.Float64}, orient="row").with_columns(
        source=pl.lit("synthetic")
    )
    stays = pl.DataFrame(
        {"patient": list(course.patients), "los_h": stay_lengths(root, course.patients), "dataset": "synthetic"}
    )
    metadata = {
        "license": "MIT, synthetic",
        "provenance": [{"dataset": "synthetic", "layout": "simulated", "folder": "none", "seed": root}],
        "definitions": {"insensible_litres_per_hour": INSENSIBLE_LITRES_PER_HOUR},
    }
    return Cohort.from_table(table, COHORT, stays, metadata, where="synthetic cohort"), course
