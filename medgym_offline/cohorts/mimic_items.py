"""Item ids that the cohort reads: CareVue below 220000 (MIMIC-III only), MetaVision from 220000, laboratory 5xxxx."""

from __future__ import annotations

__all__ = [
    "BICARBONATE_ITEMS",
    "CHART_ITEMS",
    "DEFAULT_WEIGHT_KG",
    "DRIP_CATEGORY",
    "FLUID_CATEGORIES",
    "FLUID_ITEMS",
    "GCS_HIGHEST",
    "GCS_ITEMS",
    "LAB_ITEMS",
    "MANNITOL",
    "PRESSOR_ITEMS",
    "SEPSIS_CODES",
    "SEPSIS_PREFIXES",
    "SPECIMEN_ITEMS",
    "UNREAD_ITEMS",
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

#: Components start at 1.
GCS_HIGHEST: dict[str, float] = {"eye": 4.0, "verbal": 5.0, "motor": 6.0}

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

#: Item -> drug. MetaVision's are those of mimic-code's MIMIC-IV concepts (norepinephrine, epinephrine, phenylephrine,
#: vasopressin, dopamine), and those that the d_items of MIMIC-IV 3.1 has for bags of other concentrations: epinephrine
#: 229617; "Phenylephrine (50/250)" 229630, "(200/250)" 229632, "(200/250)_OLD_1" 229631, "(Intubation)" 229789. A rate
#: is the drug's all the same, not the bag's; its unit is read row by row. CareVue's are those of mimic-code's MIMIC-III
#: concepts. Inotropes (dobutamine, milrinone) are no vasopressors.
PRESSOR_ITEMS: dict[str, str] = {
    **dict.fromkeys(_ids("221906 30047 30120"), "norepinephrine"),
    **dict.fromkeys(_ids("221289 229617 30044 30119 30309"), "epinephrine"),
    **dict.fromkeys(_ids("221749 229630 229631 229632 229789 30127 30128"), "phenylephrine"),
    **dict.fromkeys(_ids("222315 30051"), "vasopressin"),
    **dict.fromkeys(_ids("221662 30043 30307"), "dopamine"),
}

#: Free-form CareVue items of vasopressin with the dose in the amount, as mimic-code notes: counted, not read.
UNREAD_ITEMS: dict[str, str] = {"42273": "vasopressin unit/min", "42802": "VASOPRESSIN CC/HR."}

#: The list of the AI Clinician study (Komorowski et al. 2018), its typo "3000630061" read as 30006 and 30061:
#: crystalloids, colloids and blood products. Dextrose 5 % alone is not among them.
FLUID_ITEMS = _ids(
    "225158 225943 226089 225168 225828 225823 220862 220970 220864 225159 220995 225170 225825 227533 225161 227531 "
    "225171 225827 225941 228341 30018 30021 30015 30296 30020 30066 30001 30030 30060 30005 30321 30006 30061 30009 "
    "30179 30190 30143 30160 30008 30168 30186 30211 30353 30159 30007 30185 30063 30094 30352 30014 30011 30210 46493 "
    "45399 46516 40850 30176 30161 30381 30315 42742 30180 46087 41491 30004 42698 42244"
)

#: Sodium bicarbonate 8.4 %, where a milliequivalent is a millilitre.
BICARBONATE_ITEMS = _ids("220995 227533 30030")
#: Charted in grams.
MANNITOL = "227531"
#: Categories of orders that give fluids.
FLUID_CATEGORIES = ("02-Fluids (Crystalloids)", "03-IV Fluid Bolus", "04-Fluids (Colloids)", "07-Blood Products")
#: The category of orders that give vasopressors (and sedatives, insulin, ...).
DRIP_CATEGORY = "01-Drips"

#: ICD-9: sepsis, severe sepsis, septic shock.
SEPSIS_CODES = ("99591", "99592", "78552")
#: ICD-10: streptococcal and other sepsis, severe sepsis; any code that starts so.
SEPSIS_PREFIXES = ("A40", "A41", "R652")
