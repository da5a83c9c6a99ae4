"""Source: MIMIC-IV in the Medical Event Data Standard: one row an event (subject_id, time, code, value).

The conversion kept numeric values only: what kind of blood a gas was is not in it (so arterial oxygen is the charted
item 220224, not the laboratory's), nor are units of rates, the status of an order, or stay ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.cells import hours_since, numbers, on_one_clock, times
from medgym_offline.cohorts.events import (
    REPEATED_ORDERS,
    drop_repeated,
    gcs_sums,
    intubated,
    join_observations,
    possible_weights,
    urine_volumes,
)
from medgym_offline.cohorts.infusions import equivalents, order_doses
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import attach, collect, column_names, only_file, scan_file, table_files, table_stem
from medgym_offline.cohorts.unlisted import LISTED, reject_unlisted
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MedsEvents"]

#: Item -> variable; the laboratory's own copies of arterial oxygen cannot be told from venous ones here.
_VALUES: dict[str, str] = {
    **{item: name for name, group in items.CHART_ITEMS.items() for item in group},
    **{item: name for item, name in items.LAB_ITEMS.items() if name != "pao2"},
    "220224": "pao2",
}
_GCS = tuple(item for group in items.GCS_ITEMS.values() for item in group)
_URINE = (*items.URINE_ITEMS, items.URINE_IRRIGANT)
#: First part of the code -> item ids kept (None: the code has none, keep all).
_KEPT: dict[str, tuple[str, ...] | None] = {
    "LAB": (*_VALUES, *_GCS),
    "SUBJECT_FLUID_OUTPUT": _URINE,
    "INFUSION_START": None,
    "INFUSION_END": LISTED,
    "SUBJECT_WEIGHT_AT_INFUSION": None,
    "ICU_ADMISSION": None,
    "ICU_DISCHARGE": None,
    "HOSPITAL_ADMISSION": None,
    "HOSPITAL_DISCHARGE": None,
    "MEDS_BIRTH": None,
    "GENDER": None,
    "DIAGNOSIS": None,
}
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

    def read(self, path: Path) -> Records:
        """Read the events of `path`.

        Raises:
            CohortError: no ICU stay in them, a damaged file, or times with a zone in one and without in another.
        """
        pl = require_polars()
        rejections = Rejections()
        files = _event_files(path)
        everything = _events(files, rejections)
        infused = pl.col("kind").is_in(["INFUSION_START", "INFUSION_END"])
        events = drop_repeated(everything.filter(~infused), rejections, "events")
        stays = _read_stays(events, path, rejections)
        charted = events.rename({"time": "charttime"})
        laboratory = charted.filter(pl.col("kind") == "LAB")
        measured = attach(laboratory, stays, rejections, "events", extra=("text_value",))
        tube = pl.lit(False)
        if "text_value" in measured.columns:
            tube = intubated("text_value")
            measured = measured.with_columns(intubated=tube)
        empty = pl.col("value").is_null() & ~tube
        measured = rejections.drop(measured, empty, "events: value is missing or not a number")
        urine = attach(charted.filter(pl.col("kind") == "SUBJECT_FLUID_OUTPUT"), stays, rejections, "urine")
        observations = join_observations(
            [
                measured.filter(pl.col("itemid").is_in(list(_VALUES))).with_columns(
                    variable=pl.col("itemid").replace_strict(_VALUES, return_dtype=pl.String)
                ),
                gcs_sums(measured, rejections),
                urine_volumes(urine, rejections),
            ]
        )
        started = (pl.col("kind") == "INFUSION_START") & ~pl.col("itemid").is_in(LISTED).fill_null(False)
        reject_unlisted(everything.filter(started).group_by("itemid").len(), _labels(path), rejections)
        orders = _orders(_infusions(everything.filter(infused & ~started), rejections), stays, rejections)
        doses = _doses(orders, rejections)
        volumes = orders.filter(pl.col("itemid").is_in(items.FLUID_ITEMS))
        volumes = rejections.drop(volumes, pl.col("amount").is_null(), "fluids: no amount")
        grams = volumes.select((pl.col("itemid") == items.MANNITOL).sum()).item()
        rejections.doubt("fluids: mannitol, charted in grams, read as mL", grams)
        volumes = rejections.drop(volumes, pl.col("amount") == 0.0, "fluids: nothing given (0)")
        return Records(
            dataset="mimic-iv",
            stays=stays.drop("intime"),
            observations=observations,
            vasopressors=equivalents(doses, stays, rejections),
            fluids=volumes.select("stay_id", "itemid", "t0_h", "t1_h", pl.col("amount").alias("ml")),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.parent.name if path.is_file() else path.name,
                "licence": dataset_licence(path.parent if path.is_file() else path, "mimic-iv"),
                "files": [file.name if file == path else file.relative_to(path).as_posix() for file in files],
            },
        )


def _event_files(path: Path) -> list[Path]:
    if path.is_file():
        named = [path] if table_stem(path) else []
    else:
        folder = path / "data" if (path / "data").is_dir() else path
        places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]
        tables = [files for place in places for files in table_files(place).values()]
        named = [only_file(files) for files in tables if _value_column(files[0]) is not None]
    return [p for p in named if _value_column(p) is not None]


def _value_column(path: Path) -> str | None:
    """`value` or `numeric_value` where the file's columns are those of MEDS, else None."""
    try:
        names = column_names(path)
    except CohortError:
        return None
    if not {"subject_id", "time", "code"} <= names:
        return None
    return next((name for name in ("numeric_value", "value") if name in names), None)


