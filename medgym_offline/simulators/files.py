"""The bank file: safetensors with a JSON header. No code runs on load, and a damaged file says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.registry import disease, list_diseases
from medgym_offline.diseases.scales import Scales
from medgym_offline.errors import BankError, unknown_name
from medgym_offline.files import release_folder
from medgym_offline.simulators.bank import FORMAT, SimulatorBank, World
from medgym_offline.simulators.flow import SolutionMap, SolutionMapConfig

__all__ = ["list_banks", "load_simulators", "ship"]


def _made(kind: type[Any], values: dict[str, Any]) -> Any:
    """A frozen dataclass from JSON values."""
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, by the rest of it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _world(tensors: dict[str, Tensor], name: str, kind: type[Any]) -> World:
    own = _below(tensors, f"{name}/")
    return World(kind(**_below(own, "field/")), own["noise"], own["initial"], own.get("code"))


def list_banks() -> list[str]:
    """Names of the banks that ship with this release."""
    return sorted(p.stem for p in (release_folder("generation") / "banks").glob("*.safetensors"))


@own_defaults()
def load_simulators(name: str | Path | None = None) -> SimulatorBank:
    """Load a simulator bank that ships with the release, or one of your own.

    Args:
        name: A name in `list_banks()`, or the path of a bank file; the default disease's bank if None.

    Raises:
        UnknownNameError: No bank of that name, and no such file.
        BankError: The file is damaged, or not a bank, or of a later format.
    """
    name = disease().bank if name is None else name
    path = Path(name)
    if path.suffix != ".safetensors":
        path = release_folder("generation") / "banks" / f"{name}.safetensors"
        if not path.is_file():
            raise unknown_name("simulator bank", name, list_banks())
    if not path.is_file():
        raise BankError(f"{path}: no such bank file; give a path to a .safetensors bank or one of {list_banks()}")
    return _read(path)


def ship(bank: SimulatorBank, path: Path | None = None) -> None:
    """Write a bank to `path`, or to where the release's stand, and say so."""
    path = path or release_folder("generation") / "banks" / f"{bank.name}.safetensors"
    bank.save(path)
    print(f"{path}: {len(bank)} patients, worlds {', '.join(bank.worlds)}, {path.stat().st_size // 1024} KB")


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a bank file of this format."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            header = json.loads((stream.metadata() or {}).get("medgym", "null"))
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own type for truncated or foreign files
        wrong = f"not a readable bank ({type(error).__name__}: {error}); download it again or rebuild it"
        raise BankError(f"{path}: {wrong}") from None
    if not isinstance(header, dict):
        raise BankError(f"{path}: a safetensors file without a bank header; rebuild it with `simulators fit`")
    if (form := header.get("format")) != FORMAT:
        remedy = "upgrade medgym-offline or rebuild the bank"
        raise BankError(f"{path}: format {form!r}, this version reads {FORMAT!r}; {remedy}")
    if (name := header.get("disease")) not in list_diseases():
        raise BankError(f"{path}: disease {name!r} is not installed; known: {', '.join(list_diseases())}")
    return header, tensors


def _read(path: Path) -> SimulatorBank:
    header, tensors = _opened(path)
    of = disease(header["disease"])
    model, trunk, population = of.load_model(), None, None
    try:
        if header["solution_map"] is not None:
            config = _made(SolutionMapConfig, header["solution_map"])
            trunk = SolutionMap(config=config, code=torch.zeros(0, config.code), **_below(tensors, "trunk/"))
        if header["population_kind"] is not None:
            population = _world(tensors, "population", model.kinds[header["population_kind"]])
        bank = SimulatorBank(
            name=header["name"],
            patients=header["patients"],
            disease=of,
            scales=_made(Scales, header["scales"]),
            physics=_made(model.physics, header["physics"]),
            world_data={name: _world(tensors, name, model.kinds[header["kinds"][name]]) for name in header["worlds"]},
            population_data=population,
            trunk=trunk,
            clinician_treatment=tensors["clinician"],
            metadata=header["metadata"],
            context=tensors.get("context", torch.zeros(0)),
            known_hash=header["content_hash"],
        )
        if (shape := tuple(bank.initial_state().shape)) != (len(bank), bank.state_dim):
            raise BankError(f"initial states have shape {shape}, not {(len(bank), bank.state_dim)}")
    except (KeyError, TypeError, BankError) as error:
        wrong = f"bank header or tensor missing or wrong ({error}); rebuild it with `simulators fit`"
        raise BankError(f"{path}: {wrong}") from None
    return bank
