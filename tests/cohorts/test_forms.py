"""One record in many forms: zones, forms of time, order, repeats, files and separators change nothing in the table."""

import datetime as dt
import random
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cohorts.layouts import LAYOUTS, RICH, at, write
from tests.cohorts.support import held, read_source

QUICK = settings(max_examples=5, deadline=None)
ADMITTED = dt.datetime(2024, 10, 26, 22, 0, tzinfo=dt.timezone.utc)
NAIVE = (
    lambda at: f"{at:%Y-%m-%d %H:%M:%S}",
    lambda at: f"{at:%Y-%m-%dT%H:%M}",
    lambda at: f" {at:%Y/%m/%d %H:%M:%S.000} ",
    lambda at: f"{at:%d.%m.%Y %H:%M}",
    lambda at: f"{at:%Y%m%dT%H%M%S}",
)
ZONED = (
    lambda at: f"{at:%Y-%m-%dT%H:%M:%S}Z",
    lambda at: f"{at:%Y-%m-%d %H:%M} UTC",
    lambda at: at.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))).isoformat(),
    lambda at: at.astimezone(ZoneInfo("Europe/Berlin")).isoformat(),
    lambda at: f"{at.astimezone(ZoneInfo('America/New_York')):%Y-%m-%d %H:%M:%S%z}",
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
TYPED = tuple(lambda at, name=name: at.astimezone(ZoneInfo(name)) for name in ZONES)
#: variable, hours of start and end, value, unit; the clocks of Berlin change at the third hour.
EVENTS = (
    *[("spo2", hour, None, 90 + hour, "%") for hour in range(1, 8)],
    *[("urine", hour, None, 50, "mL/h") for hour in (2, 5)],
    ("gcs", 2, None, 13, "points"),
    ("norepinephrine", 1, 6, 0.1, "mcg/kg/min"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A new folder called `h` at each call: hypothesis needs one an example."""

    def fresh():
        folder = tmp_path_factory.mktemp("forms") / "h"
        folder.mkdir()
        return folder

    return fresh


def same(left, right):
    """Equal but for the order in which floats were added."""
    keys = ["patient", "time_h", "end_h", "variable"]
    a, b = (cohort.table.sort(keys).drop("source") for cohort in (left, right))
    assert a.select(keys).equals(b.select(keys))
    assert a["value"].to_list() == pytest.approx(b["value"].to_list(), rel=1e-9)
    stays = ["patient", "subject", "los_h", "sex", "sepsis", "died"]
    assert left.stays.select(stays).equals(right.stays.select(stays))


def write_events(folder, event, admission):
    def at(hour):
        return None if hour is None else event(ADMITTED + dt.timedelta(hours=hour))

    rows = [("7", at(start), at(end), name, str(value), unit) for name, start, end, value, unit in EVENTS]
    events = pl.DataFrame(rows, schema=["stay", "time", "end", "variable", "value", "unit"], orient="row")
    stays = pl.DataFrame([("7", admission(ADMITTED))], schema=["stay", "admission"], orient="row")
    for name, table in (("events", events), ("stays", stays)):
        if events["time"].dtype == pl.String:
            table.write_csv(folder / f"{name}.csv")
        else:
            table.write_parquet(folder / f"{name}.parquet")
    return folder


@settings(max_examples=9, deadline=None)
@given(data=st.data())
def test_any_form_of_time_is_the_same_instant(place, data):
    """As text with or without a zone, and as timestamps of any two zones."""
    forms = data.draw(st.sampled_from([NAIVE, ZONED, TYPED]))
    event, admission = data.draw(st.sampled_from(forms)), data.draw(st.sampled_from(forms))
    cohort = read_source(write_events(place(), event, admission))
    found = held(cohort)
    assert [time for time, *_ in found["spo2"]] == list(range(1, 8))
    assert found["vasopressor"] == [(1.0, 6.0, 0.1)]
    assert cohort.rejections.rows == {}


#: Two orders of one item at one minute, written in an order that is not that of their values; CareVue repeats records,
#: and the order in which the repeats come must not end a dose early.
ORDERS = [(11, "START", 0.2), (11, "START", 0.1), (13, "END", 20.0), (14, "END", 15.0)]
VOLUMES = [(12, "START", 300.0), (12.5, "START", 10.0), (15, "END", 25.0), (15, "END", 900.0)]
POINTS = [
    (1, 30047, "", "", 0.3, "mcgkgmin", ""), (4, 30047, "", "", "", "", "Stopped"), (5, 30018, 9, "ml", "", "", "")
]  # fmt: skip
_PARTS = [*((221906, *row) for row in ORDERS), *((225158, *row) for row in VOLUMES)]
TIED = {
    "meds": {"events": [(10, at(hour), f"INFUSION_{what}//{item}", value) for item, hour, what, value in _PARTS]},
    "mimic-iii": {"INPUTEVENTS_CV": [(10, 1, at(hour), *row) for hour, *row in POINTS]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 99), doubled=st.booleans(), suffix=st.sampled_from([".csv.gz", ".CSV", ".parquet", ".tsv"]))
def test_order_repeats_and_files_change_nothing(place, layout, seed, doubled, suffix):
    plain, folder = (write(place(), layout, RICH, **TIED.get(layout, {})) for _ in range(2))
    clean = read_source(plain)
    shuffle = random.Random(seed)
    for file in sorted(folder.rglob("*.csv")):
        table = pl.read_csv(file, infer_schema=False)
        rows = table.rows() * (2 if doubled else 1)
        shuffle.shuffle(rows)
        table = pl.DataFrame(rows, schema=table.schema, orient="row")
        file.unlink()
        target = file.with_name((file.stem.upper() if suffix == ".CSV" else file.stem) + suffix)
        if suffix == ".parquet":
            table.write_parquet(target)
        else:
            compression = "gzip" if suffix == ".csv.gz" else "uncompressed"
            table.write_csv(target, separator="\t" if suffix == ".tsv" else ",", compression=compression)
    other = read_source(folder)
    same(other, clean)
    repeats = [sum(n for why, n in c.rejections.rows.items() if "the same row again" in why) for c in (clean, other)]
    assert (repeats[1] > repeats[0]) is doubled


@QUICK
@given(cuts=st.lists(st.integers(5, 23), max_size=4, unique=True), seed=st.integers(0, 99))
def test_an_infusion_in_pieces_is_the_same_infusion(place, cuts, seed):
    head = "stay,time,end,variable,value,unit\n7,1,,spo2,95,%\n7,8,,spo2,96,%\n"
    whole, pieces = place(), place()
    rows = ["fluids,120,mL/h\n", "norepinephrine,0.1,mcg/kg/min\n", "fio2,40,%\n"]
    edges = [4, *sorted(cuts), 24]  # quarters of an hour: a shorter push of fluid is spread over one
    lines = [f"7,{a / 4},{b / 4},{row}" for row in rows for a, b in zip(edges, edges[1:])]
    random.Random(seed).shuffle(lines)
    (whole / "events.csv").write_text(head + "".join(f"7,1,6,{row}" for row in rows))
    (pieces / "events.csv").write_text(head + "".join(lines))
    left, right = (read_source(folder).to_grid(hours=0.25, horizon=8.0) for folder in (whole, pieces))
    assert right.treatment == pytest.approx(left.treatment, abs=1e-9)


@QUICK
@given(separator=st.sampled_from(",;\t|"), comma=st.booleans())
def test_separators_and_decimal_commas(place, separator, comma):
    folder = write_events(place(), NAIVE[0], NAIVE[0])
    expected = read_source(folder)
    table = pl.read_csv(folder / "events.csv", infer_schema=False)
    if comma:
        table = table.with_columns(pl.col("value").str.replace(".", ",", literal=True))
    table.write_csv(folder / "events.csv", separator=separator)
    same(read_source(folder), expected)
