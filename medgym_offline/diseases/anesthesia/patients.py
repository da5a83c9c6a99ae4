"""Simulated surgical patients: covariates and how far each one's physiology is from the typical one of its covariates.

The 110 patients of the release are drawn from the published variances between patients with seed 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from medgym_offline.errors import MedGymError
from medgym_offline.patients import PatientIndex
from medgym_offline.seeds import generator

__all__ = ["AGES", "HEIGHTS", "Patients", "VARIANCES", "WEIGHTS", "draw_patients", "load_patients"]

AGES = (18.0, 88.0)
"""Years. The propofol model was estimated in people up to 88 years (Eleveld et al., Br J Anaesth 120:942, 2018); from
18: chosen, because the models of pressure and norepinephrine were estimated in adults."""
WEIGHTS = (30.0, 160.0)
"""kg. 160: the heaviest person of Eleveld 2018; 30: chosen, the lightest plausible adult."""
HEIGHTS = (130.0, 220.0)
"""cm. Chosen: plausible adults; height enters by the fat-free mass only."""

VARIANCES = {
    # Eleveld 2018: log variances of the three volumes, the clearances, the effect-site rate and the half-effect level.
    "v1": 0.610,
    "v2": 0.565,
    "v3": 0.597,
    "clearance": 0.265,
    "q2": 0.346,
    "q3": 0.209,
    "ke0": 0.702,
    "ce50": 0.242,
    # Su et al., Br J Anaesth 131:222 (2023); the covariances of the first three are in `_PRESSURE_COVARIANCE`.
    "stroke_volume": 0.0328,
    "resistance": 0.0528,
    "heart_rate": 0.0242,
    "resistance_c50": 0.44,
    # Li et al., Clin Pharmacokinet 63:1597 (2024), table 3: log(1 + CV^2) of CV 10.6, 44.5, 40.4 and 30.4 %.
    "norepinephrine_clearance": 0.0112,
    "norepinephrine_vc": 0.181,
    "norepinephrine_vp": 0.151,
    "norepinephrine_production": 0.0884,
    # Chosen: log sd 0.4. The spread reported with Beloeil's effect curve (log sd 1.64) makes it inert or lethal in
    # many.
    "norepinephrine_ec50": 0.16,
}
"""Variance between patients of the logarithm of each parameter, in the order of `Patients.deviations`."""

# Su 2023: between stroke volume and resistance -0.0244, between resistance and heart rate -0.0233. Two implementations
# assign the first two variances differently; in this reading pressure = resistance x output has the published spread.
_PRESSURE = ("stroke_volume", "resistance", "heart_rate")
_PRESSURE_COVARIANCE = np.array([[0.0328, -0.0244, 0.0], [-0.0244, 0.0528, -0.0233], [0.0, -0.0233, 0.0242]])

_TEST_PATIENTS = 30


@dataclass(frozen=True)
class Patients:
    """P people; arrays of length P unless said.

    Attributes:
        ids: Names.
        age, weight, height: Years, kg, cm.
        male: Booleans.
        split: "train" or "test".
        deviations: (P, 17) log deviations from the typical patient of the covariates, columns as in `VARIANCES`.
    """

    ids: tuple[str, ...]
    age: np.ndarray
    weight: np.ndarray
    height: np.ndarray
    male: np.ndarray
    split: np.ndarray
    deviations: np.ndarray

    def __post_init__(self) -> None:
        for name, unit, (low, high) in (("age", "years", AGES), ("weight", "kg", WEIGHTS), ("height", "cm", HEIGHTS)):
            value = np.asarray(getattr(self, name), dtype=float)
            outside = value[~((value >= low) & (value <= high))]
            if outside.size:
                raise MedGymError(
                    f"{name} {outside[0]:g} {unit} is outside the model's population; give {low:g} to {high:g} {unit}"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def deviation(self, name: str) -> np.ndarray:
        """(P,) factor exp(deviation) of the parameter `name`."""
        return np.exp(self.deviations[:, list(VARIANCES).index(name)])

    def select(self, which: Sequence[str] | Sequence[int]) -> Patients:
        """The patients named or numbered by `which`, in that order.

        Raises:
            UnknownNameError: A name or number that no patient has.
        """
        index = PatientIndex(self.ids, "anesthesia").resolve(which, repeats=True)
        rest = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "ids"}
        return Patients(ids=tuple(self.ids[i] for i in index), **rest)


def draw_patients(count: int, seed: int = 0) -> Patients:
    """`count` patients; number i is the same in a draw of any size.

    Covariates are chosen: age uniform in 18..80 years, half male, height normal (men 176, women 163, sd 7 cm), body
    mass index normal (25, sd 4 kg/m2) within 18..38, about an adult surgical list. The last 30 in 110 are the test
    split.
    """
    factor = np.linalg.cholesky(_PRESSURE_COVARIANCE)
    rows = []
    for i in range(count):
        random = generator(seed, "anesthesia-patient", i)
        years, male = random.uniform(18, 80), random.random() < 0.5
        tall = float(np.clip(random.normal(176.0 if male else 163.0, 7), *HEIGHTS))
        index = float(np.clip(random.normal(25, 4), 18, 38))
        normal = random.standard_normal(len(VARIANCES))
        deviation = dict(zip(VARIANCES, np.sqrt(list(VARIANCES.values())) * normal))
        block = factor @ [normal[list(VARIANCES).index(name)] for name in _PRESSURE]
        deviation |= dict(zip(_PRESSURE, block))
        rows.append((years, index * (tall / 100) ** 2, tall, male, list(deviation.values())))
    columns = [np.array(column) for column in zip(*rows)]
    split = np.where(np.arange(count) < count - round(count * _TEST_PATIENTS / 110), "train", "test")
    ids = tuple(f"surgical/{i + 1:03d}" for i in range(count))
    age, weight, height = (column.round(digits) for column, digits in zip(columns, (2, 2, 1)))
    return Patients(ids, age, weight, height, columns[3], split, columns[4].round(6))


@functools.cache
def load_patients() -> Patients:
    """The 110 patients of the release."""
    return draw_patients(110)
