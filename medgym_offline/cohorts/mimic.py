"""Source: the original MIMIC-III and MIMIC-IV tables, demo or full database, names in any case, .csv or .csv.gz.

Large tables are scanned once and filtered by item id before anything else happens to a row. Item ids below 220000 are
CareVue's (MIMIC-III only), from 220000 MetaVision's, 5xxxx the laboratory's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medgym_offline.cohorts.intake import CATEGORIES, Intake, coded, possible_weights, years_between
from medgym_offline.cohorts.names import AGE_OVER_89
from medgym_offline.cohorts.source import Records, Rejections, event_frame, provenance_of
from medgym_offline.cohorts.tables import collect, find_table, hours_since, read_table, scan_table, typed
from medgym_offline.diseases.concepts import CohortDefinition, Concept

__all__ = ["MIMIC_III", "MIMIC_IV", "MimicTables"]

_WEIGHTS = ("762", "763", "226512", "224639")
#: CareVue writes units of rates without signs.
_CAREVUE_UNITS = {"mcgkgmin": "mcg/kg/min", "mcgmin": "mcg/min", "umin": "u/min", "uhr": "u/h", "mlhr": "ml/h"}
#: A CareVue rate holds until the next record of its item, at most this long; the last, which nothing follows, an hour.
_HOLD_HOURS, _LAST_HOURS = 4.0, 1.0
#: A CareVue amount was given over the hour before it was charted, or since the record before if that is shorter.
_AMOUNT_HOURS = 1.0
_STOPPED = ("Stopped", "D/C'd")
_GIVEN = {"amount": "amount", "rate": "rate", "amountuom": "amountuom", "rateuom": "rateuom"}
_ORDERS = {"charttime": "starttime", "endtime": "endtime", **_GIVEN, "status": "statusdescription"}
_TYPES = (("charttime", "endtime"), ("value", "amount", "rate"))
_POINTS = {"charttime": "charttime", **_GIVEN, "stopped": "stopped"}


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
        specimen: Columns that tie a laboratory value to its specimen; without, person and time do.
        errors: Columns of chart and outputs that mark a row as an error.
    """

    layout: str
    dataset: str
    stay: str
    icu: tuple[str, ...]
    hospital: tuple[str, str, str, str]
    folders: tuple[str, str] = ("", "")
    specimen: Mapping[str, str] | None = None
    errors: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})

    def matches(self, path: Path) -> bool:
        """Whether the folder holds the stays and the orders of this version."""
        icu, _ = self._folders(path)
        return find_table(icu / self.icu[0]) is not None and bool(self._inputs(icu))

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read the tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        icu, hospital = self._folders(path)
        rejections = Rejections()
        intake = Intake(definition, self._stays(icu, hospital, definition, rejections), rejections)
        stay = {"icustay_id": self.stay}
        chart = _measured(intake, icu / self.icu[1], "chart", {**stay, **self.errors[0]}, _WEIGHTS)
        laboratory = _measured(intake, hospital / self.hospital[2], "laboratory", self.specimen or {})
        intake.stays = self._weighed(icu, intake.stays, chart, rejections)
        parts = [intake.observed({"chart": chart, "laboratory": laboratory})]
        names = {**stay, "charttime": "charttime", "value": "value", **self.errors[1]}
        for concept in (c for c in definition.variables if c.ids("output")):
            rows = _rows(intake, icu / self.icu[2], concept.wanted("output"), concept.name, names)
            parts.append(intake.records(rows, concept))
        orders = []
        for table in self._inputs(icu):
            _count_unlisted(intake, icu / table)
            for concept in (c for c in definition.treatments if c.ids("input")):
                columns = {**stay, **(_POINTS if table.endswith("_CV") else _ORDERS)}
                rows = _rows(intake, icu / table, concept.ids("input"), concept.name, columns)
                if "status" in columns:
                    rewritten = pl.col("status").str.strip_chars() == "Rewritten"
                    rows = rejections.drop(rows, (rewritten, f"{concept.name}: order rewritten by another"))
                rows = rows.with_columns(value=concept.given, unit=f"{concept.given}uom")
                rows = intake.attach(rows, concept.name)
                orders.append(rows if "status" in columns else _spread(rows, concept, rejections))
        places = (*(icu / name for name in self.icu), *(hospital / name for name in self.hospital))
        found = [find_table(place) for place in places]
        provenance = provenance_of(self.layout, path, found, self.dataset)
        events = event_frame(*parts, intake.ordered(orders))
        return Records(self.dataset, intake.stays.drop("intime"), events, rejections, provenance)

    def _folders(self, path: Path) -> tuple[Path, Path]:
        """Where the tables of the ICU and of the hospital lie."""
        icu, hospital = (path / name for name in self.folders)
        return (icu if icu.is_dir() else path), (hospital if hospital.is_dir() else path)

    def _inputs(self, icu: Path) -> list[str]:
        return [name for name in self.icu[3:] if find_table(icu / name) is not None]

    def _stays(self, icu: Path, hospital: Path, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
        """stay_id, subject, intime, los_h, age, sex, diagnoses and died; each stay once and with both times."""
        beds = read_table(icu / self.icu[0], ("subject_id", "hadm_id", self.stay), dated=("intime", "outtime"))
        patients, admissions, _, diagnoses = (hospital / name for name in self.hospital)
        entered = pl.col("intime").dt.replace_time_zone(None)
        if self.specimen is None:
            people = read_table(patients, ("subject_id", "gender"), dated=("dob",))
            codes = read_table(diagnoses, ("hadm_id", "icd9_code")).rename({"icd9_code": "icd_code"})
            codes = codes.with_columns(icd_version=pl.lit("9"))
            age = years_between(pl.col("dob").dt.replace_time_zone(None), entered)
        else:
            people = read_table(patients, ("subject_id", "gender"), numeric=("anchor_age", "anchor_year"))
            codes = read_table(diagnoses, ("hadm_id", "icd_code", "icd_version"))
            start_of_year = pl.datetime(pl.col("anchor_year").cast(pl.Int32), 1, 1, time_unit="ms")
            age = pl.col("anchor_age") + years_between(start_of_year, entered)
        admitted = read_table(admissions, ("hadm_id", "hospital_expire_flag")).unique("hadm_id")
        stays = beds.join(people.unique("subject_id"), on="subject_id", how="left", maintain_order="left")
        stays = stays.join(admitted, on="hadm_id", how="left", maintain_order="left").select(
            pl.col(self.stay).alias("stay_id"),
            pl.col("subject_id").alias("subject"),
            "intime",
            hours_since("outtime", "intime").alias("los_h"),
            age.alias("age"),
            pl.col("gender").alias("sex"),
            *(coded(diagnosis, codes, "hadm_id") for diagnosis in definition.diagnoses),
            (pl.col("hospital_expire_flag").str.strip_chars() == "1").alias("died"),
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

    def _weighed(self, icu: Path, stays: pl.DataFrame, chart: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
        """`stays` with weight_kg: the median charted weight; for a stay without, the one its infusion orders name."""
        charted = possible_weights(chart.filter(pl.col("item").is_in(_WEIGHTS)), rejections)
        stays = stays.join(charted, on="stay_id", how="left", maintain_order="left")
        for table in (name for name in self._inputs(icu) if not name.endswith("_CV")):
            rows = read_table(icu / table, (self.stay,), numeric=("patientweight",)).drop_nulls()
            ordered = possible_weights(rows.rename({self.stay: "stay_id", "patientweight": "value"}), rejections)
            stays = stays.join(ordered, on="stay_id", how="left", maintain_order="left", suffix="_ordered")
            stays = stays.with_columns(pl.coalesce("weight_kg", "weight_kg_ordered")).drop("weight_kg_ordered")
        return stays


MIMIC_III = MimicTables(
    layout="raw MIMIC-III tables",
    dataset="mimic-iii",
    stay="icustay_id",
    icu=("ICUSTAYS", "CHARTEVENTS", "OUTPUTEVENTS", "INPUTEVENTS_CV", "INPUTEVENTS_MV"),
    hospital=("PATIENTS", "ADMISSIONS", "LABEVENTS", "DIAGNOSES_ICD"),
    errors=({"error": "error"}, {"error": "iserror"}),
)
MIMIC_IV = MimicTables(
    layout="raw MIMIC-IV tables",
    dataset="mimic-iv",
    stay="stay_id",
    icu=("icustays", "chartevents", "outputevents", "inputevents"),
    hospital=("patients", "admissions", "labevents", "diagnoses_icd"),
    folders=("icu", "hosp"),
    specimen={"key": "specimen_id"},
)


def _rows(
    intake: Intake, table: Path, items: Sequence[str], label: str, names: Mapping[str, str], wordy: Sequence[str] = ()
) -> pl.DataFrame:
    """subject_id, item and the columns `names` (ours -> theirs) of a table's rows of `items`, errors left out."""
    columns = ("subject_id", "itemid", *names.values())
    frame = scan_table(table, columns, optional=("row_id", "orderid") if "text" not in names else ())
    frame = frame.filter(pl.col("itemid").is_in(items)).rename({v: k for k, v in names.items()} | {"itemid": "item"})
    if "icustay_id" not in names:
        frame = frame.filter(pl.col("subject_id").is_in(intake.stays["subject"].unique().to_list()))
    if "text" in names:  # kept where somebody reads it only: of most rows it is the number again
        frame = frame.with_columns(text=pl.when(pl.col("item").is_in(wordy)).then("text"))
    dated, numeric = ([n for n in kind if n in names] for kind in _TYPES)
    rows = typed(frame, table, dated, numeric)
    if "text" not in names:  # what is measured twice is averaged; what is given or lost twice would add up
        rows = intake.rejections.distinct(rows, label)
    marked = (pl.col("error").str.strip_chars() == "1", f"{label}: marked as an error")
    return intake.rejections.drop(rows, marked) if "error" in names else rows


def _measured(intake: Intake, path: Path, role: str, more: Mapping[str, str], also: Sequence[str] = ()) -> pl.DataFrame:
    """stay_id, item, t_h, value, text and key of what is charted or measured; one pass over the table."""
    concepts = intake.definition.concepts.values()
    items = [*also, *(item for concept in concepts for item in concept.wanted(role))]
    wordy = [i for c in concepts for i in (*c.beside_ids(role), *(c.ids(role) if c.reads_text else ()))]
    names = {"charttime": "charttime", "value": "valuenum", "text": "value", **more}
    rows = _rows(intake, path, items, role, names, wordy)
    empty = pl.col("value").is_null() & ~pl.col("item").is_in(wordy)
    placed = intake.attach(intake.rejections.drop(rows, (empty, f"{role}: no numeric value")), role)
    key = pl.col("key") if "key" in names else pl.lit(None, pl.String)
    return placed.select("stay_id", "item", "t_h", "value", "text", key=key)


def _count_unlisted(intake: Intake, table: Path) -> None:
    """Count the orders that look like a treatment and are not read, named by d_items, where there is one."""
    frame = scan_table(table, ("itemid", "amountuom"), optional=CATEGORIES).rename({"itemid": "item"})
    listed = [item for concept in intake.definition.treatments for item in concept.ids("input")]
    keys = frame.collect_schema().names()
    groups = collect(frame.filter(~pl.col("item").is_in(listed)).group_by(keys).len(), table)
    named = table.with_name("d_items")
    labels = {} if find_table(named) is None else dict(read_table(named, ("itemid", "label")).iter_rows())
    intake.count_unlisted(groups, labels)


def _spread(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """CareVue's points as orders: rates hold, amounts were given since the record before."""
    name, value = concept.name, pl.col("value")
    rows = rows.with_columns(unit=pl.col("unit").str.strip_chars().str.to_lowercase().replace(_CAREVUE_UNITS))
    if concept.given == "amount":
        keys = ["stay_id", "item", "t_h"]
        amounts = rows.drop_nulls("value").group_by(*keys, "unit").agg(value.sum())
        rejections.reject(f"{name}: no amount", rows["value"].null_count())
        repeated = rows.height - rows["value"].null_count() - amounts.height
        rejections.repair(f"{name}: records of an item at one time, summed", repeated)
        charted = amounts.select(keys).unique().sort(keys)
        before = charted.with_columns(before=pl.col("t_h").shift(1).over("stay_id", "item"))
        amounts = amounts.join(before, on=keys, maintain_order="left")
        return amounts.with_columns(end_h="t_h", t_h=pl.max_horizontal(pl.col("t_h") - _AMOUNT_HOURS, "before"))
    ends = pl.col("stopped").is_in(_STOPPED).fill_null(False)
    silent = rows.select((value.is_null() & ~ends).sum()).item()
    reason = "a record without a rate (CareVue charts the volume apart); the dose before it ends there"
    rejections.reject(f"{name}: {reason}", silent)
    rows = rejections.drop(rows, (value < 0.0, f"{name}: impossible value"))
    # Every record ends the rate before it, also one that charts an amount and no rate: the rate is then unknown.
    # A stop charted at the minute of a rate wins.
    points = rows.group_by("stay_id", "item", "t_h").agg(
        pl.when(ends.any()).then(0.0).otherwise(value.max()).alias("value"),
        pl.col("unit").drop_nulls().first(),
        rates=(value > 0.0).sum(),
    )
    kept = (value > 0.0).fill_null(False)
    lower = pl.col("rates").filter(kept).cast(pl.Int64) - 1
    unused = points.select(stopped=pl.col("rates").filter(~kept).sum(), lower=lower.sum())
    rejections.reject(f"{name}: a rate at the minute of its stop", unused["stopped"].item())
    rejections.reject(f"{name}: a lower rate of the item at one time", unused["lower"].item())
    following = pl.col("t_h").shift(-1).over("stay_id", "item")
    held = pl.min_horizontal(pl.col("t_h") + _HOLD_HOURS, following)
    end = pl.when(following.is_null()).then(pl.col("t_h") + _LAST_HOURS).otherwise(held)
    return points.sort("stay_id", "item", "t_h").with_columns(end_h=end).filter(value > 0.0)
