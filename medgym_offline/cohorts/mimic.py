"""Source: the original MIMIC-III and MIMIC-IV tables, demo or full database, names in any case, .csv or .csv.gz.

Large tables are scanned once and filtered by item id before anything else happens to a row. Item ids below 220000 are
CareVue's (MIMIC-III only), from 220000 MetaVision's, 5xxxx the laboratory's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgym_offline.cohorts.cells import hours_since
from medgym_offline.cohorts.clock import attach
from medgym_offline.cohorts.frames import Rejections, first_of, pl
from medgym_offline.cohorts.names import AGE_OVER_89, mentions
from medgym_offline.cohorts.source import Records, dataset_licence, event_frame
from medgym_offline.cohorts.tables import collect, find_table, scan_table, typed
from medgym_offline.cohorts.units import in_own_units
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Diagnosis

__all__ = [
    *("DEFAULT_WEIGHT_KG", "MIMIC_III", "MIMIC_IV", "MimicTables", "coded", "named_items", "observed_events"),
    *("ordered_events", "possible_weights", "reject_unlisted", "years_between"),
]

DEFAULT_WEIGHT_KG = 80.0
_WEIGHTS, _WEIGHT_RANGE = ("762", "763", "226512", "224639"), (30.0, 250.0)
#: CareVue writes units of rates without signs.
_CAREVUE_UNITS = {"mcgkgmin": "mcg/kg/min", "mcgmin": "mcg/min", "umin": "u/min", "uhr": "u/h", "mlhr": "ml/h"}
#: A CareVue rate holds until the next record of its item, at most this long; the last, which nothing follows, an hour.
_HOLD_HOURS, _LAST_HOURS = 4.0, 1.0
#: A CareVue amount was given over the hour before it was charted, or since the record before if that is shorter.
_AMOUNT_HOURS = 1.0
_STOPPED = ("Stopped", "D/C'd")
_CATEGORIES = ("ordercategoryname", "secondaryordercategoryname")
_ORDER = ("starttime", "endtime", "itemid", "amount", "amountuom", "rate", "rateuom", "statusdescription")


@dataclass(frozen=True)
class MimicTables:
    """One version of MIMIC: how its tables and columns are called.

    Attributes:
        layout: Its name.
        dataset: Prefix of patient ids.
        stay: Column of the stay's id.
        icu: Tables of stays, chart, outputs, orders and (MIMIC-III) CareVue's points.
        hospital: Tables of people, admissions, laboratory and diagnoses.
        folders: Where both lie, if not in the folder itself.
        specimen: Column that ties a laboratory value to its specimen; without, person and time do.
        errors: Columns of chart and outputs that mark a row as an error.
    """

    layout: str
    dataset: str
    stay: str
    icu: tuple[str, ...]
    hospital: tuple[str, ...]
    folders: tuple[str, str] = ("", "")
    specimen: str | None = None
    errors: tuple[str, ...] = ()

    def matches(self, path: Path) -> bool:
        """Whether the folder holds the stays and the orders of this version."""
        icu, _ = self._folders(path)
        return find_table(icu, self.icu[0]) is not None and bool(self._inputs(icu))

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read the tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        rejections = Rejections()
        icu, hospital = self._folders(path)
        stays = self._stays(icu, hospital, definition, rejections)
        chart = self._chart(icu, stays, definition, rejections)
        laboratory = self._laboratory(hospital, stays, definition, rejections)
        stays = self._weighed(icu, stays, chart, rejections)
        events = observed_events({"chart": chart, "laboratory": laboratory}, definition, rejections)
        outputs = [
            self._outputs(icu, c, stays, definition, rejections) for c in definition.variables if c.ids("output")
        ]
        orders = []
        for table in self._inputs(icu):
            self._count_unlisted(icu, table, definition, rejections)
        for concept in (c for c in definition.treatments if c.ids("input")):
            for table in self._inputs(icu):
                read = self._points if table.endswith("_CV") else self._orders
                orders.append(read(icu, table, concept, stays, definition, rejections))
        found = [find_table(icu, name) for name in self.icu] + [find_table(hospital, name) for name in self.hospital]
        return Records(
            dataset=self.dataset,
            stays=stays.drop("intime"),
            events=event_frame(events, *outputs, ordered_events(orders, stays, definition, rejections)),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.name,
                "licence": dataset_licence(path, self.dataset),
                "files": [table.relative_to(path).as_posix() for table in found if table is not None],
            },
        )

    def _folders(self, path: Path) -> tuple[Path, Path]:
        """Where the tables of the ICU and of the hospital lie."""
        icu, hospital = (path / name for name in self.folders)
        return (icu if icu.is_dir() else path), (hospital if hospital.is_dir() else path)

    def _inputs(self, icu: Path) -> list[str]:
        return [name for name in self.icu[3:] if find_table(icu, name) is not None]

    def _stays(self, icu: Path, hospital: Path, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
        """stay_id, subject, intime, los_h, age, sex, diagnoses and died; each stay once and with both times."""

        def table(folder: Path, name: str, *columns: str, dated: int = 0, numeric: Sequence[str] = ()) -> pl.DataFrame:
            return typed(scan_table(folder, name, columns), folder / name, columns[len(columns) - dated :], numeric)

        people_table, admissions, _, diagnoses = self.hospital
        beds = table(icu, self.icu[0], "subject_id", "hadm_id", self.stay, "intime", "outtime", dated=2)
        entered = pl.col("intime").dt.replace_time_zone(None)
        if self.specimen is None:
            people = table(hospital, people_table, "subject_id", "gender", "dob", dated=1)
            codes = table(hospital, diagnoses, "hadm_id", "icd9_code").rename({"icd9_code": "icd_code"})
            codes = codes.with_columns(icd_version=pl.lit("9"))
            age = years_between(pl.col("dob").dt.replace_time_zone(None), entered)
        else:
            columns = ("subject_id", "gender", "anchor_age", "anchor_year")
            people = table(hospital, people_table, *columns, numeric=columns[2:])
            codes = table(hospital, diagnoses, "hadm_id", "icd_code", "icd_version")
            start_of_year = pl.datetime(pl.col("anchor_year").cast(pl.Int32), 1, 1, time_unit="ms")
            age = pl.col("anchor_age") + years_between(start_of_year, entered)
        code, version = pl.col("icd_code").str.strip_chars(), pl.col("icd_version").str.strip_chars()
        flags = {
            d.name: pl.col("hadm_id").is_in(codes.filter(coded(d, code, version))["hadm_id"].unique().to_list())
            for d in definition.diagnoses
        }
        admitted = table(hospital, admissions, "hadm_id", "hospital_expire_flag").unique("hadm_id")
        stays = (
            beds.join(people.unique("subject_id"), on="subject_id", how="left", maintain_order="left")
            .join(admitted, on="hadm_id", how="left", maintain_order="left")
            .select(
                pl.col(self.stay).alias("stay_id"),
                pl.col("subject_id").alias("subject"),
                "intime",
                hours_since("outtime", "intime").alias("los_h"),
                age.alias("age"),
                pl.col("gender").alias("sex"),
                *(flag.fill_null(False).alias(name) for name, flag in flags.items()),
                (pl.col("hospital_expire_flag").str.strip_chars() == "1").alias("died"),
            )
        )
        once = stays.unique("stay_id", keep="first", maintain_order=True)
        rejections.reject("stays: the same stay again", stays.height - once.height)
        untimed = pl.col("los_h").is_null() | pl.col("stay_id").is_null()
        for stay in once.filter(untimed)["stay_id"]:
            rejections.stays[f"{self.dataset}/{stay}"] = "no readable time of admission or discharge"
        # Dates of birth of people over 89 are shifted to 300 years before.
        shifted = pl.col("age") > 150.0
        kept = once.filter(~untimed).sort("stay_id")
        rejections.repair(f"age: over 89 and shifted, set to {AGE_OVER_89}", kept.select(shifted.sum()).item())
        return kept.with_columns(age=pl.when(shifted).then(AGE_OVER_89).otherwise("age"))

    def _chart(
        self, icu: Path, stays: pl.DataFrame, definition: CohortDefinition, rejections: Rejections
    ) -> pl.DataFrame:
        """stay_id, item, t_h, value, text, key; one pass over the chart."""
        items = [*named_items(definition, "chart"), *_WEIGHTS]
        columns = ("subject_id", self.stay, "itemid", "charttime", "value", "valuenum", *self.errors[:1])
        return self._charted(icu, self.icu[1], "chart", columns, items, stays, definition, rejections)

    def _laboratory(
        self, hospital: Path, stays: pl.DataFrame, definition: CohortDefinition, rejections: Rejections
    ) -> pl.DataFrame:
        columns = (
            "subject_id",
            "itemid",
            "charttime",
            "value",
            "valuenum",
            *((self.specimen,) if self.specimen else ()),
        )
        items = list(named_items(definition, "laboratory"))
        return self._charted(hospital, self.hospital[2], "laboratory", columns, items, stays, definition, rejections)

    def _charted(
        self,
        folder: Path,
        table: str,
        role: str,
        columns: tuple[str, ...],
        items: list[str],
        stays: pl.DataFrame,
        definition: CohortDefinition,
        rejections: Rejections,
    ) -> pl.DataFrame:
        wordy = [i for c in definition.variables for i in (*c.beside_ids(role), *(c.ids(role) if c.reads_text else ()))]
        frame = scan_table(folder, table, columns).filter(pl.col("itemid").is_in(items))
        if self.specimen in columns:
            frame = frame.filter(pl.col("subject_id").is_in(stays["subject"].unique().to_list()))
        # Text is kept where somebody reads it only: of most rows it is the number again.
        frame = frame.with_columns(text=pl.when(pl.col("itemid").is_in(wordy)).then("value")).drop("value")
        events = typed(frame, folder / table, ["charttime"], ["valuenum"])
        for column in self.errors:
            if column in events.columns:
                marked = pl.col(column).str.strip_chars() == "1"
                events = rejections.drop(events, (marked, f"{role}: marked as an error"))
        empty = pl.col("valuenum").is_null() & ~pl.col("itemid").is_in(wordy)
        events = rejections.drop(events, (empty, f"{role}: no numeric value"))
        names = {"valuenum": "value", "itemid": "item", self.stay: "icustay_id"}
        events = events.rename({k: v for k, v in names.items() if k in events.columns})
        key = pl.col(self.specimen) if self.specimen in columns else pl.lit(None, pl.String)
        extra = ("item", "value", "text", "key")
        return attach(events.with_columns(key=key), stays, rejections, role, definition.lookback, extra)

    def _weighed(self, icu: Path, stays: pl.DataFrame, chart: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
        """`stays` with weight_kg: the median charted weight; for a stay without, the one its infusion orders name."""
        weights = possible_weights(chart.filter(pl.col("item").is_in(_WEIGHTS)), rejections)
        medians = [weights.group_by("stay_id").agg(pl.col("value").median().alias("charted"))]
        for table in (name for name in self._inputs(icu) if not name.endswith("_CV")):
            frame = scan_table(icu, table, (self.stay, "patientweight")).rename(
                {self.stay: "stay_id", "patientweight": "value"}
            )
            ordered = typed(frame, icu / table, numeric=["value"]).drop_nulls()
            ordered = possible_weights(ordered, rejections)
            medians.append(ordered.group_by("stay_id").agg(pl.col("value").median().alias("ordered")))
        for part in medians:
            stays = stays.join(part, on="stay_id", how="left", maintain_order="left")
        known = [name for name in ("charted", "ordered") if name in stays.columns]
        return stays.with_columns(weight_kg=pl.coalesce(known)).drop(known)

    def _outputs(
        self, icu: Path, concept: Concept, stays: pl.DataFrame, definition: CohortDefinition, rejections: Rejections
    ) -> pl.DataFrame:
        """Amounts of each record of one concept."""
        columns = ("subject_id", self.stay, "itemid", "charttime", "value", *self.errors[1:])
        frame = scan_table(icu, self.icu[2], columns, optional=("row_id",))
        frame = frame.filter(pl.col("itemid").is_in([*concept.ids("output"), *concept.beside_ids("output")]))
        events = rejections.distinct(typed(frame, icu / self.icu[2], ["charttime"], ["value"]), concept.name)
        for column in self.errors[1:]:
            marked = pl.col(column).str.strip_chars() == "1"
            events = rejections.drop(events, (marked, f"{concept.name}: marked as an error"))
        events = events.rename({self.stay: "icustay_id", "itemid": "item"})
        rows = attach(events, stays, rejections, concept.name, definition.lookback, ("item", "value"))
        return _prepared(rows, concept, rejections).with_columns(amount=pl.lit(True))

    def _orders(
        self,
        icu: Path,
        table: str,
        concept: Concept,
        stays: pl.DataFrame,
        definition: CohortDefinition,
        rejections: Rejections,
    ) -> pl.DataFrame:
        """stay_id, item, name, t_h, end_h, value, unit of MetaVision's orders; without a value they are rejected."""
        frame = scan_table(icu, table, ("subject_id", self.stay, *_ORDER), optional=("row_id", "orderid"))
        frame = frame.filter(pl.col("itemid").is_in(concept.ids("input")))
        events = typed(frame, icu / table, ["starttime", "endtime"], ["amount", "rate"])
        events = rejections.distinct(events, concept.name)
        rewritten = pl.col("statusdescription").str.strip_chars() == "Rewritten"
        events = rejections.drop(events, (rewritten, f"{concept.name}: order rewritten by another"))
        names = {"starttime": "charttime", self.stay: "icustay_id", "itemid": "item"}
        value, unit = ("rate", "rateuom") if concept.given == "rate" else ("amount", "amountuom")
        events = events.rename(names).with_columns(value=value, unit=unit)
        rows = attach(events, stays, rejections, concept.name, definition.lookback, ("item", "value", "unit"))
        return _valued(_named(rows, concept), concept, rejections)

    def _points(
        self,
        icu: Path,
        table: str,
        concept: Concept,
        stays: pl.DataFrame,
        definition: CohortDefinition,
        rejections: Rejections,
    ) -> pl.DataFrame:
        """As `_orders`, of CareVue's points: rates hold, amounts were given since the record before."""
        value, unit = ("rate", "rateuom") if concept.given == "rate" else ("amount", "amountuom")
        columns = ("subject_id", self.stay, "itemid", "charttime", value, unit)
        frame = scan_table(icu, table, (*columns, "stopped"), optional=("row_id",))
        frame = frame.filter(pl.col("itemid").is_in(concept.ids("input")))
        events = rejections.distinct(typed(frame, icu / table, ["charttime"], [value]), concept.name)
        events = events.rename({self.stay: "icustay_id", "itemid": "item", value: "value", unit: "unit"})
        spelled = pl.col("unit").str.strip_chars().str.to_lowercase().replace(_CAREVUE_UNITS)
        extra = ("item", "value", "unit", "stopped")
        rows = attach(events.with_columns(unit=spelled), stays, rejections, concept.name, definition.lookback, extra)
        rows = _named(rows, concept)
        spread = _held_points if concept.given == "rate" else _summed_points
        return spread(rows, concept, rejections).select("stay_id", "item", "name", "t_h", "end_h", "value", "unit")

    def _count_unlisted(self, icu: Path, table: str, definition: CohortDefinition, rejections: Rejections) -> None:
        """Count the orders that look like a treatment and are not read, named by d_items, where there is one."""
        frame = scan_table(icu, table, ("itemid", "amountuom"), optional=_CATEGORIES)
        keys = frame.collect_schema().names()
        listed = [item for concept in definition.treatments for item in concept.ids("input")]
        groups = collect(frame.filter(~pl.col("itemid").is_in(listed)).group_by(keys).len(), icu / table)
        labels = {}
        if find_table(icu, "d_items") is not None:
            labels = dict(collect(scan_table(icu, "d_items", ("itemid", "label")), icu / "d_items").iter_rows())
        reject_unlisted(groups, labels, definition, rejections)


