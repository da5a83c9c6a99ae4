"""The per-patient table of an evaluation as files: CSV for people, Parquet for programs."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

from medgym_offline.evaluation.result import Evaluation
from medgym_offline.files import atomic_path, write_text

__all__ = ["patient_columns", "write_patient_tables"]


def patient_columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    """A row per world and patient: `world`, `patient`, what is known at admission, and every metric.

    A metric that a world lacks is None there.
    """
    facts = {k: v for k, v in evaluation.patients.items() if k != "patient"}
    place = {p: i for i, p in enumerate(evaluation.patients.get("patient", ()))}
    metrics = list(dict.fromkeys(k for w in evaluation.worlds.values() for k in w.per_patient if k != "patient"))
    columns: dict[str, list[Any]] = {name: [] for name in ("world", "patient", *facts, *metrics)}
    for world, result in evaluation.worlds.items():
        ids = [str(p) for p in result.per_patient["patient"]]
        columns["world"] += [world] * len(ids)
        columns["patient"] += ids
        for name, values in facts.items():
            columns[name] += [values[place[p]] if p in place else None for p in ids]
        for name in metrics:
            found = result.per_patient.get(name)
            columns[name] += [None] * len(ids) if found is None else [float(v) for v in found]
    return columns


def write_patient_tables(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write `patients.csv`, and `patients.parquet` where pyarrow is installed; each atomically. Returns the paths."""
    home, columns = Path(folder), patient_columns(evaluation)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    written = [home / "patients.csv"]
    write_text(written[0], text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = home / "patients.parquet"
        with atomic_path(target) as temporary:
            pq.write_table(pa.table(columns), temporary)
        written.append(target)
    return written
