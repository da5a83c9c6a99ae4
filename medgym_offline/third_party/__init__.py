"""Algorithms of other packages on our datasets, scored by our evaluator: d3rlpy's, through the extra `d3rlpy`."""

from __future__ import annotations

import contextlib
import io
from types import ModuleType

from medgym_offline.errors import MissingExtraError
from medgym_offline.third_party.config import BASELINES, SHARED, default_settings, own_fields, read_settings

__all__ = ["BASELINES", "SHARED", "default_settings", "import_d3rlpy", "own_fields", "read_settings"]


def import_d3rlpy(purpose: str = "this") -> ModuleType:
    """The package d3rlpy, imported without the banner of the old `gym` it depends on.

    Args:
        purpose: What needs it, for the error.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import d3rlpy
    except ImportError:
        raise MissingExtraError.of("d3rlpy", "d3rlpy", purpose) from None
    return d3rlpy  # type: ignore[no-any-return,unused-ignore]
