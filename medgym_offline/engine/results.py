"""Results of shards as bytes and files: tensors in safetensors, everything around them in its JSON header.

Nothing that is read back can run, and what a shard returned looks the same whichever engine ran it, because every
engine passes it through :func:`encode` and :func:`decode`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, json_difference, json_text, write_text

__all__ = ["RunFolder", "decode", "encode"]

_TREE = "medgym-shard"
_NAME = re.compile(r"^[\w][\w.-]*$")


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, with its arrays moved to `tensors` and tagged by their place there."""
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value).detach().cpu()
        tensors[name] = tensors[name].clone(memory_format=torch.contiguous_format)
        return {"#": "array" if isinstance(value, np.ndarray) else "tensor", "at": name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a shard's result has a dict whose keys are not strings")
        return {"#": "dict", "of": {key: _pack(v, tensors) for key, v in value.items()}}
    if isinstance(value, list | tuple):
        return {"#": type(value).__name__, "of": [_pack(v, tensors) for v in value]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a shard returned a {type(value).__name__}; it may return numbers, text, arrays, lists and dicts")


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    kind = tree["#"]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in tree["of"].items()}
    if kind in ("list", "tuple"):
        items = [_unpack(value, tensors) for value in tree["of"]]
        return tuple(items) if kind == "tuple" else items
    found = tensors[tree["at"]]
    return found.numpy() if kind == "array" else found


def encode(value: Any) -> bytes:
    """Numbers, text, None, tensors and NumPy arrays in any nesting of dicts, lists and tuples, as safetensors bytes.

    Raises:
        TypeError: For anything else.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(value, tensors))
    return save(tensors, {_TREE: tree})


def decode(data: bytes) -> Any:
    """Inverse of :func:`encode`; tensors are on the CPU.

    Raises:
        ValueError: If `data` is damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        # safetensors begins with the length of its JSON header.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return _unpack(json.loads(header["__metadata__"][_TREE]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"not a shard's result ({error})") from None


class RunFolder:
    """The finished shards of one run: `run.json` says what the run is, `<shard>.safetensors` holds a result.

    Args:
        folder: Made if it is missing.
        key: What decides the results (recipe, hashes of the data, sizes of the shards), as JSON.
        fresh: Delete what an earlier run left.

    Raises:
        MedGymError: If the folder belongs to a run with another key; the entries that differ are named.
    """

    def __init__(self, folder: str | Path, key: Any, fresh: bool = False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / "run.json"
        if fresh:
            self._clear()
        ours = json.loads(json.dumps({"key": key}))
        if record.exists():
            try:
                theirs = json.loads(record.read_text(encoding="utf-8"))
            except ValueError:
                raise MedGymError(f"{record}: not the record of a run; delete {self.folder} to start again") from None
            if theirs != ours:
                lines = "; ".join(json_difference(ours["key"], theirs.get("key")))
                raise MedGymError(
                    f"{self.folder}: holds the shards of another recipe ({lines}); "
                    "use that recipe, another folder, or start again with --fresh"
                )
        else:
            write_text(record, json_text(ours))

    def _clear(self) -> None:
        for path in [self.folder / "run.json", *self.folder.glob("*.safetensors")]:
            path.unlink(missing_ok=True)

    def path(self, shard: str) -> Path:
        """File of one shard's result."""
        if not _NAME.match(shard):
            raise MedGymError(f"shard name {shard!r}: use letters, digits, '.', '_' and '-'")
        return self.folder / f"{shard}.safetensors"

    def write(self, shard: str, data: bytes) -> None:
        """Keep an encoded result; a reader sees all of it or nothing."""
        with atomic_path(self.path(shard)) as temporary:
            temporary.write_bytes(data)

    def read(self, shard: str) -> bytes | None:
        """The encoded result, or None if there is none that can be read (it is then computed again)."""
        path = self.path(shard)
        if not path.exists():
            return None
        data = path.read_bytes()
        try:
            decode(data)
        except ValueError:
            return None
        return data

    def finished(self, shards: Iterable[str]) -> list[str]:
        """Those of `shards` whose results are here."""
        return [shard for shard in shards if self.read(shard) is not None]