def _events(files: list[Path], rejections: Rejections) -> pl.DataFrame:
    """The rows of all files, on one clock, in an order that does not depend on theirs."""
    pl = require_polars()
    parts = {file: _scan(file, rejections) for file in files}
    timed = max(parts, key=lambda file: parts[file]["time"].count())
    clock = parts[timed]["time"]
    alike = [
        on_one_clock(part, "time", clock, (f"{file}: column 'time'", f"{timed}: column 'time'"))
        for file, part in parts.items()
    ]
    events = pl.concat(alike, how="diagonal")
    return events.sort("subject_id", "time", "kind", "itemid", "detail", "value")


def _scan(file: Path, rejections: Rejections) -> pl.DataFrame:
    """subject_id, time, kind, itemid (second part of the code), detail (the rest), value; one pass, filtered."""
    pl = require_polars()
    column = _value_column(file) or "value"
    parts = pl.col("code").str.splitn("//", 3).struct
    frame = scan_file(file, ("subject_id", "time", "code", column), optional=("text_value",)).with_columns(
        kind=parts.field("field_0"), itemid=parts.field("field_1"), detail=parts.field("field_2")
    )
    wanted = pl.any_horizontal(
        [
            (pl.col("kind") == kind) & (pl.lit(True) if kept is None else pl.col("itemid").is_in(kept).fill_null(False))
            for kind, kept in _KEPT.items()
        ]
    )
    frame = (
        frame.filter(wanted)
        .with_columns(*times("time"), *numbers(column))
        .rename({column: "value"} if column != "value" else {})
    )
    events = collect(frame.drop("code"), file, keep_marks=True)
    unread = events["time"].is_null() & events["time|time"].is_not_null()
    rejections.reject("events: time cannot be read", int(unread.sum()))
    return events.filter(~unread).drop("time|time", *(name for name in ("value|time",) if name in events.columns))


