"""Severity of a state, its costs, and the metrics of the field, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medgym_offline.diseases.base import Course, Metric
from medgym_offline.diseases.scales import Array, namespace, stack_last

__all__ = ["LIMITS", "METRICS", "NUMBERS", "TICK_SECONDS", "awareness", "hypotension", "phase_of", "severity_parts"]

TICK_SECONDS = 15
PER_MINUTE = 60 // TICK_SECONDS
"""Ticks."""
BIS_BOUNDS, PRESSURE_BOUNDS = (0.0, 100.0), (20.0, 180.0)
"""Points; mmHg."""
LIMITS = {"propofol_rate": (0.0, 20.0), "propofol_bolus": (0.0, 3.0), "norepinephrine": (0.0, 0.5)}
"""mg/kg/h, mg/kg at the decision, ug/kg/min. Chosen: the highest that is used at induction or in hypotension."""
BIS_NOISE, CUFF_NOISE, LINE_NOISE = 3.0, 4.0, 3.0
"""Points; mmHg by cuff and by arterial line: standard deviations of one reading. Chosen."""

EVENTS = ("intubation", "incision", "end_of_surgery")
_TOLD = tuple(f"announced_{event}" for event in EVENTS)
_SURPRISES = tuple(f"surprise_{i}_{part}" for i in (1, 2, 3) for part in ("start", "stop", "size"))
NUMBERS = (*EVENTS, *_TOLD, "intubation_size", "surgery_size", *_SURPRISES)
"""What an operation is made of: minutes, and points on BIS."""

BIS_RANGE = (40.0, 60.0)
"""The range the monitor's maker recommends for general anesthesia, and the trials of awareness used (Avidan 2008)."""
AWAKE_BIS = 80.0
PRESSURE_RANGE = (65.0, 110.0)
"""65 mmHg: below it organs are injured (Salmasi et al., Anesthesiology 126:47, 2017). 110: chosen."""
TARGET_BIS = 50.0

SURGERY, AFTER = 1.0, 2.0
"""Phases from intubation to the end of surgery, and after it; 0 before."""


def phase_of(surgery: Array, after: Array) -> Array:
    """Phase of booleans that say whether surgery goes on, and whether it is over."""
    return SURGERY * surgery + AFTER * after


def _excess(value: Array) -> Array:
    return namespace(value).clip(value, 0.0, None)


def severity_parts(bis: Array, pressure: Array, phase: Array) -> Array:
    """(..., 3) depth, awakening and pressure: the parts whose sum is the severity of (...) states.

    10 BIS points outside 40..60 during surgery count 1, so do 20 points below 80 after its end (a late awakening) and
    10 mmHg outside 65..110 at any time (weights chosen: each about as large in ordinary care).
    """
    surgery, after = abs(phase - SURGERY) < 0.5, phase > 0.5 * (SURGERY + AFTER)
    depth = _excess(abs(bis - TARGET_BIS) - 10.0) / 10.0 * surgery
    awakening = _excess(AWAKE_BIS - bis) / 20.0 * after
    circulation = (_excess(PRESSURE_RANGE[0] - pressure) + _excess(pressure - PRESSURE_RANGE[1])) / 10.0
    return stack_last([depth, awakening, circulation])


def hypotension(pressure: Array) -> Array:
    """mmHg below 65."""
    return _excess(PRESSURE_RANGE[0] - pressure)


def awareness(surgical_bis: Array) -> Array:
    """BIS points above 60 during surgery."""
    return _excess(surgical_bis - BIS_RANGE[1])


def _events(component: str, excess: Callable[[Array], Array], part: int) -> Callable[[Course], np.ndarray]:
    return lambda course: course.events(excess(course.component(component)) > 0)[part]


def _surgery(course: Course) -> np.ndarray:
    return np.asarray(abs(course.component("phase") - SURGERY) < 0.5)


def _in_range(course: Course) -> np.ndarray:
    bis, surgery = course.component("surgical_bis"), _surgery(course)
    inside = (bis >= BIS_RANGE[0]) & (bis <= BIS_RANGE[1]) & surgery
    return 100.0 * inside.sum(-1) / np.maximum(surgery.sum(-1), 1)


def _low(course: Course) -> np.ndarray:
    return np.asarray(hypotension(course.component("pressure")[..., 1:]))


def _awakening(course: Course) -> np.ndarray:
    after = course.component("phase") > 0.5 * (SURGERY + AFTER)
    asleep = after & (np.cumsum((course.component("bis_now") > AWAKE_BIS) & after, -1) == 0)
    return np.asarray(asleep.sum(-1) * (course.times[1] - course.times[0]))


def _errors(course: Course) -> np.ndarray:
    error = 100.0 * (course.component("surgical_bis") - TARGET_BIS) / TARGET_BIS
    # An operation without surgery has no error.
    return np.where(_surgery(course) | ~_surgery(course).any(-1, keepdims=True), error, np.nan)


def _wobble(course: Course) -> np.ndarray:
    error = _errors(course)
    return np.asarray(np.nanmedian(abs(error - np.nanmedian(error, -1, keepdims=True)), -1))


_OF = "of BIS against 50 in surgery (Varvel et al., J Pharmacokinet Biopharm 20:63, 1992)"
_LOW = "time-weighted average depth below 65 mmHg"
_LIGHT, _UNSEEN = "maximal runs of BIS above 60 in surgery", "those with no decision inside"
_WAKE = "from the end of surgery to BIS above 80, or to the end of the operation"
METRICS = (
    Metric("bis_in_range", "BIS 40 to 60", "%", 1, 1, "share of surgery with BIS in 40..60", _in_range),
    Metric("low_pressure", "TWA-MAP below 65", "mmHg", -1, 2, _LOW, lambda c: _low(c).mean(-1)),
    Metric("low_pressure_share", "MAP below 65", "%", -1, 1, "of the time", lambda c: 100.0 * (_low(c) > 0).mean(-1)),
    Metric("low_events", "Lows", "", -1, 2, "maximal runs below 65 mmHg", _events("pressure", hypotension, 0)),
    Metric("low_unseen", "Lows unseen", "", -1, 2, _UNSEEN, _events("pressure", hypotension, 1)),
    Metric("light_events", "Light sleep", "", -1, 2, _LIGHT, _events("surgical_bis", awareness, 0)),
    Metric("light_unseen", "Light sleep unseen", "", -1, 2, _UNSEEN, _events("surgical_bis", awareness, 1)),
    Metric("awakening", "Awakening", "min", -1, 1, _WAKE, _awakening),
    Metric("mdpe", "MDPE", "%", 0, 1, f"median error {_OF}", lambda c: np.nanmedian(_errors(c), -1)),
    Metric("mdape", "MDAPE", "%", -1, 1, f"median size of errors {_OF}", lambda c: np.nanmedian(abs(_errors(c)), -1)),
    Metric("wobble", "Wobble", "%", -1, 1, f"median distance from the median error {_OF}", _wobble),
)
