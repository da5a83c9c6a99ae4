"""The record of a verification, sealed: entry, record and seal fit together or the entry was edited afterwards.

The seal is a plain SHA-256 that anybody can compute. It shows that a number was changed by accident or in a merge; who
ran the verification is what git and the workflow say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["seal_holds", "sealed"]


def sealed(entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` with the verification `record` and its seal."""
    return {**entry, "verification": {**record, "seal": _seal(entry, record)}}


def seal_holds(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is as it was when it was verified; True for one that never was."""
    record = entry["verification"]
    return record is None or record["seal"] == _seal(entry, record)


def _seal(entry: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    signed = {**entry, "verification": {k: v for k, v in record.items() if k != "seal"}}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
