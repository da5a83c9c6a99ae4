"""Finding a disease by name: those of this package, and those that other installed packages offer.

Another package offers one under the entry-point group `medgym_offline.diseases`: `asthma = "medgym_asthma:DISEASE"`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from medgym_offline.diseases.base import Disease
from medgym_offline.errors import DiseaseError, unknown_name

__all__ = ["DEFAULT", "disease", "disease_of_id", "list_diseases", "own_environments"]

DEFAULT = "sepsis"
"""The disease of files and calls that name none."""

_FOLDERS = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg]
_OWN = {name: f"{__package__}.{name}" for name in _FOLDERS}
GROUP = "medgym_offline.diseases"


def _offered() -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**found, **{name: f"{module}:DISEASE" for name, module in _OWN.items()}}


def list_diseases() -> list[str]:
    """Names of all diseases that are installed, sorted."""
    return sorted(_offered())


@functools.lru_cache(maxsize=64)
def disease(name: str = DEFAULT) -> Disease:
    """The disease of that name.

    Raises:
        UnknownNameError: No installed package has it.
        DiseaseError: What the package offers is no disease, or another one.
    """
    offered = _offered()
    if name not in offered:
        raise unknown_name("disease", name, sorted(offered))
    module, _, attribute = offered[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DiseaseError(f"disease {name!r}: {offered[name]} cannot be imported ({error}); reinstall it") from None
    if not isinstance(found, Disease) or found.name != name:
        raise DiseaseError(f"disease {name!r}: {offered[name]} is not a Disease of that name; correct the entry point")
    return found


def own_environments() -> dict[str, dict[str, Any]]:
    """Further Gymnasium environments of this package's diseases, with their arguments."""
    return {f"medgym/{name}": {"disease": d, **a} for d in _OWN for name, a in disease(d).environments.items()}


def disease_of_id(text: str) -> str:
    """Name of the disease that an id of a bank or dataset begins with ("medgym/sepsis-ind-v0"); the default if none."""
    first = text.rpartition("/")[2].split("-")[0]
    return first if first in _offered() else DEFAULT