def _read_stays(events: pl.DataFrame, path: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id (subject and ordinal), subject, intime, los_h, age, sex, weight_kg, sepsis, died."""
    pl = require_polars()
    moves = events.filter(pl.col("kind").is_in(["ICU_ADMISSION", "ICU_DISCHARGE"])).sort(
        # A move between units ends one stay and begins the next at one time.
        "subject_id",
        "time",
        pl.col("kind") == "ICU_ADMISSION",
    )
    leaves = pl.col("kind").shift(-1).over("subject_id") == "ICU_DISCHARGE"
    admissions = moves.with_columns(outtime=pl.when(leaves).then(pl.col("time").shift(-1).over("subject_id"))).filter(
        pl.col("kind") == "ICU_ADMISSION"
    )
    rejections.reject("stays: an ICU admission without a discharge", admissions["outtime"].null_count())
    stays = (
        admissions.filter(pl.col("outtime").is_not_null())
        .with_columns(ordinal=pl.int_range(1, pl.len() + 1).over("subject_id").cast(pl.String))
        .select(
            pl.concat_str("subject_id", pl.lit("_"), "ordinal").alias("stay_id"),
            pl.col("subject_id").alias("subject"),
            pl.col("time").alias("intime"),
            "outtime",
        )
        .with_columns(los_h=hours_since("outtime", "intime"))
    )
    if stays.is_empty():
        raise CohortError(f"{path}: no ICU_ADMISSION followed by an ICU_DISCHARGE; are these events of MIMIC-IV?")
    born = events.filter(pl.col("kind") == "MEDS_BIRTH").select(pl.col("subject_id").alias("subject"), birth="time")
    sexes = events.filter(pl.col("kind") == "GENDER").select(pl.col("subject_id").alias("subject"), sex="itemid")
    years = (pl.col("intime") - pl.col("birth")).dt.total_seconds() / (365.2425 * 86400.0)
    stays = (
        stays.join(born.unique("subject", keep="first"), on="subject", how="left", maintain_order="left")
        .join(sexes.unique("subject", keep="first"), on="subject", how="left", maintain_order="left")
        .with_columns(age=years)
    )
    for part in (_outcomes(events, stays), _weights(events, stays, rejections)):
        stays = stays.join(part, on="stay_id", how="left", maintain_order="left")
    flags = [pl.col(name).fill_null(False) for name in ("sepsis", "died")]
    return stays.select("stay_id", "subject", "intime", "los_h", "age", "sex", "weight_kg", *flags).sort("stay_id")


def _outcomes(events: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, sepsis, died: of the first hospital discharge after the latest hospital admission before the stay."""
    pl = require_polars()
    timed = stays.select("stay_id", "subject", "intime").sort("intime")
    admissions = _of(events, "HOSPITAL_ADMISSION").select("subject", admitted="time").sort("admitted")
    ends = (
        _of(events, "HOSPITAL_DISCHARGE")
        .select("subject", discharged="time", ending="itemid")
        .sort("discharged", "ending")
    )
    timed = timed.join_asof(
        admissions, left_on="intime", right_on="admitted", by="subject", check_sortedness=False
    ).with_columns(since=pl.coalesce("admitted", "intime"))
    timed = timed.sort("since").join_asof(
        ends, left_on="since", right_on="discharged", by="subject", strategy="forward", check_sortedness=False
    )
    codes = _of(events, "DIAGNOSIS")
    parts = pl.col("detail").str.splitn("//", 2).struct
    version, code = parts.field("field_0"), parts.field("field_1")
    tenth = pl.any_horizontal([code.str.starts_with(prefix) for prefix in items.SEPSIS_PREFIXES])
    septic = codes.filter(((version == "9") & code.is_in(items.SEPSIS_CODES)) | ((version == "10") & tenth))
    near = hours_since("time", "discharged").abs() <= _CODING_HOURS
    sepsis = timed.join(septic, on="subject").filter(near).select("stay_id").unique().with_columns(sepsis=pl.lit(True))
    return timed.select("stay_id", died=pl.col("ending") == "DIED").join(sepsis, on="stay_id", how="left")


def _of(events: pl.DataFrame, kind: str) -> pl.DataFrame:
    pl = require_polars()
    mine = events.filter(pl.col("kind") == kind)
    return mine.select(pl.col("subject_id").alias("subject"), "time", "itemid", "detail")


def _weights(events: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, weight_kg: median weight at the infusions of the stay."""
    pl = require_polars()
    weights = events.filter((pl.col("kind") == "SUBJECT_WEIGHT_AT_INFUSION") & pl.col("value").is_not_null())
    placed = attach(possible_weights(weights, rejections).rename({"time": "charttime"}), stays, rejections, "weight")
    return placed.group_by("stay_id").agg(pl.col("value").median().alias("weight_kg"))


def _labels(path: Path) -> dict[str, str]:
    """Infused item -> words, from the standard's `metadata/codes.parquet`, where there is one."""
    pl = require_polars()
    codes = path / "metadata" / "codes.parquet"
    if not codes.is_file():
        return {}
    frame = scan_file(codes, ("code",), optional=("description",))
    if "description" not in frame.collect_schema().names():
        return {}
    infused = frame.filter(pl.col("code").str.starts_with("INFUSION_START//") & pl.col("description").is_not_null())
    item = pl.col("code").str.splitn("//", 3).struct.field("field_1")
    return dict(collect(infused.select(item, "description"), codes).iter_rows())


def _infusions(events: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Starts and ends, each delivered once: an item of a person has as many of one as of the other.

    Two orders may begin alike and end differently, so that repeats are only dropped where this leaves no start or end
    alone; where it would, and all of them pair up, they are an order written twice, which `_orders` sees.
    """
    pl = require_polars()
    keys = ["subject_id", "itemid"]
    kept = drop_repeated(events, rejections, "infusion", tolerated=REPEATED_ORDERS)
    other = events if kept.height < events.height else events.unique(maintain_order=True)
    odd = pl.when(pl.col("kind") == "INFUSION_START").then(1).otherwise(-1).sum() != 0
    balance = kept.group_by(keys).agg(odd=odd).join(other.group_by(keys).agg(other=odd), on=keys)
    better = balance.filter(pl.col("odd") & ~pl.col("other"))
    return pl.concat([kept.join(better, on=keys, how="anti"), other.join(better, on=keys, how="semi")])


def _orders(events: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t0_h, t1_h, rate, amount: the k-th start of an item belongs to its k-th end, per person."""
    pl = require_polars()
    order = pl.int_range(pl.len()).over("subject_id", "itemid").alias("k")
    events = events.sort("subject_id", "itemid", "time", "value")
    starts = events.filter(pl.col("kind") == "INFUSION_START").with_columns(order)
    ends = events.filter(pl.col("kind") == "INFUSION_END").with_columns(order)
    paired = starts.join(
        ends.select("subject_id", "itemid", "k", endtime="time", amount="value"),
        on=["subject_id", "itemid", "k"],
        how="left",
        maintain_order="left",
    )
    lonely = pl.col("endtime").is_null()
    rejections.reject("infusion: a start without an end", paired.select(lonely.sum()).item())
    paired = paired.filter(~lonely).select("subject_id", "itemid", "endtime", "amount", charttime="time", rate="value")
    rejections.reject("infusion: an end without a start", ends.height - paired.height)
    hours = hours_since("endtime", "charttime")
    paired = _ranked(paired, "charttime", "rate", pl.col("amount") / hours)
    paired = _ranked(paired, "endtime", "amount", pl.col("rate") * hours)
    paired = drop_repeated(paired, rejections, "order", tolerated=REPEATED_ORDERS)
    placed = attach(paired, stays, rejections, "infusion", extra=("rate", "amount", "endtime", "intime"))
    return placed.with_columns(t0_h=pl.col("t_h"), t1_h=hours_since("endtime", "intime"))


def _ranked(orders: pl.DataFrame, tied: str, column: str, fits: pl.Expr) -> pl.DataFrame:
    """Orders of one item with one time `tied`: the largest `column` to where it `fits` best, whatever the file's order.

    The pairs of starts and ends that begin or end at one minute are otherwise those of the order of rows.
    """
    pl = require_polars()
    keys = ["subject_id", "itemid", tied]
    rank = pl.int_range(pl.len()).over(keys).alias("rank")
    where = orders.drop(column).with_columns(fit=orders.select(fit=fits)["fit"])
    rest = [name for name in ("charttime", "endtime", "rate", "amount") if name in where.columns]
    where = where.sort(*keys, "fit", *rest).with_columns(rank)
    what = orders.select(*keys, column).sort(*keys, column).with_columns(rank)
    return where.join(what, on=[*keys, "rank"], how="left", maintain_order="left").select(orders.columns)


def _doses(orders: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, drug, t0_h, t1_h, rate, rateuom; rates are mcg/kg/min, vasopressin's U/h (checked against amounts)."""
    pl = require_polars()
    pressors = orders.filter(pl.col("itemid").is_in(list(items.PRESSOR_ITEMS)))
    unit = pl.when(pl.col("drug") == "vasopressin").then(pl.lit("units/hour")).otherwise(pl.lit("mcg/kg/min"))
    return order_doses(pressors.with_columns(rateuom=pl.lit(None, pl.String)), rejections).with_columns(rateuom=unit)
