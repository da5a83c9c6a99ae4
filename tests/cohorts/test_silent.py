"""Nothing goes wrong silently: what is left out, changed or ambiguous is named, refused or counted."""

import itertools
import random

import polars as pl
import pytest

from medgym_offline.cohorts import Cohort, cohort_card
from medgym_offline.errors import CohortError
from tests.cohorts.layouts import RICH, write
from tests.cohorts.support import build_cohort, read_source
from tests.helpers import refused

HEADER = "stay,time,end,variable,value,unit\n"
VALUES = {"spo2": (95.5, "%"), "gcs": (13, "points"), "lactate": (2.5, "mmol/L"), "urine": (80.5, "mL/h")}
TREATMENTS = "{stay},1,20,norepinephrine,0.1,mcg/kg/min\n{stay},1,20,fluids,120,mL/h\n{stay},1,20,fio2,40,%\n"


def two_stays(folder, ids=("7", "8"), left_out="", stays="", treated=True, per_hour=1.0, more=""):
    """Two stays of 20 hours; `per_hour` is how many of the written unit of time make an hour."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    text = HEADER
    for stay, hour, (name, (value, unit)) in itertools.product(ids, range(1, 21), VALUES.items()):
        if name != left_out:
            text += f"{stay},{hour * per_hour},,{name},{value - draw.random():.3f},{unit}\n"
    for stay in ids if treated else ():
        text += TREATMENTS.format(stay=stay)
    (folder / "events.csv").write_text(text + more)
    if stays:
        (folder / "stays.csv").write_text(stays)
    return folder


@pytest.mark.parametrize(("layout", "table"), [("long table", "events"), ("meds", "events"), ("normalized", "fluids")])
def test_one_table_in_two_formats_is_refused(tmp_path, layout, table):
    write(tmp_path, layout, RICH)
    pl.read_csv(tmp_path / f"{table}.csv", infer_schema=False).write_parquet(tmp_path / f"{table}.parquet")
    words = rf"{table}\.csv and {table}\.parquet are one table in two files"
    refused(CohortError, words, lambda: read_source(tmp_path))


def test_thousandths_are_read_where_other_commas_are_decimal(tmp_path):
    (tmp_path / "events.csv").write_text(HEADER + '7,1,,spo2,"95,5",%\n7,2,,spo2,96,%\n7,3,,lactate,"1,125",mmol/L\n')
    assert read_source(tmp_path).table["value"].to_list() == [95.5, 96.0, 1.125]


def test_ids_lose_blanks_and_the_point_of_floats(tmp_path):
    expected = read_source(two_stays(tmp_path / "a" / "h", stays="stay,subject\n7,anna\n8,bert\n"))
    stays = "stay,subject\n7.0, anna\n8 ,bert\n"
    cohort = read_source(two_stays(tmp_path / "b" / "h", ids=(" 7 ", "8.0"), stays=stays))
    assert expected.rejections.doubts == {}
    assert cohort.table.equals(expected.table)
    assert cohort.stays.equals(expected.stays)


def test_other_names_are_counted(tmp_path):
    expected = read_source(two_stays(tmp_path / "h"))
    names = ("PaCO2", "heart rate", "urine ph")
    cohort = read_source(two_stays(tmp_path / "h", more="".join(f"7,3,,{name},40,mmHg\n" for name in names)))
    assert cohort.table.equals(expected.table)
    assert cohort.rejections.rows == {f"unknown variable {name.lower()!r}": 1 for name in names}


def test_absurd_attributes_are_left_empty_and_counted(tmp_path):
    stays = "stay,age,sex,weight_kg,sepsis,died\n7,732,x,70500,maybe,1\n8,-4,M,7,0,0\n"
    cohort = read_source(two_stays(tmp_path / "h", stays=stays))
    assert cohort.stays["age"].to_list() == cohort.stays["weight_kg"].to_list() == [None, None]
    assert cohort.rejections.repairs == {
        "urine: converted from mL/h": 40,
        "stays: sex 'x' cannot be read, left empty": 1,
        "stays: sepsis 'maybe' cannot be read, left empty": 1,
        "stays: age outside 0 to 120, left empty": 2,
        "stays: weight_kg outside 20 to 400, left empty": 2,
    }


DOUBTS = [
    ({"per_hour": 60.0, "treated": False}, "plausible only in minutes", 160),
    ({"per_hour": 3600.0, "treated": False}, "plausible only in seconds", 160),
    ({"per_hour": 1.0 / 24.0, "treated": False}, "plausible only in days", 160),
    ({"ids": ("7", "007")}, "stays '007' and '7': one, written in two ways?", 2),
    ({"stays": "stay,los_h\n7,1.5\n8,1.5\n"}, "los_h is a tenth of the times of the events: is it in days?", 2),
]


@pytest.mark.parametrize(("written", "doubt", "rows"), DOUBTS)
def test_what_is_odd_is_doubted(tmp_path, written, doubt, rows):
    cohort = read_source(two_stays(tmp_path / "h", **written))
    assert [count for why, count in cohort.rejections.doubts.items() if doubt in why] == [rows]
    assert len(cohort) == 2


UNITS = [
    ("bilirubin", 20, "mg/dL", "umol/L"),
    ("lactate", 20, "mmol/L", "mg/dL"),
    ("urine", 80, "mL/day", "mL/h"),
    ("fluids", 0.1, "mL/h", "L/h"),
]


@pytest.mark.parametrize(("variable", "value", "unit", "meant"), UNITS)
def test_values_plausible_only_in_another_unit_are_flagged(tmp_path, variable, value, unit, meant):
    kept = {"left_out": variable, "treated": variable != "fluids"}
    assert build_cohort([two_stays(tmp_path / "h", **kept)], tmp_path / "a.parquet").flags.unusual == {}
    more = "".join(f"7,{hour},{hour + 1},{variable},{value},{unit}\n" for hour in range(1, 20))
    flags = build_cohort([two_stays(tmp_path / "h", **kept, more=more)], tmp_path / "c.parquet").flags
    assert list(flags.unusual) == [variable]
    assert f"plausible only in {meant}" in flags.unusual[variable]
    assert flags.lines()[0].startswith(f"{variable}: median")


def test_a_cohort_without_treatments_is_flagged(tmp_path):
    path = tmp_path / "c.parquet"
    assert build_cohort([two_stays(tmp_path / "g")], path).flags.untreated == ()
    summary = build_cohort([two_stays(tmp_path / "h", left_out="urine", treated=False)], path)
    assert summary.flags.untreated == ("fio2", "vasopressor", "fluids")
    line = next(line for line in summary.lines() if line.startswith("fio2, vasopressor, fluids: never given"))
    assert line in cohort_card(Cohort.read(path))


GOOD = HEADER + "7,1,,spo2,95,%\n7,2,,spo2,96,%\n"
#: Far behind the head that is looked at first, a letter that is not of ASCII.
LONG = GOOD + "".join(f"7,5,,heart rate {n},80,/min\n" for n in range(4000)) + "7,5,,größe,80,cm\n"
WITH_SUBJECT = "stay,subject,time,variable,value,unit\n7,anna,1,spo2,95,%\n7,bert,2,spo2,96,%\n"
PLAIN, ZONED = "2024-10-26 22:00:00", "2024-10-27T00:00:00+02:00"


def one(row):
    """The good table and a row more."""
    return {"events.csv": f"{GOOD}{row}\n"}


def timed(event, admission=""):
    """Two saturations at a time as written, and the admission, if any."""
    stays = {"stays.csv": f'stay,admission\n7,"{admission}"\n'} if admission else {}
    return {"events.csv": HEADER + f'7,"{event}",,spo2,95,%\n' * 2, **stays}


CASES = [
    ({"events.csv": GOOD, "stay.csv": "stay\n7\n"}, r"stay\.csv: is it the table of stays\? Name it stays\.csv"),
    ({"event.csv": GOOD, "stay.csv": "stay\n7\n"}, r"no known layout \(it holds event\.csv, stay\.csv\)"),
    ({"events.csv": LONG.encode("utf-16")}, r"events\.csv: the text is not UTF-8 but perhaps UTF-16.*iconv -f"),
    ({"events.csv": LONG.encode("latin-1")}, r"events\.csv: the text is not UTF-8 but perhaps WINDOWS-1252.*iconv -f"),
    (one('7,3,,spo2,"95,5",%\n7,3,,spo2,96.5,%'), r"'value' has decimal commas \('95,5'\) beside decimal points"),
    (one('7,3,,spo2,"1,200",%'), r"column 'value' has '1,200': a decimal comma or thousands\?"),
    (one("7,3,4,Sp02,1,%"), r"events\.csv: 1 rows of 'sp02', .* is it 'spo2'\?"),
    (one("7,3,4,norepinephrne,1,%"), r"1 rows of 'norepinephrne', .* is it 'norepinephrine'\?"),
    (one("7,3,4,total bilirubin,1,%"), r"1 rows of 'total bilirubin', .* is it 'bilirubin'\?"),
    (one("7,3,,lactate,1,furlongs"), r"'lactate' have unit 'furlongs'; convert them to one of: mmol/L, .*mg/dL"),
    (one("7,3,,lactate,1,"), r"1 rows of 'lactate' have an empty unit; convert them to one of: mmol/L"),
    (one("7,3,4,vasopressor,1,mcg/min"), r"'vasopressor' have unit 'mcg/min'; convert them to one of: mcg/kg/min"),
    ({"events.csv": GOOD, "stays.csv": "stay,age\n7,61\n7,16\n"}, r"stay '7' has rows that differ in age; keep one"),
    ({"events.csv": WITH_SUBJECT}, "stay '7' belongs to 'anna' and to 'bert'"),
    (timed(PLAIN), r"'time' holds timestamps; add a table of stays .* stay and admission"),
    ({**timed(PLAIN), "stays.csv": "stay,los_h\n7,30\n"}, r"'time' holds timestamps; add a table of stays"),
    (timed(PLAIN, ZONED), r"column 'admission' has times with a zone.* column 'time'"),
    (timed(ZONED, PLAIN), r"column 'time' has times with a zone.* column 'admission'"),
    (timed("10/26/2024 22:00", PLAIN), r"events.csv: column 'time' has times of a form that is not read \('.*2024"),
    (timed("Oct 26, 2024 22:00", PLAIN), r"events.csv: column 'time' has times of a form that is not read \('.*2024"),
    (timed(f"{PLAIN} Europe/Berlin", PLAIN), r"events.csv: column 'time' has times of a form that is not read \('2024"),
]


@pytest.mark.parametrize(("files", "message"), CASES)
def test_a_table_is_refused_in_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(CohortError, message, lambda: read_source(tmp_path))
