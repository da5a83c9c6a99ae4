"""`Cohort`: one validated table of observations and treatments, the stays it describes, and where they came from.

When the people behind a record decided, and what they gave: treatments as steps, and the rule that cuts them.

A decision is a change of the rate in force of any treatment, by more than `tolerance` of the larger of the two rates,
at least `apart` after the decision before it (what changes sooner belongs to that one, and its dose is the mean of
both), or, `longest` after the decision before it, the decision to go on. The first is at admission; none is taken so
late that less than `apart` of the stay, or of the horizon, is left.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgym_offline.cohorts.grid import GridCohort, make_grid
from medgym_offline.cohorts.source import Rejections, completed, flags_of
from medgym_offline.cohorts.validate import COLUMNS, validate
from medgym_offline.diseases.concepts import CohortDefinition
from medgym_offline.diseases.registry import disease, list_diseases
from medgym_offline.errors import CohortError, unknown_name
from medgym_offline.files import atomic_path

__all__ = ["COLUMNS", "Cohort", "DecisionRule", "FORMAT", "Given", "combine", "definition_named", "treatments_given"]

FORMAT = "medgym-cohort/2"
_TEXT = ("patient", "dataset", "stay_id", "subject", "sex")
_STAYS = ("patient", "dataset", "stay_id", "subject", "los_h", "age", "sex", "weight_kg")


def definition_named(name: str, where: str = "cohort") -> CohortDefinition:
    """The cohort definition of a disease by its name.

    Raises:
        CohortError: no such disease, or one that makes no cohorts.
    """
    found = disease(name).cohort if name in list_diseases() else None
    if found is None:
        raise CohortError(f"{where}: disease {name!r} is not known here, or makes no cohorts; install its package")
    definition: CohortDefinition = found()
    return definition


@dataclass(frozen=True)
class Cohort:
    """Stays with their observations and treatments. Build one with :meth:`read`, :meth:`from_table` or `combine`.

    Attributes:
        table: Long form: patient, time_h, end_h (null for observations), variable, value, source; sorted by patient
            and time. Units of the definition; treatment intervals of one variable are disjoint.
        stays: One row a stay: patient, dataset, stay_id, subject, los_h, age, sex, weight_kg, diagnoses, died.
        metadata: format, disease, units, datasets, license, provenance, definitions, selection (JSON-able).
        rejections: What was turned away or repaired on the way here.
        definition: What the variables and treatments are.
    """

    table: pl.DataFrame
    stays: pl.DataFrame
    metadata: dict[str, Any]
    rejections: Rejections
    definition: CohortDefinition

    def __len__(self) -> int:
        return self.stays.height

    @property
    def patients(self) -> tuple[str, ...]:
        """Ids, sorted: "mimic-iii/201006"."""
        return tuple(self.stays["patient"].to_list())

    @property
    def subjects(self) -> tuple[str, ...]:
        """The person behind each stay, in the order of `patients`."""
        return tuple(self.stays["subject"].to_list())

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is in it: the rows, and of the stays person, length and outcome."""
        digest = hashlib.sha256()
        for name in ("patient", "variable"):
            digest.update("\n".join(self.table[name].to_list()).encode())
        for name in ("time_h", "end_h", "value"):
            digest.update(self.table[name].fill_null(np.nan).to_numpy().astype("<f8").tobytes())
        digest.update(json.dumps(self.stays.select("patient", "subject", "los_h", "died").rows()).encode())
        return digest.hexdigest()

    @property
    def observations(self) -> pl.DataFrame:
        """patient, time_h, variable, value, source of the observed variables."""
        return self.table.filter(pl.col("variable").is_in(self.definition.observed)).drop("end_h")

    @property
    def treatments(self) -> pl.DataFrame:
        """patient, time_h, end_h, variable, value, source of the treatments."""
        return self.table.filter(pl.col("variable").is_in(self.definition.given))

    def to_grid(self, hours: float = 1.0, horizon: float = 96.0) -> GridCohort:
        """The cohort on a regular grid as NumPy arrays.

        Args:
            hours: Width of a cell.
            horizon: Hours covered from admission.

        Raises:
            CohortError: `hours` or `horizon` is not positive.
        """
        if not (hours > 0 and horizon >= hours):
            raise CohortError(f"to_grid: hours={hours}, horizon={horizon}; give 0 < hours <= horizon")
        return make_grid(self.table, self.stays, self.definition, hours, horizon)

    def select(self, patients: Sequence[str]) -> Cohort:
        """The named stays, in sorted order. The counts of rejected rows stay those of all stays read.

        Raises:
            UnknownNameError: no such patient.
        """
        known = set(self.patients)
        for patient in patients:
            if patient not in known:
                raise unknown_name("patient", patient, known)
        keep = pl.col("patient").is_in(list(patients))
        table, stays = self.table.filter(keep), self.stays.filter(keep)
        return Cohort(table, stays, *copy.deepcopy((self.metadata, self.rejections)), self.definition)

    @classmethod
    def from_table(
        cls,
        table: pl.DataFrame,
        definition: CohortDefinition,
        stays: pl.DataFrame | None = None,
        metadata: Mapping[str, Any] | None = None,
        rejections: Rejections | None = None,
        where: str = "cohort table",
    ) -> Cohort:
        """Validate a long-form table.

        Args:
            table: See `validate`.
            definition: What its variables are.
            stays: Columns of `stays`, of which only patient and los_h must be there. Without it a stay lasts until
                its last row and its covariates are unknown.
            metadata: Kept; `units`, if it is there, must be those of the definition.
            rejections: Counts from earlier steps, kept.
            where: Name of the table in messages.

        Raises:
            CohortError: a structural fault; see `validate`.
        """
        metadata = copy.deepcopy(dict(metadata or {}))
        for variable, unit in metadata.get("units", definition.units).items():
            if unit != definition.units.get(variable):
                remedy = "a cohort table is in the definition's units: give a long table, which is converted"
                raise CohortError(f"{where}: says that {variable!r} is in {unit!r}; {remedy}")
        clean, found = validate(table, definition, where)
        total = Rejections().add(rejections or Rejections(), found)
        stays = _stays_of(clean, stays, definition, total, where)
        clean = clean.filter(pl.col("patient").is_in(stays["patient"].to_list()))
        own = {"format": FORMAT, "disease": definition.disease, "units": dict(definition.units)}
        metadata.update(own, datasets=sorted(set(stays["dataset"].to_list())))
        return cls(clean, stays, metadata, total, definition)

    def write(self, path: str | Path) -> None:
        """Write one Parquet file, whole or not at all; metadata, stays and counts are JSON under the key `medgym`."""
        stays = self.stays.to_dict(as_series=False)
        payload = {**self.metadata, "rejections": asdict(self.rejections), "stays": stays}
        text = json.dumps(payload, sort_keys=True, allow_nan=False)
        with atomic_path(path) as temporary:
            self.table.select(COLUMNS).write_parquet(temporary, metadata={"medgym": text})

    @classmethod
    def read(cls, path: str | Path, definition: CohortDefinition | None = None) -> Cohort:
        """Read and validate a cohort table.

        Args:
            path: Parquet file.
            definition: What its variables are; None: those of the disease that the file names.

        Raises:
            CohortError: no such file, no Parquet, a damaged file, another or no known disease, or a structural fault
                (see `validate`).
        """
        path = Path(path)
        if not path.is_file():
            raise CohortError(f"{path}: no such file; build one with: medgym-offline cohort build PATH... -o {path}")
        try:
            table = pl.read_parquet(path, glob=False)
            payload = json.loads(pl.read_parquet_metadata(path).get("medgym", "{}"))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
            raise CohortError(f"{path}: not a readable Parquet table (is it damaged?); build it again") from error
        if not isinstance(payload, dict):
            raise CohortError(f"{path}: metadata key 'medgym' is not a JSON object; build the table again")
        named = payload.get("disease")
        if definition is None and named is None:
            raise CohortError(f"{path}: names no disease; build the table again, or say which definition it follows")
        found = definition or definition_named(str(named), str(path))
        if named not in (None, found.disease):
            raise CohortError(f"{path}: a cohort of disease {named!r}, not of {found.disease!r}; give another")
        rejections = Rejections.from_json(payload.pop("rejections", {}))
        described = payload.pop("stays", None)
        stays = pl.DataFrame(described, schema_overrides=_stay_types(found)) if described else None
        return cls.from_table(table, found, stays, payload, rejections, where=str(path))


