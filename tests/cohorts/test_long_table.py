"""The long table of any hospital: clocks, units, treatments, and what it refuses."""

from tests.cohorts.support import held, read_source

HEADER = "stay,subject,time,end,variable,value,unit\n"
#: In the package's own units, hours as the clock.
ROWS = """\
1,p,0.5,,spo2,96,%
1,p,2,,spo2,94,%
1,p,-1,,lactate,4,mmol/L
1,p,3,,pao2,75,mmHg
1,p,3,,bilirubin,1.0,mg/dL
1,p,4,,gcs,13,points
1,p,5,,urine,1200,mL/day
1,p,1,,fio2,50,%
1,p,6,8,fio2,30,%
1,p,1,3,vasopressor,0.1,mcg/kg/min
1,p,1,5,fluids,100,mL/h
2,p,1,,spo2,99,%
2,p,2,,spo2,98,%
"""
#: The same in other units, as timestamps, with volumes, out of order.
OTHER = """\
2,p,2150-03-01 11:00,,SpO2,0.99,fraction
2,p,2150-03-01 12:00,,SpO2,98,percent
1,p,2150-03-01 13:00:00,,pao2,9.99917,kPa
1,p,2150-03-01 13:00:00,,bilirubin,17.104,µmol/L
1,p,2150-03-01 09:00:00,,lactate,36.032,mg/dL
1,p,2150-03-01 14:00:00,,gcs,13,
1,p,2150-03-01 15:00:00,,urine,50,ml/hr
1,p,2150-03-01 10:30:00,,spo2,96,%
1,p,2150-03-01 12:00:00,,spo2,94,%
1,p,2150-03-01 11:00:00,,fio2,0.5,fraction
1,p,2150-03-01 16:00:00,2150-03-01 18:00:00,fio2,0.3,fraction
1,p,2150-03-01 11:00:00,2150-03-01 13:00:00,norepinephrine,0.05,ug/kg/min
1,p,2150-03-01 11:00:00,2150-03-01 13:00:00,vasopressin,1.2,units/hour
1,p,2150-03-01 11:00:00,2150-03-01 15:00:00,fluids,0.4,L
"""
STAYS = """\
stay,admission,discharge,sex,age,weight_kg,sepsis,died
1,2150-03-01 10:00:00,2150-03-02 16:00:00,female,61,70,yes,0
2,2150-03-01 10:00:00,2150-03-01 20:00:00,M,,,,1
3,2150-03-01 10:00:00,2150-03-01 20:00:00,M,,,,1
"""


def read(folder, rows, stays=""):
    folder.mkdir()
    (folder / "events.csv").write_text(HEADER + rows, encoding="utf-8")
    if stays:
        (folder / "stays.csv").write_text(stays, encoding="utf-8")
    return read_source(folder)


def test_hours_and_own_units(tmp_path):
    cohort = read(tmp_path / "St. Mary's", ROWS)
    assert cohort.patients == ("st-mary-s/1", "st-mary-s/2")
    assert cohort.subjects == ("st-mary-s/p", "st-mary-s/p")
    assert cohort.stays["los_h"].to_list() == [8.0, 2.0]  # nobody wrote it: to the last event
    assert held(cohort, "1") == {
        "lactate": [(-1.0, None, 4.0)],
        "spo2": [(0.5, None, 96.0), (2.0, None, 94.0)],
        "fio2": [(1.0, 6.0, 50.0), (6.0, 8.0, 30.0)],
        "fluids": [(1.0, 5.0, 100.0)],
        "vasopressor": [(1.0, 3.0, 0.1)],
        "bilirubin": [(3.0, None, 1.0)],
        "pao2": [(3.0, None, 75.0)],
        "gcs": [(4.0, None, 13.0)],
        "urine": [(5.0, None, 1200.0)],
    }
    assert cohort.rejections.rows == cohort.rejections.repairs == {}


def test_timestamps_other_units_drugs_and_volumes_give_the_same(tmp_path):
    plain = read(tmp_path / "a", ROWS, "stay,los_h\n1,30\n2,10\n")
    other = read(tmp_path / "b", OTHER, STAYS)
    for stay in ("1", "2"):
        assert held(other, stay) == held(plain, stay)
    repairs = other.rejections.repairs
    assert repairs["pao2: converted from kPa"] == repairs["lactate: converted from mg/dL"] == 1
    assert other.stays.select("los_h", "sex", "age", "weight_kg", "sepsis", "died").rows() == [
        (30.0, "F", 61.0, 70.0, True, False),
        (10.0, "M", None, None, None, True),
    ]
    assert other.rejections.stays == {"b/3": "no observation"}
    # A stay without an admission is counted.
    partial = read(tmp_path / "c", OTHER, "".join(STAYS.splitlines(keepends=True)[:2]))
    assert partial.patients == ("c/1",)
    assert partial.rejections.rows["no admission time of the stay"] == 2
