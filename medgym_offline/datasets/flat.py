"""The flat cache: every column of `Transitions` as one `.npy` file, memory-mapped on load.

Minari's episode-per-group layout takes seconds to read; these files take milliseconds. They are named by the
content hash and can always be rebuilt from the HDF5 file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.registry import disease, list_diseases
from medgym_offline.diseases.views import FULL
from medgym_offline.errors import DatasetError

__all__ = ["ContentHash", "disease_of", "flat_name", "read_flat", "transitions_of", "write_flat"]


class ContentHash:
    """SHA-256 of the bytes of a dataset's columns, streamed in row order.

    Equal hashes mean the very same rows. Unequal ones need not mean other data: a value beside the middle of two
    float32 numbers can be rounded either way on another processor (see :mod:`.fingerprint`).
    """

    def __init__(self) -> None:
        self._columns = {name: hashlib.sha256() for name in COLUMNS}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._rows = 0

    def update(self, columns: dict[str, np.ndarray]) -> None:
        """Add the next rows."""
        for name, kind in COLUMNS.items():
            array = np.ascontiguousarray(columns[name], dtype=np.dtype(kind).newbyteorder("<"))
            self._columns[name].update(array.tobytes())
            self._shapes[name] = array.shape[1:]
        self._rows += len(columns["rewards"])

    def hexdigest(self, **meaning: Any) -> str:
        """Hash of the rows so far and of what gives them meaning (patients, timing, decisions)."""
        parts: dict[str, Any] = {name: digest.hexdigest() for name, digest in self._columns.items()}
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        parts |= {"rows": self._rows, "shapes": shapes, "meaning": meaning}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def flat_name(content_hash: str) -> str:
    """Name of the folder of the flat cache of a dataset with this content."""
    return f"flat-{content_hash[:16]}"


def write_flat(folder: str | Path, columns: dict[str, np.ndarray]) -> None:
    """Write the flat cache of the rows of a dataset into a new folder."""
    Path(folder).mkdir(parents=True)
    for name, kind in COLUMNS.items():
        np.save(Path(folder) / f"{name}.npy", columns[name].astype(kind, copy=False))


def read_flat(folder: str | Path) -> dict[str, np.ndarray]:
    """The columns of a flat cache, memory-mapped copy-on-write: changing them changes memory, never the files.

    Raises:
        DatasetError: a file is missing, truncated or of another type; the cache can be deleted and is rebuilt.
    """
    columns = {}
    for name, kind in COLUMNS.items():
        path = Path(folder) / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            text = " ".join(str(error).split())
            raise DatasetError(f"{path}: unreadable flat cache ({text}); delete {folder}, it is rebuilt") from None
        if array.dtype != np.dtype(kind):
            raise DatasetError(f"{path}: type {array.dtype}, expected {kind}; delete {folder}, it is rebuilt")
        columns[name] = np.asarray(array)
    if len({len(array) for array in columns.values()}) != 1:
        raise DatasetError(f"{folder}: columns differ in length; delete it, it is rebuilt")
    return columns


def disease_of(metadata: dict[str, Any]) -> Disease:
    """The disease that Minari's metadata of a dataset of ours name; a `DatasetError` if it is not installed."""
    named = metadata["medgym"]["disease"]
    if named not in list_diseases():
        known = ", ".join(list_diseases())
        raise DatasetError(f"{metadata['dataset_id']}: disease {named!r} is not installed; known: {known}")
    return disease(named)


def transitions_of(columns: dict[str, np.ndarray], metadata: dict[str, Any]) -> Transitions:
    """Columns with the meaning that Minari's metadata of the dataset give them."""
    ours = metadata["medgym"]
    return Transitions(
        **columns,
        patients=tuple(ours["patients"]),
        timing=ours["timing"],
        decisions=int(ours["decisions"]),
        disease=disease_of(metadata).name,
        dataset_id=metadata["dataset_id"],
        identity=ours["identity"],
        view=ours.get("view", FULL),
        split="",
        embedded=0,
    )
