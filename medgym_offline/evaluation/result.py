"""`Evaluation`: what came out, and everything needed to make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.config import read_json
from medgym_offline.diseases.base import Disease, Metric
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation.metrics import metrics_of
from medgym_offline.files import atomic_path, json_text, sha256_file, write_text

if TYPE_CHECKING:
    import polars as pl

__all__ = ["COLUMNS", "Evaluation", "FORMAT", "WorldResult"]

FORMAT = "medgym-evaluation/2"
RESULT, TABLE = "result.json", "result.parquet"
COLUMNS = ("method", "scope", "timing", "seed", "patient", "world", "metric", "value")
"""Of :meth:`Evaluation.table`."""

_NEEDED = {
    "policy": ("scope", "timing"), "bank": ("name", "content_hash"), "protocol": ("disease", "decisions"),
    "deviations": (), "dataset": (), "software": (), "patients": (),
}  # fmt: skip
"""Objects of a `result.json`, and what each holds at least."""

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class WorldResult:
    """Results in one world.

    Attributes:
        metrics: Mean over patients of each metric, and `*_iqm`, `*_worst_decile` of the headline ones.
        intervals: Bootstrap interval of each metric.
        per_patient: Columns of equal length: `patient` (ids) and every metric, mean over the patient's episodes.
        curves: `times`, and for `severity` and `monitored` mean, q10, q50, q90 over patients of their mean curves.
        support: Distribution of support distances (quantiles; the behavior's own); empty if not asked.
        subgroups: One row per subgroup (`medgym_offline.evaluation.subgroups`).
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_patient: dict[str, np.ndarray]
    curves: dict[str, Any]
    support: dict[str, Any] = field(default_factory=dict)
    subgroups: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self, per_patient: bool = True) -> dict[str, Any]:
        """Plain JSON values."""
        value = vars(self) | {"intervals": {k: list(v) for k, v in self.intervals.items()}}
        del value["per_patient"]
        return value | ({"per_patient": {k: v.tolist() for k, v in self.per_patient.items()}} if per_patient else {})

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], per_patient: dict[str, np.ndarray] | None = None) -> WorldResult:
        """Inverse of :meth:`to_dict`; the columns are `per_patient` where they were left out."""
        fields = {f.name: value[f.name] for f in dataclasses.fields(cls) if f.name != "per_patient"}
        fields["intervals"] = {k: (v[0], v[1]) for k, v in fields["intervals"].items()}
        own = per_patient or {k: np.array(v) for k, v in value["per_patient"].items()}
        return cls(**fields, per_patient=own)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of evaluating one policy.

    Attributes:
        name: What the policy is called in tables.
        policy: Kind, scope, timing, file hash (sha256), provenance.
        bank: Name, content hash, number of patients.
        protocol: The settings used, with every deviation applied.
        protocol_hash: SHA-256 of the protocol that was named, before deviations.
        deviations: {field: {"protocol": ..., "used": ...}}; empty when the protocol was followed.
        worlds: Results per world; the first is the one that `metrics` and its siblings show.
        dataset: Id, content hash and reference returns of the dataset of support and score, or empty.
        software: Versions.
        notes: What a reader must know to read the numbers (few seeds, one world only).
        patients: What is known of every patient at the start (`subgroups.patient_facts`).
    """

    name: str
    policy: dict[str, Any]
    bank: dict[str, Any]
    protocol: dict[str, Any]
    protocol_hash: str
    deviations: dict[str, Any]
    worlds: dict[str, WorldResult]
    dataset: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    patients: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def world(self) -> str:
        """Name of the first world."""
        return next(iter(self.worlds))

    @property
    def disease(self) -> Disease:
        """What was treated."""
        return disease(self.protocol["disease"])

    @property
    def definitions(self) -> dict[str, Metric]:
        """Every metric that can be there, in table order, with names and units."""
        return metrics_of(self.disease)

    @property
    def metrics(self) -> dict[str, float]:
        """Mean over patients of each metric, in the first world."""
        return self.worlds[self.world].metrics

    @property
    def intervals(self) -> dict[str, Interval]:
        """Bootstrap interval of each metric, in the first world."""
        return self.worlds[self.world].intervals

    @property
    def per_patient(self) -> dict[str, np.ndarray]:
        """Columns `patient` and every metric, in the first world."""
        return self.worlds[self.world].per_patient

    @property
    def curves(self) -> dict[str, Any]:
        """Severity and the monitored component over time, in the first world."""
        return self.worlds[self.world].curves

    @property
    def support(self) -> dict[str, Any]:
        """Distribution of support distances in the first world; empty without a dataset."""
        return self.worlds[self.world].support

    def table(self) -> pl.DataFrame:
        """The result as a tidy table: a row per world, metric and patient, with :data:`COLUMNS`.

        `seed` is that of the training, null if unknown. Tables of several evaluations can be stacked (`polars.concat`).
        """
        import polars as pl

        seed = (self.policy.get("provenance") or {}).get("seed")
        same = {"method": self.name, "scope": self.policy.get("scope"), "timing": self.policy.get("timing")}
        same |= {"seed": seed if type(seed) is int else None}
        schema = dict.fromkeys(COLUMNS, pl.String) | {"seed": pl.Int64, "value": pl.Float64}
        frames = [
            pl.DataFrame(
                same | {"patient": w.per_patient["patient"].tolist(), "world": world, "metric": name, "value": values},
                schema,
            )
            for world, w in self.worlds.items()
            for name, values in w.per_patient.items()
            if name != "patient"
        ]
        return pl.concat(frames)

    def to_dict(self, per_patient: bool = True) -> dict[str, Any]:
        """Plain JSON values. `metrics` and `intervals` of the first world are repeated at the top for readers.

        Args:
            per_patient: With every patient's numbers; they are the bulk.
        """
        # Worlds are a list, since JSON written with sorted keys would lose which comes first.
        worlds = [{"world": name} | result.to_dict(per_patient) for name, result in self.worlds.items()]
        first = {"metrics": worlds[0]["metrics"], "intervals": worlds[0]["intervals"]}
        return {"format": FORMAT, **vars(self), **first, "worlds": worlds, "notes": list(self.notes)}

    def to_json(self) -> str:
        """Deterministic JSON text: the same evaluation gives the same bytes."""
        return json_text(self.to_dict())

    def write(self, folder: str | Path) -> Path:
        """Write the tidy table as `result.parquet` and everything else as `result.json`; return the latter's path.

        The JSON follows `evaluation/result.schema.json` and names the table's sha256.
        """
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        with atomic_path(home / TABLE) as temporary:
            self.table().write_parquet(temporary)
        table = {"file": TABLE, "sha256": sha256_file(home / TABLE)}
        write_text(home / RESULT, json_text(self.to_dict(per_patient=False) | {"table": table}))
        return home / RESULT

    @classmethod
    def from_json(cls, source: str | Path) -> Evaluation:
        """Read an evaluation from a file of :meth:`write` (or what `eval --json` printed), or from the file's folder.

        Raises:
            ProtocolError: It is not an evaluation, or its table is missing or another.
        """
        path = Path(source) / RESULT if Path(source).is_dir() else Path(source)
        value = read_json(path, ProtocolError, "write one with `medgym-offline eval --policy ... --output DIR`")
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        if found != FORMAT:
            raise ProtocolError(f"{path} is not an evaluation result: format is {found!r}, expected {FORMAT!r}")
        try:
            for name, keys in _NEEDED.items():
                held = {**value[name]}  # a TypeError, if it is no object
                if missing := [key for key in keys if key not in held]:
                    raise KeyError(f"{name}.{missing[0]}")
            columns = _columns(path, value["table"]) if value.get("table") else {}
            worlds = {w["world"]: WorldResult.from_dict(w, columns.get(w["world"])) for w in value["worlds"]}
            fields = {f.name: value[f.name] for f in dataclasses.fields(cls)}
            made = cls(**fields | {"worlds": worlds, "notes": tuple(value["notes"])})
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ProtocolError(f"{path}: field {error} is missing or malformed; evaluate again") from None
        if not worlds:
            raise ProtocolError(f"{path}: worlds is empty; evaluate again")
        return made


def _columns(result: Path, beside: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """World -> :attr:`WorldResult.per_patient`, from the table beside a result, which says what its sha256 is."""
    import polars

    path = result.parent / TABLE
    if not path.is_file():
        raise ProtocolError(f"{result}: its table {TABLE} is not beside it; copy both files, or evaluate again")
    if sha256_file(path) != beside.get("sha256"):
        raise ProtocolError(f"{path} is not the table of {result} (its sha256 differs); evaluate again")
    found: dict[str, dict[str, np.ndarray]] = {}
    for (world, metric), rows in polars.read_parquet(path).group_by(["world", "metric"], maintain_order=True):
        columns = found.setdefault(str(world), {"patient": np.array(rows["patient"].to_list())})
        columns[str(metric)] = rows["value"].to_numpy()
    return found
