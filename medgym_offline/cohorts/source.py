"""The seam between a hospital's files and the cohort: a source reads its layout into `Records`, nothing more.

To add a layout, write one file with a class that satisfies :class:`CohortSource` and name it in
`medgym_offline.cohorts.build.SOURCES`, or in the `sources` of a disease's `CohortDefinition`. Rates, sums over drugs,
carrying forward, clipping and validation are shared and happen later (`assemble`), so that two sources cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from medgym_offline.cohorts.frames import Rejections, completed
from medgym_offline.diseases.concepts import CohortDefinition

__all__ = ["CohortSource", "Records", "event_frame", "flags_of", "provenance_of"]

_MIMIC = (
    "the open demo under ODbL 1.0; the full database under the PhysioNet Credentialed Health Data License (never "
    "redistribute the table)"
)
_LICENSES = {"mimic-iii": f"MIMIC-III: {_MIMIC}", "mimic-iv": f"MIMIC-IV: {_MIMIC}"}


@dataclass(frozen=True)
class Records:
    """Clinical events of many stays on one clock per stay: hours since admission.

    Attributes:
        dataset: Name that prefixes patient ids, for example "mimic-iii".
        stays: stay_id, subject (str), los_h, age (years), sex ("F" or "M"), weight_kg, died (bool) and the definition's
            diagnoses (bool).
        events: One row an observation or treatment: stay_id, name (of a concept or of one of its parts), t_h, end_h
            (null where nobody said), value (in the unit of the name), amount (bool: the value is a total, of the record
            or over the interval) and total (of a part: its share in the unit of the concept, where the source has it).
            `event_frame` fills in what a source has not.
        rejections: Rows the source itself turned away, by reason.
        provenance: What was read and how (JSON-able).
    """

    dataset: str
    stays: pl.DataFrame
    events: pl.DataFrame
    rejections: Rejections = field(default_factory=Rejections)
    provenance: dict[str, Any] = field(default_factory=dict)


class CohortSource(Protocol):
    """One layout of clinical files."""

    @property
    def layout(self) -> str:
        """Its name, in summaries and provenance."""

    def matches(self, path: Path) -> bool:
        """Whether the folder or file at `path` has this layout (by names only; reads nothing large)."""

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read what the definition names.

        Raises:
            CohortError: a file or column is missing; names it and the remedy.
        """


def flags_of(definition: CohortDefinition) -> tuple[str, ...]:
    """Yes-or-no attributes of a stay."""
    return (*(diagnosis.name for diagnosis in definition.diagnoses), "died")


def event_frame(*parts: pl.DataFrame) -> pl.DataFrame:
    """Events of `parts`, with every column that `Records` asks for."""
    columns = {"stay_id": pl.String, "name": pl.String, "t_h": pl.Float64, "end_h": pl.Float64, "value": pl.Float64}
    kinds = {**columns, "amount": pl.Boolean, "total": pl.Float64}
    full = [completed(part, kinds).select(*kinds).with_columns(pl.col("amount").fill_null(False)) for part in parts]
    return pl.concat([pl.DataFrame(schema=kinds), *full])


def provenance_of(layout: str, path: Path, files: Iterable[Path | None], dataset: str = "") -> dict[str, Any]:
    """What was read: layout, folder, license, and the files that there are of `files`; plain values."""
    folder = path.parent if path.is_file() else path
    names = [file.relative_to(folder).as_posix() for file in files if file is not None]
    return {"layout": layout, "folder": folder.name, "license": _license(folder, dataset), "files": names}


def _license(path: Path, dataset: str) -> str:
    """License of the data at `path`: the title of a LICENSE.txt beside it or one level up, else what is known."""
    for folder in (path, path.parent):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.is_file() and file.name.lower() in ("license", "license.txt", "licence", "licence.txt"):
                text = file.read_text(encoding="utf-8", errors="replace")[:400]
                if any(words in text for words in ("Open Database License", "ODbL", "ODC Open Database")):
                    return "ODC Open Database License v1.0 (ODbL)"
                first = next((line.strip() for line in text.splitlines() if line.strip()), "")
                if first:
                    return first[:200]
    return _LICENSES.get(dataset, "not stated: the license of the source data applies")
