"""What a dataset is: the things that made its rows.

Rows come out again to the last stored digit on almost every machine, and nowhere further than rounding, so their bytes
are no name for a dataset. What made them is: the recipe, the bank, the behavior, and the rules of generation.
Whether a copy really has those rows is another question, answered by its fingerprint (:mod:`.fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["GENERATOR", "identity_of", "made_differently"]

GENERATOR = 3
"""Version of the rules by which a recipe becomes rows. Whoever changes what any recipe gives, beyond the tolerance of
the fingerprint, raises it. 1: integrated and sampled in float32; 2: in float64, stored as float32; 3: costs along the
path and the behavior's log-probabilities are columns."""

_LABELS = ("id", "description", "bank", "behavior", "records", "license")
"""Fields of a recipe that are names; what they name is in the identity by its hash."""


def _parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in manifest["recipe"].items() if name not in _LABELS}
    return {
        "generator": manifest["generator"],
        "random streams": manifest["source"],
        **{f"recipe field {name}": value for name, value in recipe.items()},
        "patients": list(manifest["patients"]),
        "bank": manifest["bank"]["content_hash"],
        "behavior": manifest["behavior"]["sha256"],
    }


def identity_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what made a dataset; the id it is stored under is not part of it.

    Args:
        manifest: With `generator`, `source` (the id that names the random streams), `recipe`, `patients` (indices in
            the bank), and the hashes of `bank` and `behavior`.
    """
    return hashlib.sha256(json.dumps(_parts(manifest), sort_keys=True).encode()).hexdigest()


def made_differently(manifest: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    """What differs in the making of two datasets, in words: `bank sepsis-v0 (3f2a.. here, 9c01.. there)`; may be empty.

    Args:
        manifest, release: Of the one here, and of the one it should be.
    """
    ours, theirs = _parts(manifest), _parts(release)
    lines = []
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        if one != other:
            label = f"{name} {manifest[name]['name']}" if name in ("bank", "behavior") else name
            lines.append(f"{label} ({_short(one)} here, {_short(other)} there)")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}.."
