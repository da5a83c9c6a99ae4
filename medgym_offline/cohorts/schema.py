"""The cohort table: its columns, variables, units and ranges, and the numbers every adapter shares.

Nothing here needs polars; :func:`require_polars` imports it when a function is called that does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

    import polars as pl

__all__ = [
    "COLUMNS",
    "CONVERSIONS",
    "FIO2_HOLD_HOURS",
    "FLUIDS_MIN_HOURS",
    "FORMAT",
    "INSENSIBLE_LITRES_PER_HOUR",
    "LOOKBACK_HOURS",
    "RANGES",
    "REQUIRED_COLUMNS",
    "ROOM_AIR",
    "STATES",
    "STAY_RANGES",
    "STAY_COLUMNS",
    "TREATMENTS",
    "UNITS",
    "URINE_CAP",
    "URINE_MAX_GAP_HOURS",
    "URINE_MERGE_HOURS",
    "URINE_RECORD_ML",
    "USUAL_MEDIANS",
    "VARIABLES",
    "VASOPRESSOR_TABLE",
    "Rejections",
    "require_polars",
]

FORMAT = "medgym-cohort/1"

STATES = ("spo2", "pao2", "bilirubin", "gcs", "urine", "lactate")
TREATMENTS = ("fio2", "vasopressor", "fluids")
VARIABLES = STATES + TREATMENTS

COLUMNS = ("patient", "time_h", "end_h", "variable", "value", "source")
REQUIRED_COLUMNS = ("patient", "time_h", "end_h", "variable", "value")
STAY_COLUMNS = ("patient", "dataset", "stay_id", "subject", "los_h", "age", "sex", "weight_kg", "sepsis", "died")

UNITS: dict[str, str] = {
    "spo2": "%",
    "pao2": "mmHg",
    "bilirubin": "mg/dL",
    "gcs": "points",
    "urine": "mL/day",
    "lactate": "mmol/L",
    "fio2": "%",
    "vasopressor": "mcg/kg/min",
    "fluids": "mL/h",
}

#: Units a table may declare instead, as a factor to ours. `fio2` as a fraction is repaired by value, row by row.
CONVERSIONS: dict[tuple[str, str], float] = {
    ("spo2", "fraction"): 100.0,
    ("pao2", "kPa"): 7.50062,
    ("bilirubin", "umol/L"): 1.0 / 17.104,
    ("urine", "mL/h"): 24.0,
    ("urine", "L/day"): 1000.0,
    ("lactate", "mg/dL"): 1.0 / 9.008,
    ("fio2", "fraction"): 1.0,
    ("vasopressor", "ug/kg/min"): 1.0,
    ("fluids", "L/h"): 1000.0,
    ("fluids", "mL/day"): 1.0 / 24.0,
}

#: Values outside are impossible, or artefacts (SpO2 of 0 is a probe off the finger), and rejected.
RANGES: dict[str, tuple[float, float]] = {
    "spo2": (20.0, 100.0),
    "pao2": (20.0, 700.0),
    "bilirubin": (0.05, 80.0),
    "gcs": (3.0, 15.0),
    "urine": (0.0, 5000.0),
    "lactate": (0.1, 40.0),
    "fio2": (21.0, 100.0),
    "vasopressor": (0.0, 20.0),
    "fluids": (0.0, 60000.0),
}

#: Where the median of a whole cohort's values (treatments: while given) lies; outside it, the unit is in question.
USUAL_MEDIANS: dict[str, tuple[float, float]] = {
    "spo2": (85.0, 100.0),
    "pao2": (45.0, 400.0),
    "bilirubin": (0.1, 12.0),
    "gcs": (3.0, 15.0),
    "urine": (200.0, 4500.0),
    "lactate": (0.4, 9.0),
    "fio2": (21.0, 100.0),
    "vasopressor": (0.003, 3.0),
    "fluids": (4.0, 2500.0),
}

#: Age in years and weight in kg outside are no adult's, and left empty.
STAY_RANGES: dict[str, tuple[float, float]] = {"age": (0.0, 120.0), "weight_kg": (20.0, 400.0)}

#: How long before admission a value still describes the patient at admission. Laboratory values, blood gases, the
#: coma scale and the oxygen setting last for hours; a saturation or a urine volume from before is another place's.
LOOKBACK_HOURS: dict[str, float] = {
    "spo2": 0.0,
    "pao2": 6.0,
    "bilirubin": 6.0,
    "gcs": 6.0,
    "urine": 0.0,
    "lactate": 6.0,
    "fio2": 6.0,
    "vasopressor": 6.0,
    "fluids": 6.0,
}

ROOM_AIR = 21.0
#: A charted oxygen setting holds until the next one, at most this long, then room air. Charted gaps have median
#: 3 h and 95th percentile 6 h, so 12 h bridges every real gap and ends an extubated patient's last setting.
FIO2_HOLD_HOURS = 12.0

URINE_CAP = 5000.0
#: A record of so many mL, or a charted rate of so many mL/h, is a mistake (mimic-code's limit): another unit, or a sum.
URINE_RECORD_ML = 5000.0
URINE_MERGE_HOURS = 0.75
URINE_MAX_GAP_HOURS = 12.0
#: A bolus charted over a minute is spread over a quarter of an hour; its volume stays.
FLUIDS_MIN_HOURS = 0.25
INSENSIBLE_LITRES_PER_HOUR = 0.04

VASOPRESSOR_TABLE = (
    "Goradia 2020 (used by mimic-code): norepinephrine x 1, epinephrine x 1, phenylephrine / 10, dopamine / 100 "
    "(mcg/kg/min), vasopressin (U/min) x 2.5"
)


@dataclass
class Rejections:
    """What did not reach the table as it was: every such row, stay and file is counted here under a reason.

    Attributes:
        rows: Rows rejected, by reason.
        repairs: Rows changed and kept, by reason.
        doubts: Rows kept as they are that may not mean what they say, by reason.
        stays: Stays rejected whole, id -> reason.
        files: Files not read, name -> reason.
    """

    rows: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    doubts: dict[str, int] = field(default_factory=dict)
    stays: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def reject(self, reason: str, count: int) -> None:
        """Count `count` rows rejected for `reason` (nothing when zero)."""
        _count(self.rows, reason, count)

    def repair(self, reason: str, count: int) -> None:
        """Count `count` rows repaired for `reason` (nothing when zero)."""
        _count(self.repairs, reason, count)

    def doubt(self, reason: str, count: int) -> None:
        """Count `count` rows kept, but doubted for `reason` (nothing when zero)."""
        _count(self.doubts, reason, count)

    def drop(self, frame: pl.DataFrame, bad: pl.Expr, reason: str | pl.Expr) -> pl.DataFrame:
        """`frame` without the rows where `bad` holds (null: it does not), each counted under `reason`.

        Args:
            frame: Any frame.
            bad: Condition over its columns.
            reason: Text, or an expression of text where it differs from row to row.
        """
        pl = require_polars()
        words = pl.lit(reason) if isinstance(reason, str) else reason
        turned = frame.filter(bad.fill_null(False)).group_by(words.alias("reason")).len().sort("reason")
        for text, count in turned.iter_rows():
            self.reject(text, count)
        return frame.filter(~bad.fill_null(False))

    def add(self, other: Rejections) -> None:
        """Add the counts of `other`."""
        for mine, theirs in zip(self._counts(), other._counts()):
            for reason, count in theirs.items():
                _count(mine, reason, count)
        self.stays.update(other.stays)
        self.files.update(other.files)

    def lines(self) -> list[str]:
        """One line a reason, largest first; stays and files after rows, at most ten of each named."""
        out = [
            f"{count} rows {words}: {why}"
            for words, reasons in (("doubted", self.doubts), ("rejected", self.rows), ("repaired", self.repairs))
            for why, count in sorted(reasons.items(), key=lambda item: -item[1])
        ]
        for words, named in (("stays rejected", self.stays), ("files not read", self.files)):
            by_reason: dict[str, list[str]] = {}
            for name, why in sorted(named.items()):
                by_reason.setdefault(why, []).append(name)
            for why, names in by_reason.items():
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                out.append(f"{len(names)} {words}: {why}: {', '.join(names[:10])}{more}")
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, for the metadata of a table."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rejections:
        """Inverse of :meth:`to_json`."""
        return cls(**{part.name: dict(data.get(part.name, {})) for part in fields(cls)})

    def _counts(self) -> tuple[dict[str, int], ...]:
        return self.rows, self.repairs, self.doubts


def _count(counts: dict[str, int], reason: str, count: int) -> None:
    if count:
        counts[reason] = counts.get(reason, 0) + int(count)


def require_polars() -> ModuleType:
    """The polars module.

    Raises:
        MissingExtraError: polars is not installed (extra `cohort`).
    """
    try:
        import polars
    except ImportError as error:
        raise MissingExtraError.of("polars", "cohort", "Reading clinical records") from error
    return polars
