"""What cannot be read, or could mean two things, is refused in one line that names the file and the remedy."""

import pytest

from medgym_offline.errors import CohortError
from tests.cohorts.support import read_source
from tests.helpers import refused

HEAD = "stay,time,end,variable,value,unit\n"
GOOD = HEAD + "7,1,,spo2,95,%\n7,2,,spo2,96,%\n"
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
    return {"events.csv": HEAD + f'7,"{event}",,spo2,95,%\n' * 2, **stays}


CASES = [
    ({"events.csv": GOOD, "stay.csv": "stay\n7\n"}, r"stay\.csv: is it the table of stays\? Name it stays\.csv"),
    ({"event.csv": GOOD, "stay.csv": "stay\n7\n"}, r"no known layout \(it holds event\.csv, stay\.csv\)"),
    ({"events.csv": LONG.encode("utf-16")}, r"events\.csv: the text is not UTF-8 but perhaps UTF-16.*iconv -f"),
    ({"events.csv": LONG.encode("latin-1")}, r"events\.csv: the text is not UTF-8 but perhaps WINDOWS-1252.*iconv -f"),
    (
        one('7,3,,spo2,"95,5",%\n7,3,,spo2,96.5,%'),
        r"'value' has decimal commas \('95,5'\) beside decimal points",
    ),
    (one('7,3,,spo2,"1,200",%'), r"column 'value' has '1,200': a decimal comma or thousands\?"),
    (one("7,3,4,Sp02,1,%"), r"events\.csv: 1 rows of 'sp02', .* is it 'spo2'\?"),
    (one("7,3,4,lactat,1,%"), r"events\.csv: 1 rows of 'lactat', .* is it 'lactate'\?"),
    (one("7,3,4,norepinephrne,1,%"), r"1 rows of 'norepinephrne', .* is it 'norepinephrine'\?"),
    (one("7,3,4,total bilirubin,1,%"), r"1 rows of 'total bilirubin', .* is it 'bilirubin'\?"),
    (
        one("7,3,,lactate,1,furlongs"),
        r"'lactate' have unit 'furlongs'; convert them to one of: mmol/L, .*mg/dL",
    ),
    (one("7,3,,lactate,1,"), r"1 rows of 'lactate' have an empty unit; convert them to one of: mmol/L"),
    (one("7,3,4,vasopressor,1,mcg/min"), r"'vasopressor' have unit 'mcg/min'; convert them to one of: mcg/kg/min"),
    (
        {"events.csv": GOOD, "stays.csv": "stay,age\n7,61\n7,16\n"},
        r"stay '7' has rows that differ in age; keep one",
    ),
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