MIMIC_III = MimicTables(
    layout="raw MIMIC-III tables",
    dataset="mimic-iii",
    stay="icustay_id",
    icu=("ICUSTAYS", "CHARTEVENTS", "OUTPUTEVENTS", "INPUTEVENTS_CV", "INPUTEVENTS_MV"),
    hospital=("PATIENTS", "ADMISSIONS", "LABEVENTS", "DIAGNOSES_ICD"),
    errors=("error", "iserror"),
)
MIMIC_IV = MimicTables(
    layout="raw MIMIC-IV tables",
    dataset="mimic-iv",
    stay="stay_id",
    icu=("icustays", "chartevents", "outputevents", "inputevents"),
    hospital=("patients", "admissions", "labevents", "diagnoses_icd"),
    folders=("icu", "hosp"),
    specimen="specimen_id",
)


def coded(diagnosis: Diagnosis, code: pl.Expr, version: pl.Expr) -> pl.Expr:
    """Whether a code of a version ("9", "10") is one of the diagnosis."""
    tenth = pl.any_horizontal(pl.lit(False), *(code.str.starts_with(prefix) for prefix in diagnosis.icd10))
    return ((version == "9") & code.is_in(diagnosis.icd9)) | ((version == "10") & tenth)


def years_between(start: pl.Expr, end: pl.Expr) -> pl.Expr:
    """Years from one time to another."""
    return (end - start).dt.total_seconds() / (365.2425 * 86400.0)


