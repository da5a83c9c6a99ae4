"""Sepsis in intensive care: six physiological variables, three treatments, a smooth SOFA surrogate, a lactate cost.

Views say what is measured at the bedside: errors of the instruments, and when each is read.
"""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name

import numpy as np

from medgym_offline.diseases import base
from medgym_offline.diseases.base import Channel, Component, Course, Metric, SignCheck, Treatment, View
from medgym_offline.diseases.sepsis.severity import LACTATE, cost, cost_level, sofa

__all__ = ["DISEASE", "VIEWS", "cost", "sofa"]

# Gap (h), spread, between and never are those of the release's cohort, see `tests/diseases/sepsis/test_seen.py`.
# Delay (h): chosen, a blood gas analyzer near the ward, and the central laboratory. Saturation is on the monitor.
_CHARTED = (
    # SD, points: ISO 80601-2-61 allows 4; makers of pulse oximeters state 2.
    Channel("spo2", 2.0),
    # 42 CFR 493.931 (CLIA) lets a laboratory err by 15 % (oxygen) and 20 % (bilirubin), which are about two SD.
    Channel("pao2", relative=0.075, gap=7.6, spread=0.72, between=1.2, never=0.14, delay=0.5),
    Channel("bilirubin", relative=0.10, gap=29.0, spread=0.43, between=0.69, never=0.39, delay=2.0),
    # Two raters agree on the total in 32 % of the patients (Gill et al., Ann Emerg Med 43:215, 2004): SD 0.86 each.
    Channel("gcs", 0.86, gap=4.1, spread=0.21, between=0.2),
    # Chosen: a bag read to a tenth.
    Channel("urine", relative=0.10, gap=1.4, spread=0.15, between=0.29),
    # Chosen: blood gas analyzers repeat within about 5 %.
    Channel("lactate", relative=0.05, gap=12.0, spread=0.76, between=0.94, never=0.12, delay=0.5),
)

VIEWS = {"noisy": View(tuple(Channel(c.component, c.error, c.relative) for c in _CHARTED)), "charted": View(_CHARTED)}


# Centers and scales are about those of the release's cohort, which its bank stores.
COMPONENTS = (
    Component("spo2", "%", 0.0, 100.0, "identity", 96.9, 3.0, noise=0.10, smoothed=True, label="SpO2"),
    # Partial pressures are ratios in practice; the logarithm also fitted forecasts better. 20 mmHg is below survival.
    Component("pao2", "mmHg", 20.0, 600.0, "log", 4.8, 0.49, noise=0.08, label="PaO2"),
    Component("bilirubin", "mg/dL", 0.0, 30.0, "log1p", 0.97, 0.80, noise=0.02),
    Component("gcs", "points", 3.0, 15.0, "identity", 10.4, 4.2, noise=0.06, label="GCS"),
    # Square root rather than log1p: anuric hours (0 mL) would sit 4 SD out and dominate the fit.
    Component("urine", "mL/day", 0.0, 5000.0, "sqrt", 38.0, 17.0, noise=0.10, smoothed=True),
    Component("lactate", "mmol/L", 0.0, 20.0, "log1p", 1.25, 0.48, noise=0.06),
    # Exact bookkeeping, so without noise; 5 litres count as 1.
    Component("fluid_balance", "litres", -10.0, 30.0, scale=5.0, kind="derived", label="fluid balance"),
    Component("shock", "severity of shock", 0.0, 4.0, kind="hidden", initial=1.0, noise=0.05),
)
BALANCE, SHOCK = 6, 7

_FINE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # near zero, where doses of vasopressor matter
TREATMENTS = (
    Treatment("fio2", "%", 21.0, 100.0, upper_range=(100.0, 100.0), label="inspired oxygen"),
    Treatment("vasopressor", "mcg/kg/min norepinephrine equivalents", 0.0, 0.75, upper_range=(0.3, 1.5), levels=_FINE),
    Treatment(
        "fluids", "mL/h", 0.0, 1100.0, 100.0, upper_range=(500.0, 2000.0), levels=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    ),
)
FIO2, VASOPRESSOR, FLUIDS = range(3)

_LACTATE_FLOOR = 0.1  # mmol/L, below what a blood gas analyzer reports; keeps the relative clearance finite
CLEARANCE_HOURS = 6.0


def _mean(course: Course) -> np.ndarray:
    return course.component("lactate")[..., :: course.stride].mean(-1)


def _clearance(course: Course) -> np.ndarray:
    lactate = course.component("lactate")
    since = course.times - course.times[0]
    start, later = (lactate[..., int(np.argmin(np.abs(since - t)))] for t in (0.0, CLEARANCE_HOURS))
    return 100.0 * (start - later) / np.maximum(start, _LACTATE_FLOOR)


