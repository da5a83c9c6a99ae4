"""Results of shards as bytes and files: safetensors, with everything around the tensors as JSON in one more.

Nothing that is read back can run, and what a shard returned looks the same whichever engine ran it, because every
engine passes it through :func:`encode` and :func:`decode`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.config import read_json
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, json_difference, json_text, write_text

__all__ = ["RunFolder", "decode", "encode"]

_TREE = "tree"


def encode(value: Any) -> bytes:
    """Numbers, text, None, tensors and NumPy arrays in any nesting of dicts, lists and tuples, as safetensors bytes.

    Raises:
        TypeError: For anything else, and for a dict whose keys are not strings.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def pack(value: Any) -> Any:
        """`value` as JSON; an object of one entry tells what is no list, text or number."""
        if isinstance(value, Tensor | np.ndarray):
            tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach().cpu()
            name = str(len(tensors))
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
            return {"array" if isinstance(value, np.ndarray) else "tensor": name}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": [[key, pack(inner)] for key, inner in value.items()]}
        if isinstance(value, list | tuple):
            items = [pack(inner) for inner in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise TypeError(f"a shard returned a {type(value).__name__}; it may return numbers, text, arrays, lists, dicts")

    tree = json.dumps(pack(value))
    return save(tensors | {_TREE: torch.frombuffer(bytearray(tree.encode()), dtype=torch.uint8)})


def decode(data: bytes) -> Any:
    """Inverse of :func:`encode`; tensors are on the CPU.

    Raises:
        ValueError: If `data` is damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        make: dict[str, Callable[[Any], Any]] = {
            "dict": dict,
            "tuple": tuple,
            "tensor": tensors.pop,
            "array": lambda name: tensors.pop(name).numpy(),
        }
        tree = tensors.pop(_TREE).numpy().tobytes()
        return json.loads(tree, object_hook=lambda found: next(make[kind](of) for kind, of in found.items()))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"not a shard's result ({error})") from None


class RunFolder:
    """The finished shards of one run: `run.json` says what the run is, `<shard>.safetensors` holds a result.

    Args:
        folder: Made if it is missing.
        key: What decides the results (recipe, hashes of the data, sizes of the shards), as JSON.

    Raises:
        MedGymError: If the folder belongs to a run with another key; the entries that differ are named.
    """

    def __init__(self, folder: str | Path, key: Any):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        record, ours = self.folder / "run.json", json.loads(json.dumps({"key": key}))
        if not record.exists():
            write_text(record, json_text(ours))
        theirs = read_json(record, remedy=f"delete {self.folder} to start again")
        if theirs != ours:
            lines = "; ".join(json_difference(ours["key"], theirs.get("key") if isinstance(theirs, dict) else theirs))
            remedy = "use that recipe, another folder, or start again with --fresh"
            raise MedGymError(f"{self.folder}: holds the shards of another recipe ({lines}); {remedy}")

    def path(self, shard: str) -> Path:
        """File of one shard's result."""
        return self.folder / f"{shard}.safetensors"

    def write(self, shard: str, data: bytes) -> None:
        """Keep an encoded result; a reader sees all of it or nothing."""
        with atomic_path(self.path(shard)) as temporary:
            temporary.write_bytes(data)

    def read(self, shard: str) -> bytes | None:
        """The encoded result, or None if there is none that can be read (it is then computed again)."""
        path = self.path(shard)
        try:
            data = path.read_bytes()
            decode(data)
        except (FileNotFoundError, ValueError):
            return None
        return data
