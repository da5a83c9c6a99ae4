"""Source: MIMIC-IV in the Medical Event Data Standard: one row an event (subject_id, time, code, value).

The conversion kept numeric values only: what kind of specimen a laboratory value is of is not in it, nor are units of
rates, the status of an order, or stay ids.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from medgym_offline.cohorts import tables
from medgym_offline.cohorts.intake import Intake, coded, possible_weights, years_between
from medgym_offline.cohorts.source import Records, Rejections, completed, event_frame, flags_of, provenance_of
from medgym_offline.diseases.concepts import CohortDefinition, Concept
from medgym_offline.errors import CohortError

__all__ = ["MedsEvents", "REPEATED_ORDERS"]

#: Of the demos' infusions without ids, 5 in 12,651 are the same as another: orders of their own, as the raw tables' ids
#: show (two bags of one volume hung at one minute). A larger share of repeats is a table delivered twice.
REPEATED_ORDERS = 0.01
#: First parts of codes without item ids, all kept.
_KEPT = (
    *("INFUSION_START", "SUBJECT_WEIGHT_AT_INFUSION", "ICU_ADMISSION", "ICU_DISCHARGE", "HOSPITAL_ADMISSION"),
    *("HOSPITAL_DISCHARGE", "MEDS_BIRTH", "GENDER", "DIAGNOSIS"),
)
#: Diagnoses are stamped with the end of their admission, to within this.
_CODING_HOURS = 48.0


class MedsEvents:
    """One file of events, or a folder with one or with the standard's `data/*.parquet`.

    Columns `subject_id`, `time`, `code` and `value` or `numeric_value`; codes as the MIMIC-IV conversion writes them.
    """

    layout = "MEDS events of MIMIC-IV"

    def matches(self, path: Path) -> bool:
        """Whether there is such a file (by its header)."""
        return bool(_event_files(path))

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read the events of `path`.

        Raises:
            CohortError: no ICU stay in them, a damaged file, or times with a zone in one and without in another.
        """
        rejections = Rejections()
        files = _event_files(path)
        kind, item = pl.col("kind"), pl.col("item")
        everything = _events(files, definition, rejections)
        infused = kind.is_in(["INFUSION_START", "INFUSION_END"])
        events = rejections.distinct(everything.filter(~infused), "events")
        intake = _read_stays(events, path, definition, rejections)
        charted = events.rename({"time": "charttime"})
        measured = intake.attach(charted.filter(kind == "LAB"), "events")
        wordy = [i for c in definition.variables if c.reads_text for i in c.ids("meds")]
        empty = pl.col("value").is_null() & ~(item.is_in(wordy) & pl.col("text").is_not_null())
        measured = rejections.drop(measured, (empty, "events: value is missing or not a number"))
        observed = intake.observed({"meds": measured})
        outputs = charted.filter(kind == "SUBJECT_FLUID_OUTPUT")
        kept = [concept for concept in definition.variables if concept.ids("output")]
        recorded = [intake.records(outputs.filter(item.is_in(c.wanted("output"))), c) for c in kept]
        listed = [i for concept in definition.treatments for i in concept.ids("input")]
        started = (kind == "INFUSION_START") & ~item.is_in(listed).fill_null(False)
        intake.count_unlisted(everything.filter(started).group_by("item").len(), _labels(path))
        orders = _orders(_infusions(everything.filter(infused & ~started), rejections), intake)
        given = [_given(orders, concept, rejections) for concept in definition.treatments if concept.ids("input")]
        found = event_frame(observed, *recorded, intake.ordered(given))
        provenance = provenance_of(self.layout, path, files, "mimic-iv")
        return Records("mimic-iv", intake.stays.drop("intime"), found, rejections, provenance)


def _event_files(path: Path) -> list[Path]:
    if path.is_file():
        named = [path] if tables.table_stem(path) else []
    else:
        folder = path / "data" if (path / "data").is_dir() else path
        places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
        found = [files for place in places for files in tables.table_files(place).values()]
        named = [tables.only_file(files) for files in found if _value_column(files[0]) is not None]
    return [p for p in named if _value_column(p) is not None]


def _value_column(path: Path) -> str | None:
    """`value` or `numeric_value` where the file's columns are those of MEDS, else None."""
    try:
        names = tables.column_names(path)
    except CohortError:
        return None
    if not {"subject_id", "time", "code"} <= names:
        return None
    return next((name for name in ("numeric_value", "value") if name in names), None)