def combine(cohorts: Sequence[Cohort]) -> Cohort:
    """One cohort of several.

    Raises:
        CohortError: none given, diseases differ, or a patient occurs twice.
    """
    if not cohorts:
        raise CohortError("combine: no cohort given; name at least one")
    definition = cohorts[0].definition
    names = list(dict.fromkeys(cohort.definition.disease for cohort in cohorts))
    if len(names) > 1:
        raise CohortError(f"combine: a cohort of {names[0]!r} and one of {names[1]!r}; combine those of one disease")
    stays = pl.concat([c.stays.select(*_stay_types(definition)) for c in cohorts])
    twice = stays.filter(stays["patient"].is_duplicated())["patient"]
    if len(twice):
        raise CohortError(f"combine: patient {twice[0]!r} occurs in two cohorts; name each source once")
    rejections = Rejections().add(*(cohort.rejections for cohort in cohorts))
    metadata = copy.deepcopy(cohorts[0].metadata)
    metadata["provenance"] = [entry for c in cohorts for entry in c.metadata.get("provenance", [])]
    metadata["license"] = "; ".join(dict.fromkeys(c.metadata["license"] for c in cohorts if c.metadata.get("license")))
    metadata["datasets"] = sorted({name for c in cohorts for name in c.metadata.get("datasets", [])})
    table = pl.concat([c.table.select(COLUMNS) for c in cohorts]).sort("patient", "time_h", "variable")
    return Cohort(table, stays.sort("patient"), metadata, rejections, definition)


