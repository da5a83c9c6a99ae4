"""`Evaluation`: what came out, and everything needed to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.errors import ProtocolError
from medgym_offline.files import json_text, write_text

__all__ = ["FORMAT", "Evaluation", "WorldResult"]

FORMAT = "medgym-evaluation/1"

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class WorldResult:
    """Results in one world (own, held-out or true simulators).

    Attributes:
        metrics: Mean over patients of each metric, and `*_iqm`, `*_worst_decile` of the headline ones.
        intervals: Bootstrap interval of each metric.
        per_patient: Columns of equal length: `patient` (ids) and every metric, mean over the patient's episodes.
        curves: `hours`, and for `sofa` and `lactate` mean, q10, q50, q90 over patients of the patients' mean curves.
        support: Distribution of support distances (quantiles, histogram counts, behaviour's own); empty if not asked.
        subgroups: One row per subgroup (`medgym_offline.evaluation.subgroups`).
        transfer: Own policies against other patients' (`medgym_offline.evaluation.transfer`); empty if not asked.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_patient: dict[str, np.ndarray]
    curves: dict[str, Any]
    support: dict[str, Any] = field(default_factory=dict)
    subgroups: list[dict[str, Any]] = field(default_factory=list)
    transfer: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "metrics": dict(self.metrics),
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "per_patient": {k: v.tolist() for k, v in self.per_patient.items()},
            "curves": self.curves,
            "support": self.support,
            "subgroups": self.subgroups,
            "transfer": self.transfer,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> WorldResult:
        """Inverse of :meth:`to_dict`."""
        return cls(
            metrics=dict(value["metrics"]),
            intervals={k: (v[0], v[1]) for k, v in value["intervals"].items()},
            per_patient={k: np.array(v) for k, v in value["per_patient"].items()},
            curves=dict(value["curves"]),
            support=dict(value["support"]),
            # Results written before these two existed lack them.
            subgroups=list(value.get("subgroups", [])),
            transfer=dict(value.get("transfer", {})),
        )


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
        notes: What a reader must know to read the numbers (few seeds, no held-out world).
        patients: What is known of every patient at admission (`subgroups.patient_facts`).
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
        """SOFA and lactate over time, in the first world."""
        return self.worlds[self.world].curves

    @property
    def support(self) -> dict[str, Any]:
        """Distribution of support distances in the first world; empty without a dataset."""
        return self.worlds[self.world].support

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. `metrics` and `intervals` of the first world are repeated at the top for readers."""
        return {
            "format": FORMAT,
            "name": self.name,
            "metrics": dict(self.metrics),
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "policy": self.policy,
            "bank": self.bank,
            "protocol": self.protocol,
            "protocol_hash": self.protocol_hash,
            "deviations": self.deviations,
            # A list, since JSON written with sorted keys would lose which world comes first.
            "worlds": [{"world": name} | result.to_dict() for name, result in self.worlds.items()],
            "dataset": self.dataset,
            "software": self.software,
            "notes": list(self.notes),
            "patients": self.patients,
        }

    def to_json(self) -> str:
        """Deterministic JSON text: the same evaluation gives the same bytes."""
        return json_text(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to `path`, atomically."""
        write_text(path, self.to_json())

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], source: str = "evaluation") -> Evaluation:
        """Inverse of :meth:`to_dict`; `ProtocolError` names `source` and what is wrong."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, Mapping) else type(value).__name__
            raise ProtocolError(f"{source} is not an evaluation result: format is {found!r}, expected {FORMAT!r}")
        try:
            worlds = {w["world"]: WorldResult.from_dict(w) for w in value["worlds"]}
            if not worlds:
                raise ProtocolError(f"{source}: worlds is empty; evaluate again")
            return cls(
                name=value["name"],
                policy=dict(value["policy"]),
                bank=dict(value["bank"]),
                protocol=dict(value["protocol"]),
                protocol_hash=value["protocol_hash"],
                deviations=dict(value["deviations"]),
                worlds=worlds,
                dataset=dict(value["dataset"]),
                software=dict(value["software"]),
                notes=tuple(value["notes"]),
                patients=dict(value.get("patients", {})),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ProtocolError(f"{source}: field {error} is missing or malformed; evaluate again") from None

    @classmethod
    def from_json(cls, source: str | Path) -> Evaluation:
        """Read an evaluation from JSON text, or from the path of a file.

        Raises:
            ProtocolError: If it is not an evaluation.
        """
        text, where = str(source), "evaluation"
        if isinstance(source, Path) or not text.lstrip().startswith("{"):
            where = text
            try:
                text = Path(text).read_text(encoding="utf-8")
            except FileNotFoundError:
                remedy = "write one with `medgym-offline eval --policy ... --output DIR`"
                raise ProtocolError(f"{where}: no such result; {remedy}") from None
            except (OSError, UnicodeDecodeError) as error:
                raise ProtocolError(f"cannot read the evaluation {where}: {error}") from None
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ProtocolError(f"{where} is not JSON: {error}") from None
        return cls.from_dict(value, where)
