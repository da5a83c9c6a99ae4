"""Finished worlds of an evaluation that is still running, so that a killed one goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgym_offline.evaluation.result import WorldResult
from medgym_offline.files import json_text, write_text

__all__ = ["PartialResults"]


class PartialResults:
    """Keeps the results of finished worlds as files of a folder, under a key that decides them.

    Args:
        folder: Where; None keeps nothing.
        key: Everything that decides the results: hashes of policy, bank and protocol, patients, settings. What was kept
            under another key is not read.
    """

    def __init__(self, folder: str | Path | None, key: Mapping[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self.key = hashlib.sha256(json_text(dict(key)).encode()).hexdigest()

    def _path(self, world: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{world}-{self.key[:16]}.json"

    def load(self, world: str) -> WorldResult | None:
        """The finished result of a world, or None. A file that cannot be read counts as not finished."""
        if self.folder is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            value = json.loads(self._path(world).read_text(encoding="utf-8"))
            if value["key"] == self.key:
                return WorldResult.from_dict(value["result"])
        return None

    def save(self, world: str, result: WorldResult) -> None:
        """Keep the finished result of a world."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self._path(world), json_text({"key": self.key, "result": result.to_dict()}))

    def clear(self) -> None:
        """Forget this evaluation's worlds, and the folder when nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.glob(f"*-{self.key[:16]}.json"):
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