def _stay_types(definition: CohortDefinition) -> dict[str, Any]:
    kinds = {name: pl.String if name in _TEXT else pl.Float64 for name in _STAYS}
    return {**kinds, **dict.fromkeys(flags_of(definition), pl.Boolean)}


def _stays_of(
    table: pl.DataFrame, stays: pl.DataFrame | None, definition: CohortDefinition, rejections: Rejections, where: str
) -> pl.DataFrame:
    """`stays` with every column, one row for each patient of `table`, sorted; patients without a row are rejected."""
    ends = table.group_by("patient").agg(los_h=pl.max_horizontal(pl.col("time_h").max(), pl.col("end_h").max()))
    stays = ends if stays is None else stays
    for column in ("patient", "los_h"):
        if column not in stays.columns:
            raise CohortError(f"{where}: the stays lack the column {column!r}; add it (one row a stay)")
    kinds = _stay_types(definition)
    stays = completed(stays, kinds).select(pl.col(c).cast(kind, strict=False) for c, kind in kinds.items())
    stays = stays.unique("patient", keep="first").with_columns(
        # Without a name for the person, each stay is its own: nothing better is known.
        pl.col("subject").fill_null(pl.col("patient")),
        pl.col("dataset").fill_null(pl.col("patient").str.extract(r"^(.+)/").fill_null("cohort")),
        pl.col("stay_id").fill_null(pl.col("patient").str.extract(r"([^/]+)$")),
    )
    bad = stays.filter(~(pl.col("los_h") > 0).fill_null(False))["patient"].to_list()
    stays = stays.filter(~pl.col("patient").is_in(bad))
    described = set(stays["patient"].to_list())
    for patient in sorted(set(ends["patient"].to_list()) - described):
        rejections.stays[patient] = "no length of stay" if patient in bad else "no row in the stays table"
    return stays.filter(pl.col("patient").is_in(ends["patient"].to_list())).sort("patient")


