"""What a sepsis cohort holds: six variables, three treatments, where MIMIC keeps them, and which stays are chosen.

Item ids follow mimic-code's concepts of MIMIC-III and MIMIC-IV (github.com/MIT-LCP/mimic-code) unless said otherwise.
"""

from __future__ import annotations

from functools import partial

from medgym_offline.diseases.concepts import CohortDefinition, Concept, Derived, Diagnosis, Part, Selection, Unit
from medgym_offline.diseases.sepsis.cohort import rules
from medgym_offline.diseases.sepsis.cohort.normalized import NormalizedTables

__all__ = ["COHORT"]

_ROOM_AIR, _URINE_CAP = 21.0, 5000.0

_MASS = "mcg/kg/min"
#: Drug -> equivalent, limit, items of orders, other names. Equivalents: Goradia et al. 2020, as in mimic-code's
#: `norepinephrine_equivalent_dose`. Limits, chosen: several times what anybody is given. Items of bags of other
#: concentrations too, as d_items of MIMIC-IV 3.1 has them: epinephrine 229617; "Phenylephrine (50/250)" 229630,
#: "(200/250)" 229632, "(200/250)_OLD_1" 229631, "(Intubation)" 229789. A rate is the drug's all the same, not the
#: bag's; its unit is read row by row. Inotropes (dobutamine, milrinone) are no vasopressors.
_DRUGS: dict[str, tuple[float, float, str, str]] = {
    "norepinephrine": (
        *(1.0, 5.0, "221906 30047 30120"),
        "noradrenaline noradrenalin noradrenalina norepinefrina norepinephrin norepi levophed levarterenol arterenol",
    ),
    "epinephrine": (
        *(1.0, 5.0, "221289 229617 30044 30119 30309"),
        "adrenaline adrenalin adrenalina epinefrina epinephrin suprarenin",
    ),
    "phenylephrine": (
        *(0.1, 20.0, "221749 229630 229631 229632 229789 30127 30128"),
        "neosynephrine neosynephrin phenylephrin fenylefrin fenylefrine fenilefrina",
    ),
    "dopamine": (0.01, 50.0, "221662 30043 30307", "dopamin dopamina intropin"),
    "vasopressin": (
        *(2.5, 0.2, "222315 30051"),
        "vasopressine vasopressina vasopresina argipressin pitressin vasostrict empressin",
    ),
}


def _drug(name: str, equivalent: float, limit: float, items: str, names: str) -> Part:
    also, ids = tuple(names.split()), {"input": items}
    if name == "vasopressin":
        return Part(name, "U/min", equivalent, limit, "U/h", (Unit("U/h", 1 / 60),), also, ids, ordered_in="U/h")
    units = (Unit("mcg/min", per_patient=True), Unit("mg/kg/min", 1000.0))
    return Part(name, _MASS, equivalent, limit, "mcg/min", units, also, ids)


#: The list of the AI Clinician study (Komorowski et al. 2018), its typo "3000630061" read as 30006 and 30061:
#: crystalloids, colloids and blood products. Dextrose 5 % alone is not among them.
_FLUIDS = (
    "225158 225943 226089 225168 225828 225823 220862 220970 220864 225159 220995 225170 225825 227533 225161 227531 "
    "225171 225827 225941 228341 30018 30021 30015 30296 30020 30066 30001 30030 30060 30005 30321 30006 30061 30009 "
    "30179 30190 30143 30160 30008 30168 30186 30211 30353 30159 30007 30185 30063 30094 30352 30014 30011 30210 46493 "
    "45399 46516 40850 30176 30161 30381 30315 42742 30180 46087 41491 30004 42698 42244"
)
_OF_BILIRUBIN = (Unit("umol/L", 1.0 / 17.104),)
#: Lactate carries one charge: a milliequivalent is a millimole.
_OF_LACTATE = (Unit("mg/dL", 1.0 / 9.008), Unit("mEq/L"))
_VOLUMES = (Unit("mL", amount=True), Unit("L", 1000.0, amount=True))
#: Sodium bicarbonate 8.4 %, where a milliequivalent is a millilitre.
_BICARBONATE = Unit("mEq", amount=True, items=("220995", "227533", "30030"))
_URINE = (
    "40055 43175 40069 40094 40715 40473 40085 40057 40056 40405 40428 40086 40096 40651 "
    "226559 226560 226561 226584 226563 226564 226565 226567 226557 226558 227489"
)
_OTHERS = "paco2 pco2 pvo2 po2 sao2 svo2 scvo2 urea dopexamine gcse gcsm gcsv gcseye gcsmotor gcsverbal"
#: Laboratory values, blood gases, coma scale and oxygen settings last for hours.
_lasting = partial(Concept, lookback=6.0)

