"""Source: normalized tables of the MIMIC demos (stays, observations, vasopressors, fluids), one clock per stay."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from medgym_offline.cohorts.long_table import dataset_name
from medgym_offline.cohorts.meds import REPEATED_ORDERS
from medgym_offline.cohorts.names import own_variables, typed_attributes
from medgym_offline.cohorts.source import Records, Rejections, completed, event_frame, provenance_of
from medgym_offline.cohorts.tables import collect, column_names, find_table, read_table, scan_table, typed
from medgym_offline.diseases.concepts import CohortDefinition
from medgym_offline.errors import CohortError

__all__ = ["NormalizedTables"]

_TABLES = ("stays", "observations", "vasopressors", "fluids")
#: 1 where the verbal component of the coma scale at that time was a tube's.
_TUBE = "gcs_intubated"
_STAYS = ("stay_id", "subject_id", "los_h", "age", "gender", "weight_kg", "hospital_expire_flag")
_NAMES = {"subject_id": "subject", "gender": "sex", "hospital_expire_flag": "died"}
#: Column of the sepsis flag -> dataset, where the folder does not name it.
_SEPSIS = {"sepsis_icd9_explicit": "mimic-iii", "sepsis_icd_explicit": "mimic-iv", "sepsis": None}


class NormalizedTables:
    """`stays`, `observations`, `vasopressors`, `fluids` in one folder.

    Columns: stays `stay_id, subject_id, los_h, age, gender, weight_kg, hospital_expire_flag` and a sepsis flag;
    observations `stay_id, var, t_h, value`; vasopressors `stay_id, t0_h, t1_h, neq`; fluids `stay_id, t0_h, t1_h, ml`.
    """

    layout = "normalized tables"

    def matches(self, path: Path) -> bool:
        """Whether all four tables lie in the folder `path`."""
        return path.is_dir() and all(find_table(path / name) is not None for name in _TABLES)

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read the four tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        rejections = Rejections()
        stays, dataset = _read_stays(path, rejections)
        orders, hours = ("stay_id", "t0_h", "t1_h"), {"t0_h": "t_h", "t1_h": "end_h"}
        drugs = collect(scan_table(path / "vasopressors", (*orders, "neq"), ("drug", "dose")), path / "vasopressors")
        drugs = completed(drugs, dict.fromkeys(("drug", "dose"), pl.String))
        doses = typed(drugs, path / "vasopressors", numeric=(*hours, "neq", "dose"))
        parts = [part.name for part in definition.concepts["vasopressor"].parts]
        named = pl.col("drug").is_in(parts) & pl.col("dose").is_not_null()
        doses = rejections.distinct(doses, "vasopressor").with_columns(
            name=pl.when(named).then("drug").otherwise(pl.lit("vasopressor")),
            value=pl.when(named).then("dose").otherwise("neq"),
        )
        volumes = scan_table(path / "fluids", (*orders, "ml"), ("itemid",))
        fluids = typed(volumes, path / "fluids", numeric=(*hours, "ml"))
        fluids = rejections.distinct(fluids, "fluids", tolerated=REPEATED_ORDERS)
        events = event_frame(
            _observations(path, definition, rejections),
            doses.rename({**hours, "neq": "total"}),
            fluids.rename({**hours, "ml": "value"}).with_columns(name=pl.lit("fluids"), amount=pl.lit(True)),
        )
        files = [find_table(path / name) for name in _TABLES]
        return Records(dataset, stays, events, rejections, provenance_of(self.layout, path, files, dataset))


def _observations(path: Path, definition: CohortDefinition, rejections: Rejections) -> pl.DataFrame:
    where = path / "observations"
    observed = scan_table(where, ("stay_id", "var", "t_h", "value"))
    counts = dict(collect(observed.group_by("var").len(), where).iter_rows())
    counts.pop(_TUBE, None)
    own = own_variables(counts, definition, where, rejections)
    for name in sorted(n for n, meant in own.items() if definition.owner[meant].gridding == "infusion"):
        rejections.reject(f"{own.pop(name)}: a treatment among the observations", counts[name])
    own[_TUBE] = _TUBE
    mine = observed.filter(pl.col("var").is_in(list(own))).with_columns(name=pl.col("var").replace(own)).drop("var")
    rows = typed(mine, where, numeric=["t_h", "value"])
    tube = pl.col("name") == _TUBE
    reason = "gcs: of an intubated patient, summed with 1 for the verbal response"
    rejections.doubt(reason, rows.select((tube & (pl.col("value") > 0.0)).sum()).item())
    return rejections.distinct(rows.filter(~tube), "observations").with_columns(amount=pl.col("name") == "urine")


def _read_stays(path: Path, rejections: Rejections) -> tuple[pl.DataFrame, str]:
    table = find_table(path / "stays")
    names = column_names(table) if table is not None else set()
    flag = next((column for column in _SEPSIS if column in names), None)
    if flag is None:
        raise CohortError(f"{table}: no sepsis flag; add a column 'sepsis' of 0 and 1")
    frame = read_table(path / "stays", (*_STAYS, flag)).rename({**_NAMES, flag: "sepsis"})
    named = re.search(r"mimic-(iii|iv)", path.resolve().name.lower())
    dataset = named.group(0) if named else _SEPSIS[flag] or dataset_name(path.resolve().name, "cohort")
    return typed_attributes(frame, ("sepsis", "died"), path, rejections), dataset
