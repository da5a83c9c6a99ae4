"""Algorithms of other packages on our datasets, scored by our evaluator: d3rlpy's, through the extra `d3rlpy`.

Their settings are those shared with ours, and d3rlpy's own by their own names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from medgym_offline.config import from_text
from medgym_offline.errors import MissingExtraError
from medgym_offline.offline.config import OfflineConfig

__all__ = ["BASELINES", "SHARED", "default_settings", "import_d3rlpy", "own_fields", "read_settings"]

BASELINES: dict[str, str] = {
    "d3rlpy-bc": "BC",
    "d3rlpy-iql": "IQL",
    "d3rlpy-td3bc": "TD3PlusBC",
    "d3rlpy-cql": "CQL",
    "d3rlpy-awac": "AWAC",
    "d3rlpy-rebrac": "ReBRAC",
    "d3rlpy-discrete-cql": "DiscreteCQL",
    "d3rlpy-discrete-bcq": "DiscreteBCQ",
}
"""Name on the command line -> name in d3rlpy (its configuration is called `<name>Config`)."""

SHARED = (
    *("updates", "batch", "hidden", "depth", "critic_lr", "actor_lr", "gamma"),
    *("discount", "state_scaling", "reward_scaling", "codewords"),
)
"""Settings of `OfflineConfig` that mean the same here."""

# What our settings stand for in d3rlpy's configurations; these are not offered under d3rlpy's names as well.
_TAKEN = (
    *("batch_size", "gamma", "learning_rate", "actor_learning_rate", "critic_learning_rate"),
    *("transform_type", "compile_graph", "policy_type"),
)


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


def default_settings(algorithm: str) -> dict[str, Any]:
    """Where we depart from d3rlpy's own defaults, besides `SHARED`.

    The discrete ones copy their target every 8000 updates, never in a training of 1000 or 4000; here every 100.
    """
    return {"target_update_interval": 100} if "discrete" in algorithm else {}


def own_fields(algorithm: str) -> dict[str, Any]:
    """d3rlpy's settings of an algorithm that are numbers, flags or text, with d3rlpy's defaults."""
    kind = getattr(import_d3rlpy(algorithm).algos, f"{BASELINES[algorithm]}Config")
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in _TAKEN}
    return {name: value for name, value in fields.items() if isinstance(value, (bool, int, float, str))}


def read_settings(
    algorithm: str, profile: OfflineConfig, assignments: Sequence[str]
) -> tuple[OfflineConfig, dict[str, Any]]:
    """Settings given as text, "name=value": the shared ones, and d3rlpy's own.

    Args:
        algorithm: A name in `BASELINES`.
        profile: Where the shared settings start from.
        assignments: As in `OfflineConfig.changed`; a name of d3rlpy's configuration is as good ("expectile=0.8").

    Raises:
        UnknownNameError: There is no such setting; with the nearest names.
        MedGymError: The text is not an assignment, or the value not of the setting's type.
        MissingExtraError: d3rlpy is not installed.
    """
    fields, own = own_fields(algorithm), default_settings(algorithm)
    named = [(text.partition("=")[0].strip().replace("-", "_"), text) for text in assignments]
    forms = {name: type(value) for name, value in fields.items()}
    mine = from_text(forms, [text for name, text in named if name not in SHARED], f"setting of {algorithm}", SHARED)
    return profile.changed([text for name, text in named if name in SHARED]), own | mine
