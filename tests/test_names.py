"""Public names stay what they are, whatever was imported before."""

from __future__ import annotations

import importlib
import pkgutil
import types

import medgym_offline


def test_no_exported_name_becomes_a_module_once_its_neighbors_are_imported() -> None:
    """A lazily exported function must not share its name with a submodule, whose import would hide it."""
    packages = [m.name for m in pkgutil.walk_packages(medgym_offline.__path__, "medgym_offline.") if m.ispkg]
    for name in packages:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{name}.{module.name}")
        for exported in getattr(package, "__all__", ()):
            assert not isinstance(getattr(package, exported), types.ModuleType), f"{name}.{exported}"