# Bilirubin and lactate are charted as copies too; the laboratory alone has each value once. MEDS does not say what
# blood a gas was of: there the charted arterial one is read. A saturation of 0 is a probe that fell off.
_VARIABLES = (
    Concept("spo2", "%", (20.0, 100.0), (85.0, 100.0), units=(Unit("fraction", 100.0),), items={"chart": "646 220277"}),
    _lasting(
        "pao2",
        "mmHg",
        range=(20.0, 700.0),
        usual=(45.0, 400.0),
        units=(Unit("torr"), Unit("kPa", 7.50062)),
        items={"laboratory": "50821", "meds": "220224"},
        beside={"laboratory": rules.SPECIMENS},
        prepare=rules.arterial,
    ),
    _lasting("bilirubin", "mg/dL", (0.05, 80.0), (0.1, 12.0), units=_OF_BILIRUBIN, items={"laboratory": "50885"}),
    _lasting(
        "gcs",
        "points",
        range=(3.0, 15.0),
        usual=(3.0, 15.0),
        units=(Unit(""), Unit("score")),
        items={"chart": " ".join(rules.COMPONENTS)},
        prepare=rules.coma_scale,
        reads_text=True,
        spot=True,
    ),
    # 5 litres in a record are a mistake (mimic-code's limit): another unit, or a sum.
    Concept(
        "urine",
        "mL/day",
        range=(0.0, 5000.0),
        usual=(200.0, 4500.0),
        gridding="rate",
        units=(*_VOLUMES, Unit("mL/h", 24.0), Unit("L/day", 1000.0)),
        items={"output": _URINE},
        beside={"output": rules.IRRIGANT},
        prepare=rules.urine_records,
        spot=True,
        cap=_URINE_CAP,
        record_limit=5000.0,
        merge_hours=0.75,
        gap_hours=rules.URINE_GAP_HOURS,
    ),
    _lasting("lactate", "mmol/L", (0.1, 40.0), (0.4, 9.0), units=_OF_LACTATE, items={"laboratory": "50813"}),
)
_TREATMENTS = (
    # Charted gaps have median 3 h and 95th percentile 6 h: 12 h bridges every real one.
    _lasting(
        "fio2",
        "%",
        range=(_ROOM_AIR, 100.0),
        usual=(_ROOM_AIR, 100.0),
        gridding="held",
        units=(Unit("fraction", 100.0),),
        items={"chart": "190 3420 3422 223835", "laboratory": "50816"},
        fraction=True,
        background=_ROOM_AIR,
        hold_hours=12.0,
    ),
    # Unread: free-form CareVue items with the dose in the amount, as mimic-code notes.
    _lasting(
        "vasopressor",
        _MASS,
        range=(0.0, 20.0),
        usual=(0.003, 3.0),
        gridding="infusion",
        parts=tuple(_drug(name, *row) for name, row in _DRUGS.items()),
        prepare=rules.hourly_vasopressin,
        mistaken="mcg/min",
        unread={"42273": "vasopressin unit/min", "42802": "VASOPRESSIN CC/HR."},
        related=("angiotensin", "giapreza", "metaraminol", "terlipressin", "ephedrine"),
        categories=("01-Drips",),
    ),
    # A bolus charted over a minute is spread over a quarter of an hour; its volume stays.
    _lasting(
        "fluids",
        "mL/h",
        range=(0.0, 60000.0),
        usual=(4.0, 2500.0),
        gridding="infusion",
        units=(*_VOLUMES, Unit("L/h", 1000.0), Unit("mL/day", 1.0 / 24.0), _BICARBONATE),
        items={"input": _FLUIDS},
        given="amount",
        least_hours=0.25,
        categories=("02-Fluids (Crystalloids)", "03-IV Fluid Bolus", "04-Fluids (Colloids)", "07-Blood Products"),
        unitless={"227531": "mannitol, charted in grams"},
    ),
)

COHORT = CohortDefinition(
    disease="sepsis",
    variables=_VARIABLES,
    treatments=_TREATMENTS,
    selection=Selection(
        rule="Eligible: length of stay >= 24 h; window: the first min(96, floor(LOS)) hours on an hourly grid. "
        "Coverage c: how many of the six variables have >= 2 hourly values (bilirubin >= 1). "
        "Severity s: [sepsis ICD] + [any vasopressor] + [max lactate >= 2] + [max lactate >= 4]. "
        "SpO2, GCS and urine must be covered. Order: c down, s down, number of PaO2 + bilirubin + lactate values "
        "(each capped at 10) down, stay id up; take the first N.",
        required=("spo2", "gcs", "urine"),
        fewer={"bilirubin": 1},
        rare=("pao2", "bilirubin", "lactate"),
        severity=rules.severity,
    ),
    diagnoses=(
        # ICD-9: sepsis, severe sepsis, septic shock; ICD-10: streptococcal and other sepsis, severe sepsis.
        Diagnosis("sepsis", "sepsis by explicit ICD code", ("99591", "99592", "78552"), ("A40", "A41", "R652")),
    ),
    derived=(
        Derived(
            "fluid_balance",
            "litres",
            "Charted fluid balance at the end of the window",
            rules.fluid_balance,
            " (oral and enteral intake and plain dextrose are not in the fluid items of MIMIC, so it runs low there)",
        ),
    ),
    notes={
        "vasopressor_equivalents": "Goradia 2020 (used by mimic-code): norepinephrine x 1, epinephrine x 1, "
        "phenylephrine / 10, dopamine / 100 (mcg/kg/min), vasopressin (U/min) x 2.5",
        "gcs": "sum of components; the verbal score of an intubated patient, where the source has the words, predicted "
        "from eye and motor (Rutledge 1996, Meredith 1998)",
        "fio2_hold_hours": 12.0,
        "urine_cap_ml_per_day": _URINE_CAP,
        "urine_merge_hours": 0.75,
        "urine_max_gap_hours": rules.URINE_GAP_HOURS,
        "fluids": "volume charted (not tonicity-adjusted), as a rate over its interval",
        "fluids_min_hours": 0.25,
        "insensible_litres_per_hour": rules.INSENSIBLE_LITRES_PER_HOUR,
        "lookback_hours": {concept.name: concept.lookback for concept in (*_VARIABLES, *_TREATMENTS)},
        "sepsis": "explicit ICD code: 995.91, 995.92, 785.52, A40, A41, R65.2",
        "death": "in hospital",
    },
    sources=(NormalizedTables(),),
    other_names=frozenset(_OTHERS.split()),
)
