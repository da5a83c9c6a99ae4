"""General anesthesia with propofol and norepinephrine: a published truth whose clock is minutes."""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.diseases import base
from medgym_offline.diseases.anesthesia import severity as rules
from medgym_offline.diseases.base import Channel, Component, Cost, Feature, SignCheck, Treatment, View
from medgym_offline.lazy import imported_late

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.diseases.anesthesia.typical import effect_site

__all__ = ["AHEAD_SCALE", "ANNOUNCEMENT_ERROR", "DISEASE", "SLOTS", "effect_site"]

SLOTS = 11
"""Hidden components that the laws share: the truth uses all, the learned law the first five."""
ANNOUNCEMENT_ERROR = 2.0
"""Minutes: SD of the announced incision and end, of intubation 30 % of it. Chosen: a surgeon's estimate."""
_HORIZON, _MINUTES = 120.0, 120

COMPONENTS = (
    # As the monitor shows it, late; centers and scales of all: chosen, about those of an operation.
    Component("bis", "points", *rules.BIS_BOUNDS, center=50.0, scale=20.0, initial=93.0, label="BIS"),
    Component("pressure", "mmHg", *rules.PRESSURE_BOUNDS, center=75.0, scale=15.0, label="MAP"),
    Component("phase", "0 before, 1 in, 2 after surgery", 0.0, 2.0, kind="derived"),
    Component("infusing_propofol", "mg/kg/h", *rules.LIMITS["propofol_rate"], scale=10.0, kind="derived"),
    Component("infusing_norepinephrine", "ug/kg/min", *rules.LIMITS["norepinephrine"], scale=0.25, kind="derived"),
    Component("bis_now", "points", *rules.BIS_BOUNDS, center=50.0, scale=20.0, kind="hidden", initial=93.0),
    Component("bis_before", "points", *rules.BIS_BOUNDS, center=50.0, scale=20.0, kind="hidden", initial=93.0),
    Component("surgical_bis", "points, 0 outside surgery", *rules.BIS_BOUNDS, center=50.0, scale=20.0, kind="hidden"),
    # Amounts and levels of drug and the circulation, each law's own. Bounds only catch errors.
    *(Component(f"slot_{i}", "the law's own", -1e6, 1e6, kind="hidden") for i in range(1, SLOTS + 1)),
)

TREATMENTS = (
    Treatment("propofol_rate", "mg/kg/h", *rules.LIMITS["propofol_rate"], transform="identity", label="propofol"),
    Treatment(
        "propofol_bolus", "mg/kg", *rules.LIMITS["propofol_bolus"], knee=0.5, kind="bolus", label="propofol bolus"
    ),
    Treatment("norepinephrine", "ug/kg/min", *rules.LIMITS["norepinephrine"], knee=0.1, levels=(0.0, 0.25, 0.5, 1.0)),
)

_AHEAD = (-15.0, 60.0)
"""Minutes to and since an event beyond which a policy is told no more. Chosen."""
AHEAD_SCALE = 20.0
_NOISE = tuple(f"unexplained_{name}_{minute}" for minute in range(_MINUTES) for name in ("bis", "pressure"))


def _draw(random: np.random.Generator, context: np.ndarray, horizon: float, episodes: int) -> np.ndarray:
    from medgym_offline.diseases.anesthesia.stimulation import HORIZON_TICKS, operation_numbers

    ticks, rows = max(HORIZON_TICKS, round(4.0 * horizon)), []
    for _ in range(episodes):
        numbers = operation_numbers(random, ticks, ANNOUNCEMENT_ERROR)
        rows.append(np.concatenate([numbers, random.standard_normal(2 * _MINUTES, dtype=np.float32)]))
    return np.stack(rows)


def _observe(sight: base.Sight) -> Tensor:
    import torch

    from medgym_offline.diseases.anesthesia.flow import usual
    from medgym_offline.diseases.anesthesia.stimulation import schedule_of

    numbers = usual(sight.time) if sight.exogenous is None else sight.exogenous
    to = schedule_of(numbers, 1).minutes_to((4.0 * sight.time).round().long()).to(sight.state)
    time, left = (sight.horizon - sight.time) / sight.horizon, sight.left / sight.decisions
    seen = sight.state[..., : sight.disease.observed_dim]
    return torch.cat([seen, to.clamp(*_AHEAD) / AHEAD_SCALE, torch.stack([time, left], -1)], -1)