def _events(files: list[Path], definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
    """The rows of all files, on one clock, in an order that does not depend on theirs."""
    parts = {file: _scan(file, definition, rejections) for file in files}
    timed = max(parts, key=lambda file: parts[file]["time"].count())
    clock = parts[timed]["time"]
    names = {file: f"{file}: column 'time'" for file in parts}
    alike = [tables.on_one_clock(part, "time", clock, (names[file], names[timed])) for file, part in parts.items()]
    return pl.concat(alike).sort("subject_id", "time", "kind", "item", "detail", "value")


def _scan(file: Path, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
    """subject_id, time, kind, item (second part of the code), detail (the rest), value, text; one pass, filtered."""
    concepts = definition.concepts.values()
    items = {
        "LAB": [i for c in concepts for i in c.ids("meds")],
        "SUBJECT_FLUID_OUTPUT": [i for c in concepts for i in c.wanted("output")],
        "INFUSION_END": [i for c in concepts for i in c.ids("input")],
    }
    column = _value_column(file) or "value"
    frame = tables.scan_file(file, ("subject_id", "time", "code", column), optional=("text_value",))
    parts = pl.col("code").str.splitn("//", 3).struct
    kind, item, detail = (parts.field(f"field_{n}") for n in range(3))
    wanted = [(kind == name) & item.is_in(ids).fill_null(False) for name, ids in items.items()]
    text = pl.col("text_value") if "text_value" in frame.collect_schema().names() else pl.lit(None, pl.String)
    frame = frame.filter(pl.any_horizontal(kind.is_in(_KEPT), *wanted)).select(
        "subject_id", "time", kind=kind, item=item, detail=detail, value=column, text=text, key=pl.lit(None, pl.String)
    )
    events = tables.typed(frame, file, ["time"], ["value"], keep_marks=True)
    unread = pl.col("time").is_null() & pl.col("time|time").is_not_null()
    events = rejections.drop(events, (unread, "events: time cannot be read"))
    return events.select(pl.exclude("^.*[|].*$"))


def _read_stays(events: pl.DataFrame, path: Path, definition: CohortDefinition, rejections: Rejections) -> Intake:
    """Stays: stay_id (subject and ordinal), subject, intime, los_h, age, sex, weight_kg, diagnoses, died."""
    moves = events.filter(pl.col("kind").is_in(["ICU_ADMISSION", "ICU_DISCHARGE"]))
    # A move between units ends one stay and begins the next at one time.
    moves = moves.sort("subject_id", "time", pl.col("kind") == "ICU_ADMISSION")
    leaves = pl.col("kind").shift(-1).over("subject_id") == "ICU_DISCHARGE"
    left = pl.when(leaves).then(pl.col("time").shift(-1).over("subject_id"))
    admissions = moves.with_columns(outtime=left).filter(pl.col("kind") == "ICU_ADMISSION")
    endless = pl.col("outtime").is_null()
    admissions = rejections.drop(admissions, (endless, "stays: an ICU admission without a discharge"))
    ordinal = pl.int_range(1, pl.len() + 1).over("subject_id").cast(pl.String)
    stays = admissions.select(
        pl.concat_str("subject_id", pl.lit("_"), ordinal).alias("stay_id"),
        pl.col("subject_id").alias("subject"),
        pl.col("time").alias("intime"),
        tables.hours_since("outtime", "time").alias("los_h"),
    )
    if stays.is_empty():
        raise CohortError(f"{path}: no ICU_ADMISSION followed by an ICU_DISCHARGE; are these events of MIMIC-IV?")
    intake = Intake(definition, stays, rejections)
    weights = events.filter(pl.col("kind") == "SUBJECT_WEIGHT_AT_INFUSION").drop_nulls("value")
    weights = possible_weights(intake.attach(weights.rename({"time": "charttime"}), "weight"), rejections)
    births = _of(events, "MEDS_BIRTH").select("subject", birth="time").unique("subject", keep="first")
    sexes = _of(events, "GENDER").select("subject", sex="item").unique("subject", keep="first")
    outcomes = _outcomes(events, stays, definition)
    for part, key in ((births, "subject"), (sexes, "subject"), (outcomes, "stay_id"), (weights, "stay_id")):
        stays = stays.join(part, on=key, how="left", maintain_order="left")
    died, age = pl.col("died").fill_null(False), years_between(pl.col("birth"), pl.col("intime")).alias("age")
    names = ("stay_id", "subject", "intime", "los_h", "age", "sex", "weight_kg", *flags_of(definition))
    intake.stays = stays.with_columns(age, died).select(names).sort("stay_id")
    return intake


def _outcomes(events: pl.DataFrame, stays: pl.DataFrame, definition: CohortDefinition) -> pl.DataFrame:
    """stay_id, diagnoses, died: of the first hospital discharge after the latest hospital admission before the stay."""
    admissions = _of(events, "HOSPITAL_ADMISSION").select("subject", admitted="time").sort("admitted")
    ends = _of(events, "HOSPITAL_DISCHARGE").select("subject", discharged="time", ending="item")
    timed = stays.select("subject", "stay_id", "intime", admitted="intime").sort("intime")
    timed = timed.join_asof(
        admissions.with_columns(since="admitted"), on="admitted", by="subject", check_sortedness=False
    ).with_columns(discharged=pl.coalesce("since", "intime"))
    ends = ends.with_columns(ended="discharged").sort("discharged", "ending")
    timed = timed.sort("discharged")
    timed = timed.join_asof(ends, on="discharged", by="subject", strategy="forward", check_sortedness=False)
    parts = pl.col("detail").str.splitn("//", 2).struct
    codes = timed.join(_of(events, "DIAGNOSIS"), on="subject")
    codes = codes.filter(tables.hours_since("time", "ended").abs() <= _CODING_HOURS)
    codes = codes.with_columns(icd_version=parts.field("field_0"), icd_code=parts.field("field_1"))
    flags = (coded(diagnosis, codes, "stay_id") for diagnosis in definition.diagnoses)
    return timed.select("stay_id", *flags, died=pl.col("ending") == "DIED")


def _of(events: pl.DataFrame, kind: str) -> pl.DataFrame:
    mine = events.filter(pl.col("kind") == kind)
    return mine.select(pl.col("subject_id").alias("subject"), "time", "item", "detail")


def _labels(path: Path) -> dict[str, str]:
    """Infused item -> words, from the standard's `metadata/codes.parquet`, where there is one."""
    codes = path / "metadata" / "codes.parquet"
    if not codes.is_file():
        return {}
    frame = tables.collect(tables.scan_file(codes, ("code",), optional=("description",)), codes)
    named = completed(frame, {"description": pl.String}).drop_nulls("description")
    infused = named.filter(pl.col("code").str.starts_with("INFUSION_START//"))
    item = pl.col("code").str.splitn("//", 3).struct.field("field_1")
    return dict(infused.select(item, "description").iter_rows())


def _infusions(events: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Starts and ends, each delivered once: an item of a person has as many of one as of the other.

    Two orders may begin alike and end differently, so that repeats are only dropped where this leaves no start or end
    alone; where it would, and all of them pair up, they are an order written twice, which `_orders` sees.
    """
    keys = ["subject_id", "item"]
    kept = rejections.distinct(events, "infusion", tolerated=REPEATED_ORDERS)
    other = events if kept.height < events.height else events.unique(maintain_order=True)
    odd = pl.when(pl.col("kind") == "INFUSION_START").then(1).otherwise(-1).sum() != 0
    balance = kept.group_by(keys).agg(odd=odd).join(other.group_by(keys).agg(other=odd), on=keys)
    better = balance.filter(pl.col("odd") & ~pl.col("other"))
    return pl.concat([kept.join(better, on=keys, how="anti"), other.join(better, on=keys, how="semi")])


def _orders(events: pl.DataFrame, intake: Intake) -> pl.DataFrame:
    """stay_id, item, t_h, end_h, rate, amount: the k-th start of an item belongs to its k-th end, per person."""
    keys = ["subject_id", "item", "k"]
    order = pl.int_range(pl.len()).over("subject_id", "item").alias("k")
    events = events.sort("subject_id", "item", "time", "value")
    starts = events.filter(pl.col("kind") == "INFUSION_START").with_columns(order)
    ends = events.filter(pl.col("kind") == "INFUSION_END").with_columns(order)
    ends = ends.select(*keys, endtime="time", amount="value")
    paired = starts.join(ends, on=keys, how="left", maintain_order="left")
    rejections = intake.rejections
    paired = rejections.drop(paired, (pl.col("endtime").is_null(), "infusion: a start without an end"))
    paired = paired.select("subject_id", "item", "endtime", "amount", charttime="time", rate="value")
    rejections.reject("infusion: an end without a start", ends.height - paired.height)
    hours = tables.hours_since("endtime", "charttime")
    paired = _ranked(paired, "charttime", "rate", pl.col("amount") / hours)
    paired = _ranked(paired, "endtime", "amount", pl.col("rate") * hours)
    paired = rejections.distinct(paired, "order", tolerated=REPEATED_ORDERS)
    return intake.attach(paired, "infusion")


def _ranked(orders: pl.DataFrame, tied: str, column: str, fits: pl.Expr) -> pl.DataFrame:
    """Orders of one item with one time `tied`: the largest `column` to where it `fits` best, whatever the file's order.

    The pairs of starts and ends that begin or end at one minute are otherwise those of the order of rows.
    """
    keys = ["subject_id", "item", tied]
    rank = pl.int_range(pl.len()).over(keys).alias("rank")
    where = orders.drop(column).with_columns(fit=orders.select(fit=fits)["fit"])
    rest = [name for name in ("charttime", "endtime", "rate", "amount") if name in where.columns]
    where = where.sort(*keys, "fit", *rest).with_columns(rank)
    what = orders.select(*keys, column).sort(*keys, column).with_columns(rank)
    return where.join(what, on=[*keys, "rank"], how="left", maintain_order="left").select(orders.columns)


def _given(orders: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """Orders of one treatment, in the units that MIMIC-IV charts it in (checked against amounts)."""
    units = {item: part.ordered_in or part.unit for part in concept.parts for item in part.ids("input")}
    own = concept.unit
    if concept.given == "amount":
        own = next((unit.name for unit in concept.units if unit.amount and unit.factor == 1.0), own)
    item = pl.col("item")
    unit = item.replace_strict(units, default=own, return_dtype=pl.String)
    mine = orders.filter(item.is_in(concept.ids("input"))).with_columns(value=concept.given, unit=unit)
    for unsaid, words in concept.unitless.items():
        doubted = mine.select(((item == unsaid) & pl.col("value").is_not_null()).sum()).item()
        rejections.doubt(f"{concept.name}: {words}, read as {own}", doubted)
    return mine
