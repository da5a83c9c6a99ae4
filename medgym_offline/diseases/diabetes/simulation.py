"""One published patient over one day, for anyone who wants to look at it or check it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch

from medgym_offline.diseases.diabetes.people import find
from medgym_offline.diseases.diabetes.truth import BOLUS_MINUTES, play, start, truth
from medgym_offline.errors import ProtocolError
from medgym_offline.patients import whole_number

__all__ = ["simulate"]

Given = Sequence[tuple[int, float]]


def simulate(
    patient: str,
    basal: Given = (),
    boluses: Given = (),
    meals: Given = (),
    minutes: int = 1440,
    every: int = 5,
) -> np.ndarray:
    """Plasma glucose of a virtual patient who starts at rest.

    Args:
        patient: The table's name, `adolescent#001`, or an interpolated patient's.
        basal: `(minute, U/h)`: infusion from that minute on, until the next; none before the first.
        boluses: `(minute, U)`, each delivered evenly over 5 minutes from that minute on.
        meals: `(minute, g)` of carbohydrate, eaten at 5 g/min from that minute on.
        minutes: Length, whole minutes.
        every: Minutes between returned values, whole; the model itself steps by the minute.

    Returns:
        mg/dL at minutes 0, every, 2 every, ... up to `minutes`, float64.

    Raises:
        UnknownNameError: No such patient.
        ProtocolError: A time outside the simulated minutes or between two, a negative or missing amount.
    """
    people = find([patient])
    for name, value in (("minutes", minutes), ("every", every)):
        if (whole_number(value) or 0) < 1:
            raise ProtocolError(f"{name}: {value!r} is no whole number of the 1-minute internal steps; give 1 or more")
    if every > minutes:
        raise ProtocolError(f"every: {every} is longer than minutes={minutes}; give at most {minutes}")
    infusion, served = np.zeros(minutes), np.zeros(minutes)
    for minute, amount in sorted(_checked("basal", basal, minutes, "U/h")):
        infusion[minute:] = amount
    for minute, amount in _checked("boluses", boluses, minutes, "U"):
        infusion[minute : minute + BOLUS_MINUTES] += amount * 60.0 / BOLUS_MINUTES
    for minute, amount in _checked("meals", meals, minutes, "g"):
        served[minute] += amount
    model = truth(people, tick=1, dtype=torch.float64)
    with torch.no_grad():
        path = play(model, start(model, 1), *(torch.from_numpy(x)[None, None] for x in (infusion, served)))
    return path.glucose[0, 0, ::every].numpy().copy()


def _checked(name: str, given: Given, minutes: int, unit: str) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for i, entry in enumerate(given):
        try:
            minute, amount = entry
        except (TypeError, ValueError):
            raise ProtocolError(f"{name}[{i}]: {entry!r} is no pair; give (minute, {unit})") from None
        if whole_number(minute) not in range(minutes):
            raise ProtocolError(f"{name}[{i}]: minute {minute!r} is no whole minute from 0 to {minutes - 1}")
        if not isinstance(amount, Real) or isinstance(amount, bool) or not math.isfinite(amount) or amount < 0:
            raise ProtocolError(f"{name}[{i}]: {amount!r} {unit} is no amount; give a finite number of 0 or more")
        found.append((int(minute), float(amount)))
    return found