def named_items(definition: CohortDefinition, role: str) -> dict[str, str]:
    """Item ids wanted of tables of one role, those that concepts need beside them among them -> concept."""
    pairs = [(i, c.name) for c in definition.concepts.values() for i in (*c.ids(role), *c.beside_ids(role))]
    return dict(pairs)


def observed_events(
    rows: Mapping[str, pl.DataFrame], definition: CohortDefinition, rejections: Rejections
) -> pl.DataFrame:
    """Events of every concept that is charted or measured.

    Args:
        rows: Role -> stay_id, item, t_h, value, text, key.
        definition: Which items are which concept.
        rejections: Counts are added here.
    """
    parts = []
    for concept in definition.concepts.values():
        wanted = {role: [*concept.ids(role), *concept.beside_ids(role)] for role in rows}
        mine = [rows[role].filter(pl.col("item").is_in(items)) for role, items in wanted.items() if items]
        if mine:
            parts.append(_prepared(pl.concat(mine), concept, rejections))
    return event_frame(*parts)


def ordered_events(
    orders: Sequence[pl.DataFrame], stays: pl.DataFrame, definition: CohortDefinition, rejections: Rejections
) -> pl.DataFrame:
    """Events of every treatment that is ordered, in its unit.

    Args:
        orders: stay_id, item, name, t_h, end_h, value, unit.
        stays: stay_id, weight_kg.
        definition: Knows units and names.
        rejections: Counts are added here.
    """
    if not orders:
        return event_frame()
    rows = pl.concat([order.select("stay_id", "item", "name", "t_h", "end_h", "value", "unit") for order in orders])
    for concept in (c for c in definition.treatments if c.prepare is not None and c.ids("input")):
        mine = pl.col("name").is_in([concept.name, *(part.name for part in concept.parts)])
        rows = pl.concat([rows.filter(~mine), concept.prepare(rows.filter(mine), rejections)])
    return event_frame(in_own_units(rows, definition, rejections, stays, DEFAULT_WEIGHT_KG))


