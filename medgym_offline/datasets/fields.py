"""What the JSON files of a dataset must look like, checked before any of it is used.

They may have been edited, cut short, or made by somebody else. A form is a type (`float` takes whole numbers too, and
no number may be infinite or NaN), a tuple of the strings allowed, `[form]` for a list, `{name: form}` for an object
that has these names, or `{str: form}` for an object with any names.
"""

from __future__ import annotations

import math
import re
from typing import Any

from medgym_offline.errors import DatasetError

__all__ = ["MANIFEST", "METADATA", "SHA256", "check_fields"]

SHA256 = re.compile(r"[0-9a-f]{64}")

_RETURNS = dict.fromkeys(("random", "zero", "behavior", "expert"), float)

MANIFEST: dict[Any, Any] = {
    "id": str,
    "disease": str,
    "recipe": {str: object},
    "generator": int,
    "identity": SHA256,
    "source": str,
    "patients": [int],
    "episodes": int,
    "steps": int,
    "episode_steps": {"min": int, "mean": float, "max": int},
    "episode_returns": {"mean": float, "std": float},
    "content_hash": SHA256,
    "fingerprint": str,
    "columns": {str: {str: object}},
    "references": {"returns": _RETURNS, "expert": str, "episodes": int},
    "env_spec": {str: object},
    "eval_env_spec": {str: object},
    "bank": {"name": str, "content_hash": str, "source": str},
    "behavior": {"name": str, "sha256": str},
    "code_version": str,
    "files": {str: {"sha256": SHA256, "bytes": int}, "data/main_data.hdf5": dict, "data/metadata.json": dict},
}
"""Form of `data/manifest.json`, beside its `format`."""

METADATA: dict[Any, Any] = {
    "dataset_id": str,
    "total_episodes": int,
    "total_steps": int,
    "medgym": {
        "patients": [str],
        "disease": str,
        "timing": ("adaptive", "fixed"),
        "decisions": int,
        "identity": SHA256,
        "content_hash": SHA256,
        "bytes": int,
    },
}
"""Form of what we read of Minari's `data/metadata.json`."""


def check_fields(value: Any, form: Any, where: str, remedy: str = "regenerate the dataset", name: str = "") -> None:
    """Compare a JSON value with a form.

    Args:
        value: From anywhere.
        form: See the module.
        where: File, for the error.
        remedy: What to do, for the error.
        name: Of the value within the file.

    Raises:
        DatasetError: the first field that is missing or of another type, in one line.
    """
    if isinstance(form, dict):
        _expect(isinstance(value, dict), value, "an object", where, remedy, name)
        for key, inner in form.items():
            if key is str:
                for found in value:
                    check_fields(value[found], inner, where, remedy, _joined(name, found))
            elif key not in value:
                raise DatasetError(f"{where}: {_joined(name, key)!r} is missing; {remedy}")
            else:
                check_fields(value[key], inner, where, remedy, _joined(name, key))
    elif isinstance(form, list):
        _expect(isinstance(value, list), value, "a list", where, remedy, name)
        for number, item in enumerate(value):
            check_fields(item, form[0], where, remedy, _joined(name, str(number)))
    elif isinstance(form, tuple):
        _expect(value in form, value, " or ".join(map(repr, form)), where, remedy, name)
    elif isinstance(form, re.Pattern):
        good = isinstance(value, str) and form.fullmatch(value) is not None
        _expect(good, value, "a sha256 of 64 hexadecimal digits", where, remedy, name)
    elif form in (int, float):
        good = isinstance(value, (int, form)) and not isinstance(value, bool) and math.isfinite(value)
        # Beyond 64 bits nothing here is a count, and NumPy would fail on it.
        _expect(good and abs(value) < 2**63, value, form.__name__, where, remedy, name)
    elif form is not object:
        _expect(isinstance(value, form), value, form.__name__, where, remedy, name)


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else str(key)


def _expect(good: bool, value: Any, wanted: str, where: str, remedy: str, name: str) -> None:
    if not good:
        text = repr(value)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        subject = f"{name!r} is {shown}" if name else f"it is {shown}"
        raise DatasetError(f"{where}: {subject}, expected {wanted}; {remedy}")