def _hours_above(course: Course, level: float) -> np.ndarray:
    above = (course.component("lactate") > level).astype(float)
    return (np.diff(course.times) * (above[..., 1:] + above[..., :-1]) / 2.0).sum(-1)


def _vasopressor(course: Course) -> np.ndarray:
    return (course.dose("vasopressor") * course.dt).sum(-1) * 60.0 / 1000.0


def _fluids(course: Course) -> np.ndarray:
    return (course.dose("fluids") * course.dt).sum(-1) / 1000.0


_ABOVE = "time above {} mmol/L, 0.25 h grid"
METRICS = (
    Metric("lactate_mean", "Lactate", "mmol/L", -1, 2, "mean over the hours 0..96", _mean),
    Metric("lactate_clearance_6h", "Clearance at 6 h", "%", 1, 1, "100 (l(0) - l(6)) / l(0)", _clearance),
    Metric("hours_lactate_above_2", "Lactate above 2", "h", -1, 1, _ABOVE.format(2), partial(_hours_above, level=2)),
    Metric("hours_lactate_above_4", "Lactate above 4", "h", -1, 1, _ABOVE.format(4), partial(_hours_above, level=4)),
    Metric("vasopressor_total", "Vasopressor", "mg/kg", 0, 2, "norepinephrine equivalents given in 96 h", _vasopressor),
    Metric("fluids_total", "Fluids", "L", 0, 1, "fluids given in 96 h", _fluids),
)


# Reference interval: 96 h / 20. Remission, chosen: less than the change of SOFA that defines sepsis, for half a day.
PROCESS = base.Process(
    96.0, min_interval=0.5, max_interval=36.0, decisions=20, settled=20.0, reference_interval=4.8, remission=(2.0, 12.0)
)

DISEASE = base.Disease(
    name="sepsis",
    label="sepsis",
    components=COMPONENTS,
    treatments=TREATMENTS,
    process=PROCESS,
    severity=base.Severity(
        "sofa",
        "SOFA surrogate",
        "points",
        lambda state, dose: sofa(state, dose[..., VASOPRESSOR]),
        lambda u: 0.2 * u[..., VASOPRESSOR],
        definition="a smooth SOFA surrogate",
        burden_text="0.2 x normalized vasopressor",
    ),
    costs=(
        base.Cost(
            "lactate",
            "lactate",
            4.0,  # septic shock in the Sepsis-3 and SSC definitions takes 2 with vasopressors; 4 is SSC's high risk
            "above",
            cost,
            cost_level,
            levels=(2.0, 4.0),
            definition="from lactate at the decision's end and its rise",
        ),
    ),
    views=VIEWS,
    metrics=METRICS,
    subgroups=(
        # mmol/L: raised, and the level of high risk in the SSC guideline.
        base.Subgroup(
            "initial lactate", "initial_lactate", lambda state, severity: state[..., LACTATE], (2.0, 4.0), "mmol/L"
        ),
        base.Subgroup("initial SOFA", "initial_sofa", lambda state, severity: severity),
    ),
    sign_checks=(
        SignCheck("FiO2 raises PaO2", "fio2", "pao2", 1, 0.95),
        SignCheck("FiO2 raises SpO2", "fio2", "spo2", 1, 0.85),
        SignCheck("fluids raise urine", "fluids", "urine", 1, 0.95),
        SignCheck("fluids lower lactate", "fluids", "lactate", -1, 0.95),
        SignCheck("vasopressor raises lactate (either sign is right, by need)", "vasopressor", "lactate", 1, None),
        SignCheck("vasopressor raises urine (either sign is right, by need)", "vasopressor", "urine", 1, None),
    ),
    needed="vasopressor",
    bank="sepsis-v0",
    environments={"SepsisTwin-v0": {"bank": "sepsis-twin-v0", "world": "true"}},
    # Torch and polars are imported when they are asked for.
    truth_facts=lambda bank: resolve_name(f"{__name__}.twin_bank:truth_checks")(bank),
    model=partial(resolve_name, f"{__name__}.model:MODEL"),
    cohort=partial(resolve_name, f"{__name__}.cohort:COHORT"),
    caution="The SOFA surrogate is smooth, has no coagulation term and reads oxygenation from SpO2.",
    license="odbl",
    lineage=(
        "Those of the release's banks were fitted or calibrated to the MIMIC-III Clinical Database Demo v1.4 and the "
        "MIMIC-IV Clinical Database Demo v2.2 (PhysioNet, ODbL 1.0): cite both."
    ),
    description="Treating sepsis in intensive care for 96 hours with oxygen, vasopressor and fluids.",
)
"""The disease of the paper (arXiv 2606.01028)."""
