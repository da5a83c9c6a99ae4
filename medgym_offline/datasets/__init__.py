"""Datasets: recipes -> perturbed rollouts -> Minari files, with a flat cache, checksums and cards.

Names are imported on first use, so that `list_datasets` needs neither torch, Minari nor h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgym_offline.datasets.transitions import COLUMNS, HORIZON, Transitions

__all__ = ["COLUMNS", "HORIZON", "Transitions"]

_HOME = {
    "COLUMNS": "transitions",
    "HORIZON": "transitions",
    "Transitions": "transitions",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
