"""Type 1 diabetes: a published truth in which time, the person and what happens between decisions all matter."""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from medgym_offline.diseases import base
from medgym_offline.diseases.diabetes.episodes import CONTEXT, EVENTS, FEATURES, SLOTS, VIEWS, clinician, observe
from medgym_offline.diseases.diabetes.people import TICK
from medgym_offline.diseases.diabetes.risk import CAP, LOW, VERY_LOW, below, consensus, risk
from medgym_offline.lazy import imported_late

__all__ = ["DISEASE", "simulate"]


if TYPE_CHECKING:
    from medgym_offline.diseases.diabetes.truth import simulate

__getattr__ = imported_late(__name__, {"truth": ["simulate"]})

COMPONENTS = (
    # Center and scale: chosen, where the published patients rest and about how far they stray.
    base.Component("glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0),
    base.Component("sensor_glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0, kind="derived", initial=140.0),
    base.Component("earlier_glucose", "mg/dL", 0.0, 1000.0, center=140.0, scale=60.0, kind="derived", initial=140.0),
    base.Component("insulin_on_board", "U/kg", 0.0, 10.0, scale=0.1, kind="derived"),
    base.Component("last_bolus", "U/kg", 0.0, 10.0, scale=0.1, kind="derived"),
    base.Component("running_basal", "U/kg/h", 0.0, 10.0, scale=0.025, kind="derived"),
    base.Component("since_decision", "h", 0.0, 1000.0, scale=4.0, kind="derived"),
    # Their units are those of the world's own model; nobody sees them.
    *(base.Component(f"compartment_{i + 1}", "the world's own", -1e6, 1e6, kind="hidden") for i in range(SLOTS)),
)

TREATMENTS = (
    # The published patients need .006 to .02 U/kg/h at rest and boluses up to .15 U/kg (chosen: twice to three times).
    base.Treatment("basal", "U/kg/h", 0.0, 0.06, transform="identity"),
    # u is a root: half of the range lies below 0.075 U/kg, where most doses are.
    base.Treatment("bolus", "U/kg", 0.0, 0.30, transform="sqrt", kind="bolus"),
)


def _cost(name: str, limit: float) -> base.Cost:
    return base.Cost(
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
    return lambda course: consensus(course.component("glucose"))[name]


def _events(level: float, part: int) -> Any:
    return lambda course: course.events(course.component("glucose") < level)[part]


_SHARE = "share of time, 5-minute grid (consensus of 2019)"
METRICS = (
    base.Metric("time_in_range", "70 to 180", "%", 1, 1, _SHARE, _shown("time_in_range")),
    base.Metric("time_below_70", "Below 70", "%", -1, 2, _SHARE, _shown("time_below_70")),
    base.Metric("time_below_54", "Below 54", "%", -1, 2, _SHARE, _shown("time_below_54")),
    base.Metric("time_above_180", "Above 180", "%", -1, 1, _SHARE, _shown("time_above_180")),
    base.Metric("time_above_250", "Above 250", "%", -1, 2, _SHARE, _shown("time_above_250")),
    base.Metric("glucose_mean", "Glucose", "mg/dL", 0, 0, "mean glucose", _shown("glucose_mean")),
    base.Metric("glucose_cv", "Variation", "%", -1, 1, "coefficient of variation of glucose", _shown("glucose_cv")),
    base.Metric("lbgi", "LBGI", "points", -1, 2, "mean risk of low glucose", _shown("lbgi")),
    base.Metric("hbgi", "HBGI", "points", -1, 2, "mean risk of high glucose", _shown("hbgi")),
    base.Metric("low_events", "Lows", "per day", -1, 2, "maximal runs below 70 mg/dL", _events(LOW, 0)),
    base.Metric("low_unseen", "Lows unseen", "per day", -1, 2, "those with no decision inside", _events(LOW, 1)),
    base.Metric("very_low_events", "Deep lows", "per day", -1, 2, "maximal runs below 54 mg/dL", _events(VERY_LOW, 0)),
    base.Metric("very_low_unseen", "Deep lows unseen", "per day", -1, 2, "no decision inside", _events(VERY_LOW, 1)),
)


DISEASE = base.Disease(
    name="diabetes",
    label="type 1 diabetes",
    components=COMPONENTS,
    treatments=TREATMENTS,
    # Hours, as the consensus and all tables count; ticks of 5 minutes are the truth's step. 5 decisions of at most 12 h
    # are 2.5 times the day. From 06:00, before breakfast, with a night at the end.
    process=base.Process(
        horizon=24.0,
        min_interval=0.5,
        max_interval=12.0,
        decisions=5,
        tick=TICK / 60.0,
        cell=TICK / 60.0,
        grid=TICK / 60.0,
        fine=TICK / 60.0,
        reference_interval=4.8,  # 24 h / 5
    ),
    severity=base.Severity(
        "risk",
        "Risk",
        "points",
        lambda state, dose: risk(state[..., 0]),
        cap=CAP,
        reads=1,
        definition="the risk of glucose of Kovatchev et al. (1997), of glucose clamped to 10..600 mg/dL",
    ),
    costs=(_cost("low", LOW), _cost("very_low", VERY_LOW)),
    context=CONTEXT,
    exogenous=EVENTS,
    features=FEATURES,
    observe=observe,
    views=VIEWS,
    clinician=clinician,
    metrics=METRICS,
    subgroups=(
        base.Subgroup("initial glucose", "initial_glucose", lambda state, severity: state[..., 0], (), "mg/dL"),
    ),
    sign_checks=(
        base.SignCheck("basal insulin lowers glucose", "basal", "glucose", -1, 0.95),
        base.SignCheck("a bolus lowers glucose", "bolus", "glucose", -1, 0.95),
    ),
    bank="diabetes-v0",
    world="true",
    # Torch is imported when it is asked for.
    model=partial(resolve_name, f"{__name__}.worlds:MODEL"),
    caution=(
        "Virtual patients of a published model: no exercise, illness or counter-regulation; nobody eats sugar when low."
    ),
    lineage=(
        "The true patients are those of the UVA/Padova model S2008 (Dalla Man et al., 2007; Kovatchev et al., 2009), "
        "parameters from the package simglucose (MIT); the learned ones were fitted to records that they wrote."
    ),
    description="Basal and bolus insulin for 24 hours of type 1 diabetes with announced meals.",
)
"""The disease with a published truth."""
