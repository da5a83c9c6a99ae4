"""The flat cache: every column of `Transitions` as one `.npy` file, memory-mapped on load.

Minari's episode-per-group layout takes seconds to read; these files take milliseconds. They are named by the
content hash and can always be rebuilt from the HDF5 file.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from medgym_offline.datasets.transitions import COLUMNS
from medgym_offline.errors import DatasetError

__all__ = ["ContentHash", "FlatWriter", "flat_name", "read_flat"]


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


def _header(kind: str, shape: tuple[int, ...]) -> bytes:
    # Padded to a fixed size, so that it can be written again when the number of rows is known.
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.dtype(kind).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


class FlatWriter:
    """Streams columns into `.npy` files of a folder (a context manager); memory stays at one block of rows."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.rows = 0
        self._files: dict[str, BinaryIO] = {}
        self._tails: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> FlatWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, columns: dict[str, np.ndarray]) -> None:
        """Append rows."""
        for name, kind in COLUMNS.items():
            array = np.ascontiguousarray(columns[name], dtype=np.dtype(kind).newbyteorder("<"))
            if name not in self._files:
                self._files[name] = open(self.folder / f"{name}.npy", "wb")  # noqa: SIM115 - closed in __exit__
                self._tails[name] = array.shape[1:]
                self._files[name].write(_header(kind, (0, *array.shape[1:])))
            self._files[name].write(array.tobytes())
        self.rows += len(columns["rewards"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, file in self._files.items():
            if error is None:
                header = _header(COLUMNS[name], (self.rows, *self._tails[name]))
                if len(header) != len(_header(COLUMNS[name], (0, *self._tails[name]))):
                    raise DatasetError(f"{self.folder}: {self.rows} rows are too many for one flat cache")
                file.seek(0)
                file.write(header)
            file.close()


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
