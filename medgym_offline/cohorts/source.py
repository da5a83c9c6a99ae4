"""The seam between a hospital's files and the cohort: a source reads its layout into `Records`, nothing more.

To add a layout, write one file with a class that satisfies :class:`CohortSource` and name it in
`medgym_offline.cohorts.build.SOURCES`. Rates, equivalents over drugs, carrying forward, clipping and validation
are shared and happen later (`assemble`), so that two sources cannot disagree about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medgym_offline.cohorts.schema import Rejections

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CohortSource", "Records", "dataset_licence"]

_LICENCES = {
    "mimic-iii": "MIMIC-III: the open demo under ODbL 1.0; the full database under the PhysioNet Credentialed Health "
    "Data Licence (never redistribute the table)",
    "mimic-iv": "MIMIC-IV: the open demo under ODbL 1.0; the full database under the PhysioNet Credentialed Health "
    "Data Licence (never redistribute the table)",
}


@dataclass(frozen=True)
class Records:
    """Clinical events of many stays on one clock per stay: hours since ICU admission.

    Attributes:
        dataset: Name that prefixes patient ids, for example "mimic-iii".
        stays: stay_id, subject (str), los_h, age (years), sex ("F" or "M"), weight_kg, sepsis (bool), died (bool).
        observations: stay_id, variable, t_h, value. `urine` is mL per record (`urine_rate`: mL/day, where a source
            charts rates), `fio2` % as charted, GCS the sum. Optional `t1_h`: when an oxygen setting ended, null where
            nobody said (it then holds as `intervals.hold_settings` says).
        vasopressors: stay_id, t0_h, t1_h, neq (norepinephrine equivalents, mcg/kg/min), one row a drug and interval.
        fluids: stay_id, t0_h, t1_h, ml (volume given over the interval).
        rejections: Rows the source itself turned away, by reason.
        provenance: What was read and how (JSON-able).
    """

    dataset: str
    stays: pl.DataFrame
    observations: pl.DataFrame
    vasopressors: pl.DataFrame
    fluids: pl.DataFrame
    rejections: Rejections = field(default_factory=Rejections)
    provenance: dict[str, Any] = field(default_factory=dict)


class CohortSource(Protocol):
    """One layout of clinical files."""

    layout: str

    def matches(self, path: Path) -> bool:
        """Whether the folder or file at `path` has this layout (by names only; reads nothing large)."""
        ...

    def read(self, path: Path) -> Records:
        """Read it.

        Raises:
            CohortError: a file or column is missing; names it and the remedy.
        """
        ...


def dataset_licence(path: Path, dataset: str) -> str:
    """Licence of the data at `path`: the title of a LICENSE.txt beside it or one level up, else what is known."""
    for folder in (path, path.parent):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.is_file() and file.name.lower() in ("license", "license.txt", "licence", "licence.txt"):
                text = file.read_text(encoding="utf-8", errors="replace")[:400]
                if "Open Database License" in text or "ODbL" in text or "ODC Open Database" in text:
                    return "ODC Open Database License v1.0 (ODbL)"
                first = next((line.strip() for line in text.splitlines() if line.strip()), "")
                if first:
                    return first[:200]
    return _LICENCES.get(dataset, "not stated: the licence of the source data applies")
