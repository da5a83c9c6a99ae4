"""Clinical files in, one cohort table out: what `medgym-offline cohort build` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medgym_offline.cohorts.assemble import assemble
from medgym_offline.cohorts.cohort import Cohort, combine
from medgym_offline.cohorts.frames import Rejections
from medgym_offline.cohorts.long_table import LongTable
from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.cohorts.mimic import MIMIC_III, MIMIC_IV
from medgym_offline.cohorts.plausible import ObservationFlags, observation_flags
from medgym_offline.cohorts.selection import select_stays
from medgym_offline.cohorts.source import CohortSource
from medgym_offline.cohorts.tables import table_files, unread_files
from medgym_offline.diseases.concepts import CohortDefinition
from medgym_offline.errors import CohortError

__all__ = ["SOURCES", "CohortSummary", "build_cohort", "detect_source", "read_source"]

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
        out.append(
            f"{self.stays} stays of {self.subjects} people; " + ", ".join(f"{k} {v}" for k, v in self.rows.items())
        )
        if self.selection:
            chosen = self.selection
            out.append(
                f"chosen from {chosen['considered_stays']} stays ({chosen['eligible_stays']} eligible), "
                + ("one stay a person" if chosen["one_stay_per_subject"] else "several stays of some people")
            )
        return [*out, *self.flags.lines(), *self.rejections.lines(), f"written to {self.path}"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "path": str(self.path)}


def detect_source(path: Path, definition: CohortDefinition) -> CohortSource:
    """The layout of the files at `path`.

    Raises:
        CohortError: nothing there, or no known layout.
    """
    if not path.exists():
        raise CohortError(f"{path}: no such folder or file; give the folder that holds the clinical tables")
    for source in (*definition.sources, *SOURCES):
        if source.matches(path):
            return source
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
    return _read(path, _source_of(path, definition), definition)


def _read(path: Path, source: CohortSource | None, definition: CohortDefinition) -> Cohort:
    if source is None:
        return Cohort.read(path, definition)
    records = source.read(path, definition)
    if path.is_dir():
        unread = unread_files(path, records.provenance.get("files", ()))
        records.rejections.files.update(dict.fromkeys(unread, f"no table of the layout {source.layout!r}"))
    return assemble(records, definition)


def _source_of(path: Path, definition: CohortDefinition) -> CohortSource | None:
    """The layout at `path`; None for a cohort table, which is what a Parquet file of no other layout is taken for."""
    if path.is_file() and path.suffix.lower() == ".parquet":
        return next((source for source in (*definition.sources, *SOURCES) if source.matches(path)), None)
    return detect_source(path, definition)


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
    found = [(Path(path), _source_of(Path(path), definition)) for path in source_paths]
    layouts = {str(path): "cohort table" if source is None else source.layout for path, source in found}
    cohort = combine([_read(path, source, definition) for path, source in found])
    if patients is not None:
        cohort = select_stays(cohort, patients)
    if not len(cohort):
        raise CohortError(
            f"{found[0][0]}: no stay with two observations is left; {'; '.join(cohort.rejections.lines()[:3])}"
        )
    # Names, not places: where the data lie on one machine says nothing to another.
    words = [*(path.name for path, _ in found), *([] if patients is None else ["--patients", str(patients)])]
    cohort.metadata["command"] = f"medgym-offline cohort build {' '.join(words)} --output {Path(output).name}"
    flags = observation_flags(cohort.to_grid(), definition)
    cohort.write(output)
    counts = dict(cohort.table.group_by("variable").agg(pl.len()).iter_rows())
    return CohortSummary(
        path=Path(output),
        stays=len(cohort),
        subjects=len(set(cohort.subjects)),
        rows={name: counts.get(name, 0) for name in definition.concepts},
        layouts=layouts,
        rejections=cohort.rejections,
        selection=cohort.metadata.get("selection"),
        flags=flags,
    )
