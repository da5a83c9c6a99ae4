"""The virtual patients: 30 published ones and 110 interpolated between two of them.

The published parameters (Kovatchev, Breton, Dalla Man and Cobelli, J Diabetes Sci Technol 3:44, 2009) stand in
`patients.csv`, from the package simglucose (MIT; notice in `patients.csv.LICENSE`): 10 adolescents, 10 adults and 10
children. An interpolated patient is no measured person: each parameter lies between those of two published patients of
one age group, on the logarithmic scale, and its steady state is computed from the mixed values. The table has

    BW    body weight, kg
    EGPb  basal endogenous glucose production, mg/kg/min
    Gb    basal glucose, mg/dL
    kabs  absorption from the gut, 1/min
    kmax  grinding and fastest gastric emptying, 1/min
    kmin  slowest gastric emptying, 1/min
    b     share of a meal left where emptying slows
    d     share of a meal left where emptying quickens again
    f     share of absorbed glucose that appears in plasma
    Vg    glucose volume, dL/kg
    Vi    insulin volume, L/kg
    m1    insulin, liver to plasma, 1/min
    m2    insulin, plasma to liver, 1/min
    m4    insulin, peripheral clearance, 1/min
    HEb   basal hepatic extraction of insulin
    k1    glucose, plasma to tissue, 1/min
    k2    glucose, tissue to plasma, 1/min
    Vmx   insulin-dependent uptake, mg/kg/min per pmol/L
    Km0   tissue glucose at half of the largest uptake, mg/kg
    p2u   rate of insulin action on uptake, 1/min
    ki    rate of each insulin delay before the liver, 1/min
    kp2   liver's glucose effectiveness, 1/min
    kp3   liver's insulin sensitivity, mg/kg/min per pmol/L
    ke1   glomerular filtration, 1/min
    ke2   renal threshold, mg/kg
    Fsnc  insulin-independent uptake, mg/kg/min
    kd    insulin, first to second depot, 1/min
    ka1   insulin absorption from the first depot, 1/min
    ka2   insulin absorption from the second depot, 1/min
    ksc   equilibration of the sensor's site, 1/min
    u2ss  insulin infusion that holds the basal state, pmol/kg/min
    CR    carbohydrate ratio, g/U
    CF    correction factor, mg/dL/U
    age   age, years
    TDI   total daily insulin, U
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgym_offline.patients import PatientIndex
from medgym_offline.seeds import generator

__all__ = ["AGE_GROUPS", "PARAMETERS", "Patients", "TICK", "find", "interpolated", "published", "splits"]

AGE_GROUPS = ("adolescent", "adult", "child")

_NAMES, *_ROWS = csv.reader(Path(__file__).with_name("patients.csv").read_text(encoding="utf-8").splitlines())
PARAMETERS = tuple(_NAMES[1:])
"""Columns of the table, in order."""

TICK = 5
"""Minutes of a tick: 10 would be unstable (k1 + k2 is up to 0.32 /min), 5 agrees with an adaptive solver to 1 mg/dL."""
PMOL_PER_UNIT = 6000.0
"""Insulin, as the published table counts it: 1 U = 6 nmol."""


@dataclass(frozen=True)
class Patients:
    """A table of P virtual patients: `values[:, j]` is the j-th of :data:`PARAMETERS`, float64 (P, 35)."""

    names: tuple[str, ...]
    values: np.ndarray

    def __getitem__(self, parameter: str) -> np.ndarray:
        """One parameter of all patients, (P,)."""
        return self.values[:, PARAMETERS.index(parameter)]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> Patients:
        """The named patients, in that order; an unknown name is an error that suggests near ones."""
        rows = PatientIndex(self.names, "type 1 diabetes").resolve(names, repeats=True)
        return Patients(tuple(names), self.values[rows])

    @property
    def basal(self) -> np.ndarray:
        """Infusion that holds each patient's basal glucose, U/kg/h, (P,)."""
        return self["u2ss"] * 60.0 / PMOL_PER_UNIT


@functools.cache
def published() -> Patients:
    """The 30 published patients, `adolescent#001` to `child#010`."""
    return Patients(tuple(row[0] for row in _ROWS), np.array([row[1:] for row in _ROWS], float))


@functools.cache
def splits() -> dict[str, str]:
    """ "train" or "test" of each published patient: 6 and 4 of each age group, drawn once."""
    found = {}
    for group in AGE_GROUPS:
        names = [name for name in published().names if name.startswith(group)]
        train = generator(0, "diabetes split", group).permutation(len(names))[:6]
        found.update({name: "train" if i in train else "test" for i, name in enumerate(names)})
    return found


@functools.cache
def interpolated(seed: int = 0, train: int = 80, test: int = 30) -> tuple[Patients, dict[str, str]]:
    """Patients between two published ones of one age group and one side of the split, and each one's side.

    Patient i is a stream of its own, so more of them leave the others as they are. The second parent weighs .15 to .85
    (chosen: never nearly a copy of a parent).
    """
    names, values, sides = [], [], {}
    for side, count in (("train", train), ("test", test)):
        for i in range(count):
            group = AGE_GROUPS[i % len(AGE_GROUPS)]
            pool = [name for name in published().names if name.startswith(group) and splits()[name] == side]
            random = generator(seed, "diabetes interpolated", side, i)
            parents = published().select([pool[j] for j in random.choice(len(pool), 2, replace=False)])
            weight = random.uniform(0.15, 0.85)
            name = f"{group}-interpolated-{side}#{i // len(AGE_GROUPS) + 1:03d}"
            names.append(name)
            sides[name] = side
            values.append(np.exp((1.0 - weight) * np.log(parents.values[0]) + weight * np.log(parents.values[1])))
    return Patients(tuple(names), np.array(values)), sides


def find(names: Sequence[str]) -> Patients:
    """Published or interpolated patients by name."""
    tables = (published(), interpolated()[0])
    both = Patients(tables[0].names + tables[1].names, np.concatenate([table.values for table in tables]))
    return both.select(names)
