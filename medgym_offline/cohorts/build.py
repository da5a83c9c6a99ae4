"""Clinical files in, one cohort table out: what `medgym-offline cohort build` does.

Which stays make a release cohort is a written coverage rule, applied in code, the same for every source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgym_offline.cohorts.assemble import assemble
from medgym_offline.cohorts.cohort import Cohort, combine
from medgym_offline.cohorts.long_table import LongTable
from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.cohorts.mimic import MIMIC_III, MIMIC_IV
from medgym_offline.cohorts.source import CohortSource, Rejections
from medgym_offline.cohorts.tables import table_files, unread_files
from medgym_offline.cohorts.validate import ObservationFlags, observation_flags
from medgym_offline.diseases.concepts import CohortDefinition
from medgym_offline.errors import CohortError

__all__ = ["SOURCES", "build_cohort", "coverage", "detect_source", "read_source", "select_stays"]


@dataclass(frozen=True)
class Coverage:
    """Coverage and severity of each stay, in the order of the grid's patients.

    Attributes:
        eligible: (P,) bool: long enough, and the required variables covered.
        covered: (P,) variables covered.
        severity: (P,) points of the definition's rule.
        rare: (P,) capped number of hourly values of rare variables.
    """

    eligible: np.ndarray
    covered: np.ndarray
    severity: np.ndarray
    rare: np.ndarray


def coverage(cohort: Cohort) -> Coverage:
    """Coverage and severity of every stay of `cohort` by the rule of its definition (`Selection`)."""
    grid, rule, names = cohort.to_grid(), cohort.definition.selection, cohort.definition.observed
    counts = grid.mask.sum(axis=1)
    enough = counts >= np.array([rule.fewer.get(name, rule.enough) for name in names])
    severity = np.zeros(len(grid), np.int64) if rule.severity is None else rule.severity(cohort.stays, grid)
    always = enough[:, [names.index(name) for name in rule.required]].all(axis=1)
    rare = np.minimum(counts[:, [names.index(name) for name in rule.rare]], rule.cap).sum(axis=1)
    long = cohort.stays["los_h"].to_numpy() >= rule.minimum_hours
    return Coverage(always & long, enough.sum(axis=1), severity, rare)


def select_stays(cohort: Cohort, patients: int = 110, one_per_subject: bool | None = None) -> Cohort:
    """The `patients` best-covered stays by the rule of the definition.

    Args:
        cohort: Usually several sources combined.
        patients: How many stays.
        one_per_subject: Take each person's best stay only, so that nobody can be in two roles. None: do so when
            enough people are eligible, else fill up with further stays; the metadata record which.

    Raises:
        CohortError: fewer stays are eligible than asked for.
    """
    found, rule = coverage(cohort), cohort.definition.selection
    names, subjects = cohort.patients, cohort.subjects
    ranks = list(zip(-found.covered, -found.severity, -found.rare, names))
    ranked = sorted(np.flatnonzero(found.eligible).tolist(), key=ranks.__getitem__)
    best: dict[str, int] = {}
    for row in ranked:
        best.setdefault(subjects[row], row)
    single = one_per_subject if one_per_subject is not None else len(best) >= patients
    pool = list(best.values()) if single else ranked
    if patients < 1 or len(pool) < patients:
        raise CohortError(
            f"cohort selection: {patients} stays asked for, {len(pool)} eligible (LOS >= {rule.minimum_hours:g} h with "
            f"{', '.join(rule.required)}{'; one stay a person' if single else ''}); ask for between 1 and {len(pool)} "
            "or add a source"
        )
    chosen = pool[:patients]
    out = cohort.select([names[row] for row in chosen])
    out.metadata["selection"] = {
        "rule": rule.rule,
        "one_stay_per_subject": bool(single),
        "eligible_stays": len(ranked),
        "eligible_subjects": len(best),
        "stays": patients,
        "subjects": len({subjects[row] for row in chosen}),
        "considered_stays": len(cohort),
    }
    return out


#: Layouts known, in the order they are tried after a definition's own. A new one is a class in its own file and a line.
SOURCES: tuple[CohortSource, ...] = (MIMIC_III, MIMIC_IV, LongTable(), MedsEvents())


@dataclass(frozen=True)
class CohortSummary:
    """What a build did.

    Attributes:
        path: The table written.
        stays: Stays in it.
        subjects: People in it.
        rows: Rows of each variable.
        layouts: Layout detected for each source path.
        rejections: Counts by reason.
        selection: How stays were chosen, None when all were kept.
        flags: What the cohort does not know about its stays.
    """

    path: Path
    stays: int
    subjects: int
    rows: dict[str, int]
    layouts: dict[str, str]
    rejections: Rejections
    selection: dict[str, Any] | None
    flags: ObservationFlags

    def lines(self) -> list[str]:
        """The summary as lines of text."""
        out = [f"{source}: {layout}" for source, layout in self.layouts.items()]
        rows = ", ".join(f"{name} {count}" for name, count in self.rows.items())
        out.append(f"{self.stays} stays of {self.subjects} people; {rows}")
        if chosen := self.selection:
            share = "one stay a person" if chosen["one_stay_per_subject"] else "several stays of some people"
            eligible = f"({chosen['eligible_stays']} eligible), {share}"
            out.append(f"chosen from {chosen['considered_stays']} stays {eligible}")
        return [*out, *self.flags.lines(), *self.rejections.lines(), f"written to {self.path}"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "path": str(self.path)}


def detect_source(path: Path, definition: CohortDefinition) -> CohortSource | None:
    """The layout at `path`; None for a cohort table, which is what a Parquet file of no other layout is taken for.

    Raises:
        CohortError: nothing there, or no known layout.
    """
    if not path.exists():
        raise CohortError(f"{path}: no such folder or file; give the folder that holds the clinical tables")
    for source in (*definition.sources, *SOURCES):
        if source.matches(path):
            return source
    if path.is_file() and path.suffix.lower() == ".parquet":
        return None
    held = sorted(file.name for files in table_files(path).values() for file in files) if path.is_dir() else []
    names = f" (it holds {', '.join(held[:5])}{', ...' if len(held) > 5 else ''})" if held else ""
    own = "".join(f"{source.layout}, " for source in definition.sources)
    raise CohortError(
        f"{path}: no known layout{names}; expected the raw MIMIC-III tables (ICUSTAYS, CHARTEVENTS, ...), the raw "
        f"MIMIC-IV tables (icu/, hosp/), MEDS events, {own}or a long table (columns stay, time, variable, value, "
        "unit); docs/cohorts.md describes each"
    )


def read_source(path: str | Path, definition: CohortDefinition) -> Cohort:
    """The validated cohort of one source: a folder of a known layout, or a Parquet cohort table.

    Raises:
        CohortError: unknown layout or a structural fault.
    """
    path = Path(path)
    source = detect_source(path, definition)
    if source is None:
        return Cohort.read(path, definition)
    records = source.read(path, definition)
    if path.is_dir():
        unread = unread_files(path, records.provenance.get("files", ()))
        records.rejections.files.update(dict.fromkeys(unread, f"no table of the layout {source.layout!r}"))
    return assemble(records, definition)


def build_cohort(
    source_paths: Sequence[Path], output: Path, definition: CohortDefinition, patients: int | None = None
) -> CohortSummary:
    """Read every source, combine, choose stays, write one Parquet table.

    Args:
        source_paths: Folders (layout detected) or cohort tables.
        output: Parquet file to write, whole or not at all.
        definition: What the cohort holds: `medgym_offline.diseases.<name>.cohort.COHORT`.
        patients: Choose this many stays by the coverage rule; None keeps all.

    Raises:
        CohortError: see `read_source`, `combine`, `select_stays`.
    """
    if not source_paths:
        raise CohortError("cohort build: no source named; give at least one folder of clinical tables")
    found = {str(path): detect_source(Path(path), definition) for path in source_paths}
    cohort = combine([read_source(path, definition) for path in source_paths])
    if patients is not None:
        cohort = select_stays(cohort, patients)
    if not len(cohort):
        reasons = "; ".join(cohort.rejections.lines()[:3])
        raise CohortError(f"{source_paths[0]}: no stay with two observations is left; {reasons}")
    # Names, not places: where the data lie on one machine says nothing to another.
    words = [*(Path(path).name for path in source_paths), *([] if patients is None else [f"--patients {patients}"])]
    cohort.metadata["command"] = f"medgym-offline cohort build {' '.join(words)} --output {Path(output).name}"
    flags = observation_flags(cohort.to_grid(), definition)
    cohort.write(output)
    counts = dict(cohort.table.group_by("variable").agg(pl.len()).iter_rows())
    rows = {name: counts.get(name, 0) for name in definition.concepts}
    layouts = {path: "cohort table" if source is None else source.layout for path, source in found.items()}
    people, chosen = len(set(cohort.subjects)), cohort.metadata.get("selection")
    return CohortSummary(Path(output), len(cohort), people, rows, layouts, cohort.rejections, chosen, flags)
