"""Diseases: what each says of itself, and where to find it."""

from __future__ import annotations

import importlib
from typing import Any

from medgym_offline.diseases.base import Component, Cost, Disease, Process, Severity, Treatment
from medgym_offline.diseases.registry import disease, list_diseases
from medgym_offline.diseases.scales import Scales

__all__ = ["Component", "Cost", "Disease", "Process", "Scales", "Severity", "Treatment", "disease", "list_diseases"]


def __getattr__(name: str) -> Any:
    # The folder of a disease is imported when it is asked for.
    if name in list_diseases():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
