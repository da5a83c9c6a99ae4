"""One stay of 48 h, written in every layout that the package reads, from one list of what was charted and given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cohorts.conftest import write_csv
from tests.cohorts.support import DRUGS

#: Two saturations, without which a stay is too thin to keep.
ALWAYS = (("spo2", 1.0, "97"), ("spo2", 2.0, "96"))


@dataclass
class Charted:
    """What to write; values are text, so that they may be none.

    Attributes:
        points: variable ("gcs" is no point: three rows), hour, value.
        doses: drug, start, end, dose in the drug's unit.
        volumes: start, end, mL of saline.
        urine: hour, mL of the record.
        codes: Diagnosis and version of ICD.
        extra: Further rows of the tables that a layout has.
    """

    points: Sequence[tuple[str, float, str]] = ()
    doses: Sequence[tuple[str, float, float, str]] = ()
    volumes: Sequence[tuple[float, float, str]] = ()
    urine: Sequence[tuple[float, str]] = ()
    codes: Sequence[tuple[str, int]] = (("4019", 9),)
    died: bool = False
    born: int = 2090
    extra: dict[str, list[tuple[object, ...]]] = field(default_factory=dict)

    @property
    def all_points(self) -> list[tuple[str, float, str]]:
        return [*ALWAYS, *self.points]


_UNIT = {"spo2": "%", "pao2": "mmHg", "bilirubin": "mg/dL", "lactate": "mmol/L", "gcs": "points", "fio2": "%"}
_CHART = {"spo2": "220277", "fio2": "223835"}
_LAB = {"pao2": "50821", "bilirubin": "50885", "lactate": "50813"}
_DRUG = {
    "norepinephrine": "221906",
    "epinephrine": "221289",
    "phenylephrine": "221749",
    "dopamine": "221662",
    "vasopressin": "222315",
}


def at(hour: float) -> str:
    """Timestamp of an hour since admission at 2150-03-10 00:00."""
    day, minute = divmod(round(hour * 60), 24 * 60)
    return f"2150-03-{10 + day:02d} {minute // 60:02d}:{minute % 60:02d}:00"


def _rate(drug: str, dose: str) -> tuple[str, str]:
    """Rate and its unit as MetaVision charts them: vasopressin by the hour."""
    if drug != "vasopressin":
        return dose, "mcg/kg/min"
    return (repr(float(dose) * 60.0) if dose else dose), "units/hour"


def write_long(folder: Path, charted: Charted) -> None:
    """Long table, hours since admission."""
    rows: list[tuple[object, ...]] = [(1, t, "", name, value, _UNIT[name]) for name, t, value in charted.all_points]
    rows += [(1, a, b, drug, dose, DRUGS[drug].unit) for drug, a, b, dose in charted.doses]
    rows += [(1, a, b, "fluids", ml, "mL") for a, b, ml in charted.volumes]
    rows += [(1, t, "", "urine", ml, "mL") for t, ml in charted.urine]
    write_csv(folder / "events.csv", "stay,time,end,variable,value,unit", [*rows, *charted.extra.get("events", [])])
    write_csv(folder / "stays.csv", "stay,los_h", [(1, 48)])


def write_normal(folder: Path, charted: Charted) -> None:
    """Normalized tables."""
    header = "stay_id,subject_id,los_h,age,gender,weight_kg,hospital_expire_flag,sepsis"
    write_csv(folder / "stays.csv", header, [(1, 10, 48, 60, "F", 70, 0, 0)])
    observed: list[tuple[object, ...]] = [(1, name, t, value) for name, t, value in charted.all_points]
    observed += [(1, "urine", t, ml) for t, ml in charted.urine]
    write_csv(folder / "observations.csv", "stay_id,var,t_h,value", [*observed, *charted.extra.get("observations", [])])
    doses = []
    for drug, start, end, dose in charted.doses:
        doses.append((1, drug, start, end, dose, repr(float(dose) * DRUGS[drug].factor) if dose else ""))
    write_csv(
        folder / "vasopressors.csv",
        "stay_id,drug,t0_h,t1_h,dose,neq",
        [*doses, *charted.extra.get("vasopressors", [])],
    )
    volumes = [(1, start, end, ml) for start, end, ml in charted.volumes]
    write_csv(folder / "fluids.csv", "stay_id,t0_h,t1_h,ml", [*volumes, *charted.extra.get("fluids", [])])


def _lab_rows(charted: Charted) -> list[tuple[object, ...]]:
    return [(10, i, _LAB[n], at(t), v, v) for i, (n, t, v) in enumerate(charted.all_points) if n in _LAB]


def _chart_rows(charted: Charted) -> list[tuple[object, ...]]:
    return [(10, 1, _CHART[n], at(t), v, v) for n, t, v in charted.all_points if n in _CHART]


def _order_rows(charted: Charted) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for drug, start, end, dose in charted.doses:
        rows.append((10, 1, at(start), at(end), _DRUG[drug], 1, "mg", *_rate(drug, dose), 70, "", "01-Drips", ""))
    for start, end, ml in charted.volumes:
        rows.append((10, 1, at(start), at(end), 225158, ml, "ml", "", "", 70, "", "03-IV Fluid Bolus", ""))
    return rows


_ORDERS = (
    "starttime,endtime,itemid,amount,amountuom,rate,rateuom,patientweight,statusdescription,ordercategoryname,"
    "secondaryordercategoryname"
)


def write_mimic_three(folder: Path, charted: Charted) -> None:
    """MIMIC-III tables, all MetaVision but for what `extra` adds to INPUTEVENTS_CV."""
    more = charted.extra.get
    write_csv(
        folder / "ICUSTAYS.csv",
        "subject_id,hadm_id,icustay_id,intime,outtime",
        [(10, 100, 1, at(0), at(48)), *more("ICUSTAYS", [])],
    )
    write_csv(folder / "PATIENTS.csv", "subject_id,gender,dob", [(10, "F", f"{charted.born}-03-10 00:00:00")])
    write_csv(folder / "ADMISSIONS.csv", "hadm_id,hospital_expire_flag", [(100, int(charted.died))])
    codes = [(100, code) for code, version in charted.codes if version == 9]
    write_csv(folder / "DIAGNOSES_ICD.csv", "hadm_id,icd9_code", codes)
    charts = [(*row, "") for row in _chart_rows(charted)]
    write_csv(
        folder / "CHARTEVENTS.csv",
        "subject_id,icustay_id,itemid,charttime,value,valuenum,error",
        [*charts, *more("CHARTEVENTS", [])],
    )
    labs = [(who, item, when, text, number) for who, _, item, when, text, number in _lab_rows(charted)]
    write_csv(folder / "LABEVENTS.csv", "subject_id,itemid,charttime,value,valuenum", [*labs, *more("LABEVENTS", [])])
    urine = [(10, 1, 226559, at(t), ml, "") for t, ml in charted.urine]
    write_csv(
        folder / "OUTPUTEVENTS.csv",
        "subject_id,icustay_id,itemid,charttime,value,iserror",
        [*urine, *more("OUTPUTEVENTS", [])],
    )
    write_csv(
        folder / "INPUTEVENTS_MV.csv",
        "subject_id,icustay_id," + _ORDERS,
        [*_order_rows(charted), *more("INPUTEVENTS_MV", [])],
    )
    write_csv(
        folder / "INPUTEVENTS_CV.csv",
        "subject_id,icustay_id,charttime,itemid,amount,amountuom,rate,rateuom,stopped",
        more("INPUTEVENTS_CV", []),
    )


def write_mimic_four(folder: Path, charted: Charted) -> None:
    """MIMIC-IV tables in one folder."""
    more = charted.extra.get
    write_csv(folder / "icustays.csv", "subject_id,hadm_id,stay_id,intime,outtime", [(10, 100, 1, at(0), at(48))])
    write_csv(
        folder / "patients.csv", "subject_id,gender,anchor_age,anchor_year", [(10, "F", 2148 - charted.born, 2148)]
    )
    write_csv(folder / "admissions.csv", "hadm_id,hospital_expire_flag", [(100, int(charted.died))])
    codes = [(100, code, version) for code, version in charted.codes]
    write_csv(folder / "diagnoses_icd.csv", "hadm_id,icd_code,icd_version", codes)
    write_csv(
        folder / "chartevents.csv",
        "subject_id,stay_id,itemid,charttime,value,valuenum",
        [*_chart_rows(charted), *more("chartevents", [])],
    )
    write_csv(
        folder / "labevents.csv",
        "subject_id,specimen_id,itemid,charttime,value,valuenum",
        [*_lab_rows(charted), *more("labevents", [])],
    )
    urine = [(10, 1, 226559, at(t), ml) for t, ml in charted.urine]
    write_csv(
        folder / "outputevents.csv",
        "subject_id,stay_id,itemid,charttime,value",
        [*urine, *more("outputevents", [])],
    )
    write_csv(
        folder / "inputevents.csv", "subject_id,stay_id," + _ORDERS, [*_order_rows(charted), *more("inputevents", [])]
    )


def write_meds(folder: Path, charted: Charted) -> None:
    """MEDS events of MIMIC-IV; arterial oxygen is the charted one."""
    items = {**_CHART, **_LAB, "pao2": "220224"}
    rows: list[tuple[object, ...]] = [
        (10, "2090-03-10 00:00:00", "MEDS_BIRTH", ""),
        (10, at(0), "ICU_ADMISSION//MICU", ""),
        (10, at(48), "ICU_DISCHARGE//MICU", ""),
    ]
    rows += [(10, at(t), f"LAB//{items[name]}//UNK", value) for name, t, value in charted.all_points]
    rows += [(10, at(t), "SUBJECT_FLUID_OUTPUT//226559//ml", ml) for t, ml in charted.urine]
    for drug, start, end, dose in charted.doses:
        rows += [
            (10, at(start), f"INFUSION_START//{_DRUG[drug]}", _rate(drug, dose)[0]),
            (10, at(end), f"INFUSION_END//{_DRUG[drug]}", 1),
        ]
    for start, end, ml in charted.volumes:
        rows += [(10, at(start), "INFUSION_START//225158", ""), (10, at(end), "INFUSION_END//225158", ml)]
    write_csv(folder / "events.csv", "subject_id,time,code,value", [*rows, *charted.extra.get("events", [])])


#: Every layout that is read, by name.
LAYOUTS: dict[str, Callable[[Path, Charted], None]] = {
    "long table": write_long,
    "normalized": write_normal,
    "mimic-iii": write_mimic_three,
    "mimic-iv": write_mimic_four,
    "meds": write_meds,
}


#: A record that has everything, and what every layout makes of it.
RICH = Charted(
    points=[
        ("lactate", -1.0, "4.5"),
        ("fio2", 1.0, "0.5"),
        ("pao2", 3.0, "82"),
        ("fio2", 5.0, "40"),
        ("bilirubin", 12.0, "1.4"),
    ],
    doses=[("norepinephrine", 1.0, 3.0, "0.1"), ("vasopressin", 2.0, 4.0, "0.04"), ("phenylephrine", 5.0, 6.0, "1.2")],
    volumes=[(1.0, 5.0, "400"), (3.0, 7.0, "200")],
    urine=[(2.0, "100"), (3.0, "50"), (4.0, "100"), (4.5, "50")],
)
RICH_ROWS = [
    ("lactate", -1.0, None, 4.5),
    ("fio2", 1.0, 5.0, 50.0),
    ("fluids", 1.0, 3.0, 100.0),
    ("spo2", 1.0, None, 97.0),
    ("vasopressor", 1.0, 2.0, 0.1),
    ("spo2", 2.0, None, 96.0),
    ("urine", 2.0, None, 1200.0),
    ("vasopressor", 2.0, 3.0, 0.2),
    ("fluids", 3.0, 5.0, 150.0),
    ("pao2", 3.0, None, 82.0),
    ("urine", 3.0, None, 1200.0),
    ("vasopressor", 3.0, 4.0, 0.1),
    ("urine", 4.5, None, 2400.0),
    ("fio2", 5.0, 17.0, 40.0),
    ("fluids", 5.0, 7.0, 50.0),
    ("vasopressor", 5.0, 6.0, 0.12),
    ("bilirubin", 12.0, None, 1.4),
]
