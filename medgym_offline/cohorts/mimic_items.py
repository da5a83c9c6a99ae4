"""Item ids that the cohort reads: CareVue below 220000 (MIMIC-III only), MetaVision from 220000, laboratory 5xxxx."""

from __future__ import annotations

__all__ = [
    "CHART_ITEMS",
    "DEFAULT_WEIGHT_KG",
    "DOSE_LIMITS",
    "EQUIVALENTS",
    "FLUID_ITEMS",
    "GCS_ITEMS",
    "LAB_ITEMS",
    "PRESSOR_ITEMS",
    "SEPSIS_CODES",
    "SEPSIS_PREFIXES",
    "SPECIMEN_ITEMS",
    "URINE_IRRIGANT",
    "URINE_ITEMS",
    "VENOUS_SPECIMENS",
    "WEIGHT_ITEMS",
    "WEIGHT_RANGE",
]


def _ids(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CHART_ITEMS: dict[str, tuple[str, ...]] = {"spo2": _ids("646 220277"), "fio2": _ids("190 3420 3422 223835")}

#: Component -> items; the score is their sum at one charting time.
GCS_ITEMS: dict[str, tuple[str, ...]] = {
    "eye": _ids("184 220739"),
    "verbal": _ids("723 223900"),
    "motor": _ids("454 223901"),
}

WEIGHT_ITEMS = _ids("762 763 226512 224639")
WEIGHT_RANGE = (30.0, 250.0)
DEFAULT_WEIGHT_KG = 80.0

#: Bilirubin and lactate are charted as copies too; the laboratory alone has each value once.
LAB_ITEMS: dict[str, str] = {"50821": "pao2", "50885": "bilirubin", "50813": "lactate", "50816": "fio2"}
#: Where a blood gas says what blood it is: MIMIC-III, MIMIC-IV (which ends the words with a full stop).
SPECIMEN_ITEMS = _ids("50800 52033")
VENOUS_SPECIMENS = ("VEN", "MIX", "CENTRAL VENOUS")

URINE_ITEMS = _ids(
    "40055 43175 40069 40094 40715 40473 40085 40057 40056 40405 40428 40086 40096 40651 "
    "226559 226560 226561 226584 226563 226564 226565 226567 226557 226558 227489"
)
#: Irrigant that went in counts negative: it comes out again as urine.
URINE_IRRIGANT = "227488"

#: Item -> drug.
PRESSOR_ITEMS: dict[str, str] = {
    **dict.fromkeys(_ids("221906 30047 30120"), "norepinephrine"),
    **dict.fromkeys(_ids("221289 30044 30119 30309"), "epinephrine"),
    **dict.fromkeys(_ids("221749 30127 30128"), "phenylephrine"),
    **dict.fromkeys(_ids("222315 30051"), "vasopressin"),
    **dict.fromkeys(_ids("221662 30043 30307"), "dopamine"),
}

#: Norepinephrine equivalents of one unit (mcg/kg/min; vasopressin U/min), Goradia 2020.
EQUIVALENTS: dict[str, float] = {
    "norepinephrine": 1.0,
    "epinephrine": 1.0,
    "phenylephrine": 0.1,
    "dopamine": 0.01,
    "vasopressin": 2.5,
}

#: Doses above are charting mistakes (mcg/kg/min; vasopressin U/min).
DOSE_LIMITS: dict[str, float] = {
    "norepinephrine": 5.0,
    "epinephrine": 5.0,
    "phenylephrine": 20.0,
    "dopamine": 50.0,
    "vasopressin": 0.2,
}

#: The list of the AI Clinician study, its typo "3000630061" read as 30006 and 30061.
FLUID_ITEMS = _ids(
    "225158 225943 226089 225168 225828 225823 220862 220970 220864 225159 220995 225170 225825 227533 225161 227531 "
    "225171 225827 225941 228341 30018 30021 30015 30296 30020 30066 30001 30030 30060 30005 30321 30006 30061 30009 "
    "30179 30190 30143 30160 30008 30168 30186 30211 30353 30159 30007 30185 30063 30094 30352 30014 30011 30210 46493 "
    "45399 46516 40850 30176 30161 30381 30315 42742 30180 46087 41491 30004 42698 42244"
)

#: ICD-9: sepsis, severe sepsis, septic shock.
SEPSIS_CODES = ("99591", "99592", "78552")
#: ICD-10: streptococcal and other sepsis, severe sepsis; any code that starts so.
SEPSIS_PREFIXES = ("A40", "A41", "R652")