def _seen(c: Component) -> Feature:
    return Feature(c.name, c.unit, (c.lower - c.center) / c.scale, (c.upper - c.center) / c.scale)


FEATURES = (
    *(_seen(c) for c in COMPONENTS if c.kind != "hidden"),
    *(
        Feature(f"time to {e.replace('_', ' ')}", f"min / {AHEAD_SCALE:g}", *(x / AHEAD_SCALE for x in _AHEAD))
        for e in rules.EVENTS
    ),
    Feature("remaining time", f"min / {_HORIZON:g}", 0.0, 1.0),
    Feature("remaining decisions", "decisions / K", 0.0, 1.0),
)

_BIS, _PRESSURE, _PHASE = 5, 1, 2
_low, _aware = rules.hypotension, rules.awareness
_LOW = "mmHg of arterial pressure below 65; its integral is in mmHg x min"
_AWARE = "BIS points above 60 from intubation to the end of surgery"


DISEASE = base.Disease(
    name="anesthesia",
    label="general anesthesia",
    components=COMPONENTS,
    treatments=TREATMENTS,
    # Horizon, shortest and longest interval, K; a discount is per 120 min / 6.
    process=base.Process(_HORIZON, 1.0, 60.0, 6, "min", tick=0.25, cell=0.5, fine=0.25, reference_interval=20.0),
    severity=base.Severity(
        "harm",
        "harm",
        "points",
        lambda state, dose: rules.severity_parts(state[..., _BIS], state[..., _PRESSURE], state[..., _PHASE]).sum(-1),
        definition="10 BIS points outside 40..60 in surgery, 20 below 80 after it, 10 mmHg outside 65..110 count 1",
    ),
    costs=(
        Cost("hypotension", "pressure", 65.0, "below", lambda _, end: _low(end), _low, (65.0, 55.0), _LOW),
        Cost("awareness", "surgical_bis", 60.0, "above", lambda _, end: _aware(end), _aware, (60.0,), _AWARE),
    ),
    context={"age": "years", "weight": "kg", "height": "cm", "male": "1 or 0"},
    exogenous=base.Exogenous((*rules.NUMBERS, *_NOISE), _draw, unseen=_NOISE),
    features=FEATURES,
    observe=_observe,
    views={
        # BIS as in the records (`clinician`); an arterial line.
        "noisy": View((Channel("bis", rules.BIS_NOISE), Channel("pressure", rules.LINE_NOISE))),
        # The ASA's standard is a pressure at least every five minutes. Chosen: a tenth of the looks meets a monitor
        # without signal (cautery, muscle), a cuff fails once in twenty times.
        "charted": View(
            (
                Channel("bis", rules.BIS_NOISE, missing=0.1),
                Channel("pressure", rules.CUFF_NOISE, gap=5.0, spread=0.1, at_start=True, missing=0.05),
            )
        ),
    },
    # Torch is imported when it is asked for.
    clinician=lambda *seen: resolve_name(f"{__name__}.clinician:reference_behavior")(*seen),
    metrics=rules.METRICS,
    subgroups=(base.Subgroup("awake pressure", "initial_pressure", lambda state, severity: state[..., _PRESSURE]),),
    sign_checks=(
        *(
            SignCheck(f"a propofol {kind} lowers {what}", f"propofol_{kind}", what, -1, 0.95)
            for kind in ("rate", "bolus")
            for what in ("bis", "pressure")
        ),
        SignCheck("norepinephrine raises pressure", "norepinephrine", "pressure", 1, 0.95),
    ),
    needed="propofol_rate",
    bank="anesthesia-v0",
    world="true",
    model=partial(resolve_name, f"{__name__}.bank:MODEL"),
    caution="Patients are drawn from published variances; there is neither blood loss nor an opioid to give.",
    lineage=(
        "Published models: propofol and BIS of Eleveld 2018, pressure of Su 2023, norepinephrine of Li 2024 and "
        "Beloeil 2005. No patient's data are used."
    ),
    description="Keeping a patient asleep and the blood pressure up through an operation of about 80 of 120 minutes.",
)
"""General anesthesia."""

# Torch is imported when the function is asked for, not when diseases are listed.
__getattr__ = imported_late(__name__, {"typical": ["effect_site"]})
