"""Source: the normalised clinical tables (stays, observations, vasopressors, fluids), one clock per stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.events import REPEATED_ORDERS, drop_repeated
from medgym_offline.cohorts.names import own_variables, typed_attributes
from medgym_offline.cohorts.schema import STATES, Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import collect, column_names, find_table, numbers, scan_table
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["NormalisedTables"]

_TABLES = ("stays", "observations", "vasopressors", "fluids")
#: 1 where the verbal component of the coma scale at that time was a tube's.
_TUBE = "gcs_intubated"
_NAMES = {"subject_id": "subject", "gender": "sex", "hospital_expire_flag": "died"}
_SEPSIS = ("sepsis_icd9_explicit", "sepsis_icd_explicit", "sepsis")


class NormalisedTables:
    """`stays`, `observations`, `vasopressors`, `fluids` in one folder.

    Columns: stays `stay_id, subject_id, los_h, age, gender, weight_kg, hospital_expire_flag` and a sepsis flag;
    observations `stay_id, var, t_h, value`; vasopressors `stay_id, t0_h, t1_h, neq`; fluids `stay_id, t0_h, t1_h, ml`.
    """

    layout = "normalised tables"

    def matches(self, path: Path) -> bool:
        """Whether all four tables lie in the folder `path`."""
        return path.is_dir() and all(find_table(path, name) is not None for name in _TABLES)

    def read(self, path: Path) -> Records:
        """Read the four tables of folder `path`.

        Raises:
            CohortError: a table or column is missing.
        """
        pl = require_polars()
        rejections = Rejections()
        stays, dataset = _read_stays(path, rejections)
        observed = scan_table(path, "observations", ("stay_id", "var", "t_h", "value"))
        counts = dict(collect(observed.group_by("var").len(), path / "observations").iter_rows())
        counts.pop(_TUBE, None)
        own = own_variables(counts, path / "observations", rejections)
        for name in sorted(name for name, meant in own.items() if meant not in (*STATES, "fio2")):
            rejections.reject(f"{own.pop(name)}: a treatment among the observations", counts[name])
        own[_TUBE] = _TUBE
        observations = collect(
            observed.filter(pl.col("var").is_in(list(own)))
            .with_columns(numbers("t_h", "value"))
            .select("stay_id", "t_h", "value", pl.col("var").replace(own).alias("variable"), pl.col("^.*[|].*$")),
            path / "observations",
        )
        tube = pl.col("variable") == _TUBE
        reason = "gcs: of an intubated patient, summed with 1 for the verbal response"
        rejections.doubt(reason, observations.select((tube & (pl.col("value") > 0.0)).sum()).item())
        observations = observations.filter(~tube)
        drugs = scan_table(path, "vasopressors", ("stay_id", "t0_h", "t1_h", "neq"), optional=("drug", "dose"))
        numeric = [c for c in ("t0_h", "t1_h", "neq", "dose") if c in drugs.collect_schema().names()]
        vasopressors = collect(drugs.with_columns(numbers(*numeric)), path / "vasopressors")
        volumes = scan_table(path, "fluids", ("stay_id", "t0_h", "t1_h", "ml"), optional=("itemid",))
        fluids = collect(volumes.with_columns(numbers("t0_h", "t1_h", "ml")), path / "fluids")
        return Records(
            dataset=dataset,
            stays=stays,
            observations=drop_repeated(observations, rejections, "observations"),
            vasopressors=drop_repeated(vasopressors, rejections, "vasopressor"),
            fluids=drop_repeated(fluids, rejections, "fluids", tolerated=REPEATED_ORDERS),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.name,
                "licence": dataset_licence(path, dataset),
                "files": [found.name for name in _TABLES if (found := find_table(path, name)) is not None],
            },
        )


def _read_stays(path: Path, rejections: Rejections) -> tuple[pl.DataFrame, str]:
    base = ("stay_id", "subject_id", "los_h", "age", "gender", "weight_kg", "hospital_expire_flag")
    sepsis, frame = _sepsis_column(path, base)
    stays = typed_attributes(collect(frame.rename({**_NAMES, sepsis: "sepsis"}), path / "stays"), path, rejections)
    found = re.search(r"mimic-(iii|iv)", path.resolve().name.lower())
    if found:
        dataset = found.group(0)
    elif sepsis == "sepsis_icd9_explicit":
        dataset = "mimic-iii"
    elif sepsis == "sepsis_icd_explicit":
        dataset = "mimic-iv"
    else:
        dataset = re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-") or "cohort"
    return stays, dataset


def _sepsis_column(path: Path, base: tuple[str, ...]) -> tuple[str, pl.LazyFrame]:
    table = find_table(path, "stays")
    names = column_names(table) if table is not None else set()
    for column in _SEPSIS:
        if column in names:
            return column, scan_table(path, "stays", (*base, column))
    raise CohortError(f"{table}: no sepsis flag; add a column {_SEPSIS[-1]!r} of 0 and 1")
