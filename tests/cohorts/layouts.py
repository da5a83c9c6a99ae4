"""One stay of 48 h, written in every layout that the package reads, from one list of what was charted and given."""

from collections.abc import Sequence
from dataclasses import dataclass

from medgym_offline.diseases.sepsis.cohort import COHORT
from tests.cohorts.support import DRUGS, write_csv

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
    """

    points: Sequence[tuple[str, float, str]] = ()
    doses: Sequence[tuple[str, float, float, str]] = ()
    volumes: Sequence[tuple[float, float, str]] = ()
    urine: Sequence[tuple[float, str]] = ()
    codes: Sequence[tuple[str, int]] = (("4019", 9),)
    died: bool = False
    born: int = 2090

    def __post_init__(self):
        self.points = [*ALWAYS, *self.points]


_CHART = {"spo2": "220277", "fio2": "223835"}
_LAB = {"pao2": "50821", "bilirubin": "50885", "lactate": "50813"}
_DRUG = {name: part.items["input"].split()[0] for name, part in DRUGS.items()}


def at(hour):
    """Timestamp of an hour since admission at 2150-03-10 00:00."""
    day, minute = divmod(round(hour * 60), 24 * 60)
    return f"2150-03-{10 + day:02d} {minute // 60:02d}:{minute % 60:02d}:00"


def _rate(drug, dose):
    """Rate and its unit as MetaVision charts them: vasopressin by the hour."""
    if drug != "vasopressin":
        return dose, "mcg/kg/min"
    return (repr(float(dose) * 60.0) if dose else dose), "units/hour"


def _long(charted):
    """Long table, hours since admission."""
    rows = [(1, t, "", name, value, COHORT.concepts[name].unit) for name, t, value in charted.points]
    rows += [(1, a, b, drug, dose, DRUGS[drug].unit) for drug, a, b, dose in charted.doses]
    rows += [(1, a, b, "fluids", ml, "mL") for a, b, ml in charted.volumes]
    rows += [(1, t, "", "urine", ml, "mL") for t, ml in charted.urine]
    return {"events": ("stay,time,end,variable,value,unit", rows), "stays": ("stay,los_h", [(1, 48)])}


def _normal(charted):
    """Normalized tables."""
    header = "stay_id,subject_id,los_h,age,gender,weight_kg,hospital_expire_flag,sepsis"
    observed = [(1, name, t, value) for name, t, value in charted.points]
    observed += [(1, "urine", t, ml) for t, ml in charted.urine]
    doses = [(1, drug, a, b, d, d and repr(float(d) * DRUGS[drug].factor)) for drug, a, b, d in charted.doses]
    return {
        "stays": (header, [(1, 10, 48, 60, "F", 70, 0, 0)]),
        "observations": ("stay_id,var,t_h,value", observed),
        "vasopressors": ("stay_id,drug,t0_h,t1_h,dose,neq", doses),
        "fluids": ("stay_id,t0_h,t1_h,ml", [(1, a, b, ml) for a, b, ml in charted.volumes]),
    }


_ORDERS = "starttime,endtime,itemid,amount,amountuom,rate,rateuom,patientweight,statusdescription"
_ORDERS += ",ordercategoryname,secondaryordercategoryname"


def _mimic_iv(charted):
    """MIMIC-IV tables in one folder."""
    labs = [(10, i, _LAB[n], at(t), v, v) for i, (n, t, v) in enumerate(charted.points) if n in _LAB]
    charts = [(10, 1, _CHART[n], at(t), v, v) for n, t, v in charted.points if n in _CHART]
    orders = []
    for drug, start, end, dose in charted.doses:
        orders.append((10, 1, at(start), at(end), _DRUG[drug], 1, "mg", *_rate(drug, dose), 70, "", "01-Drips", ""))
    for start, end, ml in charted.volumes:
        orders.append((10, 1, at(start), at(end), 225158, ml, "ml", "", "", 70, "", "03-IV Fluid Bolus", ""))
    urine = [(10, 1, 226559, at(t), ml) for t, ml in charted.urine]
    return {
        "icustays": ("subject_id,hadm_id,stay_id,intime,outtime", [(10, 100, 1, at(0), at(48))]),
        "patients": ("subject_id,gender,anchor_age,anchor_year", [(10, "F", 2148 - charted.born, 2148)]),
        "admissions": ("hadm_id,hospital_expire_flag", [(100, int(charted.died))]),
        "diagnoses_icd": ("hadm_id,icd_code,icd_version", [(100, *code) for code in charted.codes]),
        "chartevents": ("subject_id,stay_id,itemid,charttime,value,valuenum", charts),
        "labevents": ("subject_id,specimen_id,itemid,charttime,value,valuenum", labs),
        "outputevents": ("subject_id,stay_id,itemid,charttime,value", urine),
        "inputevents": ("subject_id,stay_id," + _ORDERS, orders),
    }


def _mimic_iii(charted):
    """MIMIC-III tables, all MetaVision but for rows that a test adds to INPUTEVENTS_CV."""
    four = {name: (head.replace("stay_id", "icustay_id"), rows) for name, (head, rows) in _mimic_iv(charted).items()}
    (charts, chart_rows), (outputs, output_rows) = four["chartevents"], four["outputevents"]
    labs = [(who, *rest) for who, _, *rest in four["labevents"][1]]
    codes = [(who, code) for who, code, version in four["diagnoses_icd"][1] if version == 9]
    return {
        "ICUSTAYS": four["icustays"],
        "PATIENTS": ("subject_id,gender,dob", [(10, "F", f"{charted.born}-03-10 00:00:00")]),
        "ADMISSIONS": four["admissions"],
        "DIAGNOSES_ICD": ("hadm_id,icd9_code", codes),
        "CHARTEVENTS": (charts + ",error", [(*row, "") for row in chart_rows]),
        "LABEVENTS": ("subject_id,itemid,charttime,value,valuenum", labs),
        "OUTPUTEVENTS": (outputs + ",iserror", [(*row, "") for row in output_rows]),
        "INPUTEVENTS_MV": four["inputevents"],
        "INPUTEVENTS_CV": ("subject_id,icustay_id,charttime,itemid,amount,amountuom,rate,rateuom,stopped", []),
    }


def _meds(charted):
    """MEDS events of MIMIC-IV; arterial oxygen is the charted one."""
    items = {**_CHART, **_LAB, "pao2": "220224"}
    rows = [(10, "2090-03-10 00:00:00", "MEDS_BIRTH", "")]
    rows += [(10, at(0), "ICU_ADMISSION//MICU", ""), (10, at(48), "ICU_DISCHARGE//MICU", "")]
    rows += [(10, at(t), f"LAB//{items[name]}//UNK", value) for name, t, value in charted.points]
    rows += [(10, at(t), "SUBJECT_FLUID_OUTPUT//226559//ml", ml) for t, ml in charted.urine]
    for drug, start, end, dose in charted.doses:
        rows.append((10, at(start), f"INFUSION_START//{_DRUG[drug]}", _rate(drug, dose)[0]))
        rows.append((10, at(end), f"INFUSION_END//{_DRUG[drug]}", 1))
    for start, end, ml in charted.volumes:
        rows += [(10, at(start), "INFUSION_START//225158", ""), (10, at(end), "INFUSION_END//225158", ml)]
    return {"events": ("subject_id,time,code,value", rows)}


#: Every layout that is read: its tables, each a header and rows.
LAYOUTS = {"long table": _long, "normalized": _normal, "mimic-iii": _mimic_iii, "mimic-iv": _mimic_iv, "meds": _meds}
#: A record of what is always there.
THIN = Charted()


def write(folder, layout, charted=THIN, **extra):
    """The folder, which now holds the tables of a layout, some with extra rows."""
    folder.mkdir(exist_ok=True)
    for name, (header, rows) in LAYOUTS[layout](charted).items():
        write_csv(folder / f"{name}.csv", header, [*rows, *extra.get(name, [])])
    return folder


#: A record that has everything, and what every layout makes of it.
RICH = Charted(
    points=[("lactate", -1, "4.5"), ("fio2", 1, "0.5"), ("pao2", 3, "82"), ("fio2", 5, "40"), ("bilirubin", 12, "1.4")],
    doses=[("norepinephrine", 1.0, 3.0, "0.1"), ("vasopressin", 2.0, 4.0, "0.04"), ("phenylephrine", 5.0, 6.0, "1.2")],
    volumes=[(1.0, 5.0, "400"), (3.0, 7.0, "200")],
    urine=[(2.0, "100"), (3.0, "50"), (4.0, "100"), (4.5, "50")],
)
RICH_ROWS = {
    "lactate": [(-1.0, None, 4.5)],
    "fio2": [(1.0, 5.0, 50.0), (5.0, 17.0, 40.0)],
    "fluids": [(1.0, 3.0, 100.0), (3.0, 5.0, 150.0), (5.0, 7.0, 50.0)],
    "spo2": [(1.0, None, 97.0), (2.0, None, 96.0)],
    "vasopressor": [(1.0, 2.0, 0.1), (2.0, 3.0, 0.2), (3.0, 4.0, 0.1), (5.0, 6.0, 0.12)],
    "urine": [(2.0, None, 1200.0), (3.0, None, 1200.0), (4.5, None, 2400.0)],
    "pao2": [(3.0, None, 82.0)],
    "bilirubin": [(12.0, None, 1.4)],
}
