"""The typical patient of the published propofol model, at any second: `effect_site`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from medgym_offline.diseases.anesthesia.flow import exact_step
from medgym_offline.diseases.anesthesia.patients import VARIANCES, Patients
from medgym_offline.diseases.anesthesia.truth import bis_of, half_effect, propofol_rates
from medgym_offline.errors import MedGymError

__all__ = ["effect_site", "typical_patient"]

Dose = tuple[float, float, float]


def typical_patient(age: float, weight: float, height: float, sex: str) -> Patients:
    """One patient without deviations.

    Args:
        age, weight, height: Years, kg, cm.
        sex: "m" or "f".

    Raises:
        MedGymError: A sex that is neither, or covariates outside the models' population.
    """
    if sex not in ("m", "f"):
        raise MedGymError(f"sex {sex!r} is not one of the model's; give 'm' or 'f'")
    covariates = {"age": age, "weight": weight, "height": height}
    arrays = {name: np.array([_number(name, value)]) for name, value in covariates.items()}
    still = np.zeros((1, len(VARIANCES)))
    return Patients(("typical",), **arrays, male=np.array([sex == "m"]), split=np.array(["train"]), deviations=still)


def effect_site(
    *,
    age: float,
    weight: float,
    height: float,
    sex: str,
    infusion: Sequence[Dose] = (),
    boluses: Sequence[Dose] = (),
    seconds: int = 3600,
    every: int = 30,
) -> tuple[np.ndarray, np.ndarray]:
    """Effect-site propofol and BIS of the typical patient (Eleveld 2018, arterial, with opioids; no delay of BIS).

    Args:
        age, weight, height: Years, kg, cm.
        sex: "m" or "f".
        infusion: (start, end, rate) in seconds and mg/kg/h; overlapping ones add up.
        boluses: (start, end, dose) in seconds and mg/kg in all, spread evenly; at once where the end is the start.
        seconds: Length.
        every: Seconds between the values returned.

    Returns:
        ug/mL and BIS at 0, every, 2 every, ... up to `seconds`, exact: doses act at their exact seconds.

    Raises:
        MedGymError: Covariates outside the model's population, or doses that are negative or not within 0 to `seconds`.
    """
    people = typical_patient(age, weight, height, sex)
    for name, value in (("seconds", seconds), ("every", every)):
        if (number := _number(name, value)) < 1 or number % 1:
            raise MedGymError(f"{name} {value!r} is not a whole number of seconds; give 1 or more")
    pieces = [(s, e, rate / 60.0) for s, e, rate in _doses("infusion", infusion, seconds)]
    given = _doses("boluses", boluses, seconds)
    pieces += [(s, e, 60.0 * dose / (e - s)) for s, e, dose in given if e > s]
    grid = np.arange(0, seconds + 1, every, dtype=float)
    edges = np.unique(np.concatenate([grid, [t for s, e, _ in (*pieces, *given) for t in (s, e)]]))
    a, b, _ = propofol_rates(people)
    step = functools.cache(lambda length: exact_step(a[0], b[0], length / 60.0))
    state, level = torch.zeros(4, 1, dtype=torch.float64), {}
    for start, end in zip(edges, [*edges[1:], edges[-1]]):
        level[start] = float(state[3, 0])
        impulse = sum(dose for s, e, dose in given if s == e == start)
        rate = sum(r for s, e, r in pieces if s <= start < e)
        kept, gain = step(round(float(end - start), 9))
        state = kept @ (state + b[0] * impulse * weight) + gain * rate * weight
    ce = torch.tensor([level[t] for t in grid], dtype=torch.float64)
    return ce.numpy(), bis_of(ce, torch.tensor(half_effect(people))).numpy()


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise MedGymError(f"{name} {value!r} is not a finite number")
    return number


def _doses(name: str, doses: Sequence[Dose], seconds: int) -> list[Dose]:
    checked: list[Dose] = []
    for i, dose in enumerate(doses):
        where = f"{name}[{i}]"
        if not isinstance(dose, (tuple, list)) or len(dose) != 3:
            raise MedGymError(f"{where} {dose!r} is not (start in s, end in s, dose)")
        start, end, amount = (_number(where, value) for value in dose)
        if amount < 0:
            raise MedGymError(f"{where} has the negative dose {amount:g}; give 0 or more")
        if end < start or (end == start and name == "infusion"):
            raise MedGymError(f"{where} ends at {end:g} s, not after its start at {start:g} s")
        if start < 0 or end > seconds:
            raise MedGymError(f"{where} lies at {start:g} to {end:g} s, outside 0 to {seconds} s; give more seconds")
        checked.append((start, end, amount))
    return checked
