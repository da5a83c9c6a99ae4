"""Random streams derived from (root seed, purpose, patient, ...).

A stream belongs to what it is for, not to where in a batch it is drawn: patient 17 gets the same numbers alone,
among 110, on another shard or on another machine. Streams are NumPy PCG64, seeded by a SHA-256 of the key.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator", "torch_generator"]


def derive_seed(root: int, purpose: str, *keys: str | int) -> int:
    """A 63-bit seed for the stream named by `root`, `purpose` and `keys`.

    >>> derive_seed(0, "episode", "mimic-iii/201006", 3) == derive_seed(0, "episode", "mimic-iii/201006", 3)
    True
    """
    text = "\x1f".join([str(int(root)), purpose, *(str(k) for k in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """NumPy generator of the stream named by `root`, `purpose` and `keys`."""
    return np.random.default_rng(derive_seed(root, purpose, *keys))


def torch_generator(root: int, purpose: str, *keys: str | int) -> torch.Generator:
    """Torch CPU generator of the stream named by `root`, `purpose` and `keys`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(root, purpose, *keys))