@dataclass(frozen=True)
class DecisionRule:
    """The rule; times in hours, as in every cohort.

    Attributes:
        horizon: Nothing after it counts.
        apart: Decisions are at least so far apart. Chosen: 1 h, in which vital signs are charted once.
        longest: After so long without a change the decision was to go on. Chosen: 8 h, a shift.
        tolerance: Smaller relative changes are none. Chosen: 5 %, what a rate moves when a bag's volume is reckoned
            anew; in the open MIMIC demos nineteen of twenty charted steps of a titrated drug are larger.
    """

    horizon: float
    apart: float = 1.0
    longest: float = 8.0
    tolerance: float = 0.05


@dataclass(frozen=True)
class Given:
    """What one stay was given.

    Attributes:
        edges: (E,) times from 0 at which a rate may change.
        rates: (E, U) in force from each edge to the next, in the cohort's units; the last until `end`.
        end: Of the stay, or the horizon if that is sooner.
    """

    edges: np.ndarray
    rates: np.ndarray
    end: float

    def changes(self, tolerance: float) -> np.ndarray:
        """Times at which some rate changes by more than `tolerance` of the larger."""
        before, after = self.rates[:-1], self.rates[1:]
        changed = np.abs(after - before) > tolerance * np.maximum(np.abs(after), np.abs(before))
        return self.edges[1:][changed.any(axis=1)]

    def decisions(self, rule: DecisionRule) -> np.ndarray:
        """(K + 1,) times of the K decisions by `rule`, and the end."""
        candidates = self.changes(rule.tolerance)
        # Hours are kept to a third of a second: what is a whole interval apart must not fail by a last digit.
        apart, times = rule.apart - 1e-6, [0.0]
        while True:
            later = candidates[np.searchsorted(candidates, times[-1] + apart) :]
            following = min([times[-1] + rule.longest, *later[:1].tolist()])
            if following > self.end - apart:
                return np.array([*times, self.end])
            times.append(following)

    def total(self, times: np.ndarray) -> np.ndarray:
        """(len(times), U) integral of the rates from 0 to each of `times`."""
        lengths = np.diff(np.r_[self.edges, self.end])
        sums = np.vstack([np.zeros(self.rates.shape[1]), np.cumsum(self.rates * lengths[:, None], axis=0)])
        at = np.searchsorted(self.edges, times, side="right") - 1
        return np.asarray(sums[at] + self.rates[at] * (times - self.edges[at])[:, None])

    def means(self, times: np.ndarray) -> np.ndarray:
        """(len(times) - 1, U) mean rates between consecutive `times`."""
        return np.asarray(np.diff(self.total(times), axis=0) / np.diff(times)[:, None])


def treatments_given(cohort: Cohort, horizon: float) -> dict[str, Given]:
    """What every stay of a cohort was given until `horizon`, by patient; the background where nothing was charted."""
    treatments = cohort.treatments.sort("time_h")
    rows, none = treatments.partition_by(["patient", "variable"], as_dict=True), treatments.clear()
    found = {}
    for patient, stay in zip(cohort.patients, cohort.stays["los_h"].to_list()):
        end, parts = min(float(stay), horizon), []
        for concept in cohort.definition.treatments:
            own = rows.get((patient, concept.name), none)
            start, stop, value = (own[name].to_numpy() for name in ("time_h", "end_h", "value"))
            parts.append((np.clip(start, 0.0, None), stop, value, concept.background))
        edges = np.unique(np.concatenate([[0.0], *(side for part in parts for side in part[:2])]))
        edges = edges[(edges >= 0.0) & (edges < end)]
        rates = np.stack([_in_force(edges, *part) for part in parts], axis=1)
        found[patient] = Given(edges, rates, end)
    return found


def _in_force(times: np.ndarray, start: np.ndarray, stop: np.ndarray, value: np.ndarray, absent: float) -> np.ndarray:
    """Value at `times` of disjoint intervals [start, stop), sorted; `absent` where there is none."""
    if not len(start):
        return np.full(len(times), absent)
    at = np.searchsorted(start, times, side="right") - 1
    return np.where((at >= 0) & (times < stop[at]), value[at], absent)