def _prepared(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    rows = rows.with_columns(name=pl.lit(concept.name))
    return rows if concept.prepare is None else concept.prepare(rows, rejections)


def _named(rows: pl.DataFrame, concept: Concept) -> pl.DataFrame:
    names = {item: part.name for part in concept.parts for item in part.ids("input")}
    return rows.with_columns(name=pl.col("item").replace_strict(names, default=concept.name, return_dtype=pl.String))


def _valued(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    return rejections.drop(
        rows,
        (pl.col("value").is_null(), f"{concept.name}: no {concept.given}"),
        (pl.col("value") == 0.0, f"{concept.name}: nothing given (0)"),
    )


def _held_points(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    ends = pl.col("stopped").is_in(_STOPPED).fill_null(False)
    silent = pl.col("value").is_null() & ~ends
    reason = f"{concept.name}: a record without a rate (CareVue charts the volume apart); the dose before it ends there"
    rejections.reject(reason, rows.select(silent.sum()).item())
    rows = rejections.drop(rows, (pl.col("value") < 0.0, f"{concept.name}: impossible value"))
    # Every record ends the rate before it, also one that charts an amount and no rate: the rate is then unknown.
    keys = ["stay_id", "item", "name", "t_h"]
    points = (
        rows.group_by(keys)
        # A stop charted at the minute of a rate wins.
        .agg(
            pl.when(ends.any()).then(0.0).otherwise(pl.col("value").max()).alias("value"),
            pl.col("unit").drop_nulls().first(),
            rates=(pl.col("value") > 0.0).sum(),
        )
        .sort(keys)
    )
    kept = (pl.col("value") > 0.0).fill_null(False)
    unused = points.select(
        stopped=pl.col("rates").filter(~kept).sum(), lower=(pl.col("rates").filter(kept).cast(pl.Int64) - 1).sum()
    )
    rejections.reject(f"{concept.name}: a rate at the minute of its stop", unused["stopped"].item())
    rejections.reject(f"{concept.name}: a lower rate of the item at one time", unused["lower"].item())
    following = pl.col("t_h").shift(-1).over("stay_id", "item")
    held = pl.min_horizontal(pl.col("t_h") + _HOLD_HOURS, following)
    end = pl.when(following.is_null()).then(pl.col("t_h") + _LAST_HOURS).otherwise(held)
    return points.with_columns(end_h=end).filter(pl.col("value") > 0.0)


def _summed_points(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    rows = rejections.drop(rows, (pl.col("value").is_null(), f"{concept.name}: no amount"))
    keys = ["stay_id", "item", "name", "unit", "t_h"]
    amounts = rows.group_by(keys).agg(pl.col("value").sum()).sort("stay_id", "item", "t_h")
    rejections.repair(f"{concept.name}: records of an item at one time, summed", rows.height - amounts.height)
    charted = amounts.select("stay_id", "item", "t_h").unique().sort("stay_id", "item", "t_h")
    before = charted.with_columns(before=pl.col("t_h").shift(1).over("stay_id", "item"))
    amounts = amounts.join(before, on=["stay_id", "item", "t_h"], maintain_order="left")
    start = pl.max_horizontal(pl.col("t_h") - _AMOUNT_HOURS, "before")
    return _valued(amounts.with_columns(t_h=start, end_h=pl.col("t_h")), concept, rejections)


def possible_weights(weights: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Rows whose `value` can be the weight of an adult in kg."""
    low, high = _WEIGHT_RANGE
    reason = f"weight: outside {low:g}-{high:g} kg, not used (in pounds or grams?)"
    return rejections.drop(weights, (~pl.col("value").is_between(low, high), reason))


def reject_unlisted(
    groups: pl.DataFrame, labels: Mapping[str, str], definition: CohortDefinition, rejections: Rejections
) -> None:
    """Count unlisted orders under a reason that names the item: never read as what they are not, nor passed over.

    By label where it mentions a drug of a treatment; by the category of the order where that gives one by volume and
    the amount is a volume; a drip without a label by its category. Where neither label nor category is known, all such
    items are one reason. What a label says to be another drug is none of the cohort's business, and not counted.

    Args:
        groups: itemid, len (orders) and, where known, amountuom, ordercategoryname, secondaryordercategoryname.
        labels: Item -> words.
        definition: Knows the drugs.
        rejections: Counts are added here.
    """
    nameless: dict[str, int] = {}
    unread = {item: words for concept in definition.treatments for item, words in concept.unread.items()}
    for row in groups.sort("itemid").iter_rows(named=True):
        item = row["itemid"] or ""
        label = labels.get(item) or unread.get(item)
        categories = {(row.get(column) or "").strip() for column in _CATEGORIES}
        volume = (row.get("amountuom") or "").strip().lower() in ("ml", "l")
        looks = None
        for concept in definition.treatments:
            by_amount = concept.given == "amount"
            if looks is None and mentions(label or "", concept):
                looks = concept.name
            elif looks is None and by_amount and volume and categories & set(concept.categories):
                looks = concept.name
            elif looks is None and not by_amount and not label and row.get(_CATEGORIES[0]) in concept.categories:
                looks = f"{concept.name} or another drip"
        if looks is not None:
            name = f"item {item} ({label})" if label else f"item {item}"
            rejections.reject(f"{looks}: {name} is not in the list of items, not read", row["len"])
        elif not label and _CATEGORIES[0] not in groups.columns:
            nameless[item] = nameless.get(item, 0) + row["len"]
    if nameless:
        most = first_of(sorted(nameless, key=lambda item: -nameless[item]))
        reason = f"infusion: items not read, and no d_items table names them: {most}"
        rejections.reject(reason, sum(nameless.values()))
