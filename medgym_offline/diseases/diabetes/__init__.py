"""Type 1 diabetes: a published truth in which time, the person and what happens between decisions all matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgym_offline.diseases.base import (
    Component,
    Cost,
    Course,
    Disease,
    Metric,
    Process,
    Severity,
    SignCheck,
    Subgroup,
    Treatment,
)
from medgym_offline.diseases.diabetes.episodes import CONTEXT, EVENTS, FEATURES, SLOTS, clinician, observe
from medgym_offline.diseases.diabetes.people import TICK
from medgym_offline.diseases.diabetes.risk import CAP, LOW, VERY_LOW, below, consensus, risk
from medgym_offline.diseases.scales import Array

__all__ = ["DISEASE", "simulate"]


def __getattr__(name: str) -> Any:
    if name != "simulate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medgym_offline.diseases.diabetes.simulation import simulate

    return simulate


COMPONENTS = (
    # Center and scale: chosen, where the published patients rest and about how far they stray.
    Component("glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0),
    Component("sensor_glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0, kind="derived", initial=140.0),
    Component("earlier_glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0, kind="derived", initial=140.0),
    Component("insulin_on_board", "U/kg", 0.0, 10.0, scale=0.1, kind="derived"),
    Component("last_bolus", "U/kg", 0.0, 10.0, scale=0.1, kind="derived"),
    Component("running_basal", "U/kg/h", 0.0, 10.0, scale=0.025, kind="derived"),
    Component("since_decision", "h", 0.0, 1000.0, scale=4.0, kind="derived"),
    # Their units are those of the world's own model; nobody sees them.
    *(Component(f"compartment_{i + 1}", "the world's own", -1e6, 1e6, kind="hidden") for i in range(SLOTS)),
)

TREATMENTS = (
    # The published patients need .006 to .02 U/kg/h at rest and boluses up to .15 U/kg (chosen: twice to three times).
    Treatment("basal", "U/kg/h", 0.0, 0.06, transform="identity"),
    # u is a root: half of the range lies below 0.075 U/kg, where most doses are.
    Treatment("bolus", "U/kg", 0.0, 0.30, transform="sqrt", kind="bolus"),
)


def _score(state: Array, dose: Array) -> Array:
    return risk(state[..., 0])


def _no_burden(u: Array) -> Array:
    return 0.0 * u[..., 0]


def _cost(name: str, limit: float) -> Cost:
    return Cost(
        name,
        "glucose",
        limit,
        "below",
        lambda before, after: below(after, limit),
        lambda glucose: below(glucose, limit),
        levels=(LOW, VERY_LOW),
        definition=f"1 where glucose ends below {limit:g} mg/dL; along the path, the hours below it",
    )




def _shown(name: str) -> Any:
    def compute(course: Course) -> np.ndarray:
        return np.asarray(consensus(course.component("glucose"))[name])

    return compute


def _events(level: float, unseen: bool) -> Any:
    """Number of maximal runs below a level, or of those with no decision inside."""

    def compute(course: Course) -> np.ndarray:
        low = course.component("glucose") < level
        start = low & ~np.concatenate([np.zeros_like(low[..., :1]), low[..., :-1]], -1)
        if not unseen:
            return start.sum(-1).astype(float)
        ends = np.round(course.dt.cumsum(-1)[..., :-1] * 60.0 / TICK).astype(int)
        decided = np.zeros(low.shape, bool)
        decided[..., 0] = True
        np.put_along_axis(decided, ends.clip(0, low.shape[-1] - 1), True, -1)
        # Runs are numbered along the path; those with a decision inside are taken off.
        number = np.where(low, start.cumsum(-1), 0)
        seen = np.zeros((*low.shape[:-1], int(number.max(initial=0)) + 1), bool)
        np.put_along_axis(seen, np.where(decided, number, 0), True, -1)
        return (start.sum(-1) - seen[..., 1:].sum(-1)).astype(float)

    return compute


_SHARE = "share of time, 5-minute grid (consensus of 2019)"
METRICS = (
    Metric("time_in_range", "70 to 180", "%", 1, 1, _SHARE, _shown("time_in_range")),
    Metric("time_below_70", "Below 70", "%", -1, 2, _SHARE, _shown("time_below_70")),
    Metric("time_below_54", "Below 54", "%", -1, 2, _SHARE, _shown("time_below_54")),
    Metric("time_above_180", "Above 180", "%", -1, 1, _SHARE, _shown("time_above_180")),
    Metric("time_above_250", "Above 250", "%", -1, 2, _SHARE, _shown("time_above_250")),
    Metric("glucose_mean", "Glucose", "mg/dL", 0, 0, "mean glucose", _shown("glucose_mean")),
    Metric("glucose_cv", "Variation", "%", -1, 1, "coefficient of variation of glucose", _shown("glucose_cv")),
    Metric("lbgi", "LBGI", "points", -1, 2, "mean risk of low glucose", _shown("lbgi")),
    Metric("hbgi", "HBGI", "points", -1, 2, "mean risk of high glucose", _shown("hbgi")),
    Metric("low_events", "Lows", "per day", -1, 2, "maximal runs below 70 mg/dL", _events(LOW, False)),
    Metric("low_unseen", "Lows unseen", "per day", -1, 2, "those with no decision inside", _events(LOW, True)),
    Metric("very_low_events", "Deep lows", "per day", -1, 2, "maximal runs below 54 mg/dL", _events(VERY_LOW, False)),
    Metric(
        "very_low_unseen", "Deep lows unseen", "per day", -1, 2, "those with no decision inside", _events(VERY_LOW, True)
    ),
)


def _model() -> Any:
    from medgym_offline.diseases.diabetes.worlds import MODEL

    return MODEL


DISEASE = Disease(
    name="diabetes",
    label="type 1 diabetes",
    components=COMPONENTS,
    treatments=TREATMENTS,
    # Hours, as the consensus and all tables count; ticks of 5 minutes are the truth's step. 5 decisions of at most 12 h
    # are 2.5 times the day. From 06:00, before breakfast, with a night at the end.
    process=Process(
        horizon=24.0,
        min_interval=0.5,
        max_interval=12.0,
        decisions=5,
        tick=TICK / 60.0,
        cell=TICK / 60.0,
        grid=TICK / 60.0,
        fine=TICK / 60.0,
        reference_interval=4.8,  # 24 h / 5
        block=24.0,
    ),
    severity=Severity(
        "risk",
        "Risk",
        "points",
        _score,
        _no_burden,
        cap=CAP,
        reads=1,
        definition="the risk of glucose of Kovatchev et al. (1997), of glucose clamped to 10..600 mg/dL",
    ),
    costs=(_cost("low", LOW), _cost("very_low", VERY_LOW)),
    context=CONTEXT,
    exogenous=EVENTS,
    features=FEATURES,
    observe=observe,
    clinician=clinician,
    metrics=METRICS,
    subgroups=(Subgroup("initial glucose", "initial_glucose", lambda state, severity: state[..., 0], (), "mg/dL"),),
    sign_checks=(
        SignCheck("basal insulin lowers glucose", "basal", "glucose", -1, 0.95),
        SignCheck("a bolus lowers glucose", "bolus", "glucose", -1, 0.95),
    ),
    bank="diabetes-v0",
    world="true",
    model=_model,
    caution=(
        "Virtual patients of a published model: no exercise, illness or counter-regulation, and nobody eats sugar when low."
    ),
    lineage=(
        "The true patients are those of the UVA/Padova model S2008 (Dalla Man et al., 2007; Kovatchev et al., 2009), their "
        "parameters from the package simglucose (MIT); the learned ones were fitted to records that they wrote."
    ),
    description="Basal and bolus insulin for 24 hours of type 1 diabetes with announced meals.",
)
"""The disease with a published truth."""
