"""The bank file: safetensors with a JSON header. No code runs on load, and a damaged file says so."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.disease import Scales
from medgym_offline.errors import BankError, unknown_name
from medgym_offline.files import atomic_path, release_folder
from medgym_offline.sepsis import SEPSIS
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.field import Dynamics, FieldParameters, Physics
from medgym_offline.simulators.flow import SolutionMap, SolutionMapConfig
from medgym_offline.simulators.twin import TwinField

__all__ = ["FORMAT", "bank_tensors", "list_banks", "load_simulators", "save_bank"]

FORMAT = "medgym-bank/1"
FIELDS: dict[str, type[Any]] = {kind.kind: kind for kind in (FieldParameters, TwinField)}
"""Classes a world's dynamics may be of, by the kind in the header."""


def _world_tensors(name: str, world: World) -> dict[str, Tensor]:
    tensors = {f"{name}/field/{k}": t for k, t in world.params.tensors().items()}
    tensors |= {f"{name}/noise": world.noise, f"{name}/initial": world.initial}
    if world.code is not None:
        tensors[f"{name}/code"] = world.code
    return tensors


def bank_tensors(bank: SimulatorBank) -> dict[str, Tensor]:
    """All tensors of a bank by their name in the file."""
    tensors = {"clinician": bank.clinician_treatment}
    for name, world in bank._worlds.items():
        tensors |= _world_tensors(name, world)
    if bank._population is not None:
        tensors |= _world_tensors("population", bank._population)
    if bank._trunk is not None:
        tensors |= {f"trunk/{k}": t for k, t in bank._trunk.tensors().items()}
    return tensors


@own_defaults()
def save_bank(bank: SimulatorBank, path: str | Path) -> None:
    """Write `bank` to `path` (safetensors), atomically."""
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "name": bank.name,
        "disease": bank.disease.name,
        "patients": list(bank.patients),
        "scales": asdict(bank.scales),
        "physics": asdict(bank.physics),
        "worlds": list(bank.worlds),
        "kinds": {name: world.params.kind for name, world in bank._worlds.items()},
        "solution_map": None if bank._trunk is None else asdict(bank._trunk.config),
        "content_hash": bank.content_hash,
        "metadata": bank.metadata,
    }
    tensors = {k: t.detach().to("cpu", torch.float32).contiguous().clone() for k, t in bank_tensors(bank).items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"medgym": json.dumps(header, sort_keys=True)})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _world(tensors: dict[str, Tensor], name: str, kind: str = FieldParameters.kind) -> World:
    prefix = f"{name}/field/"
    params: Dynamics = FIELDS[kind](**{k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    return World(params, tensors[f"{name}/noise"], tensors[f"{name}/initial"], tensors.get(f"{name}/code"))


def list_banks() -> list[str]:
    """Names of the banks that ship with this release."""
    return sorted(p.stem for p in (release_folder("generation") / "banks").glob("*.safetensors"))


@own_defaults()
def load_simulators(name: str | Path = "sepsis-v0") -> SimulatorBank:
    """Load a simulator bank that ships with the release, or one of your own.

    Args:
        name: "sepsis-v0" (or another name in `list_banks()`), or the path of a bank file.

    Raises:
        UnknownNameError: No bank of that name, and no such file.
        BankError: The file is damaged, or not a bank, or of a later format.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        path = release_folder("generation") / "banks" / f"{name}.safetensors"
        if not path.is_file():
            raise unknown_name("simulator bank", name, list_banks())
    if not path.is_file():
        raise BankError(f"{path}: no such bank file; give a path to a .safetensors bank or one of {list_banks()}")
    return _read(path)


def _read(path: Path) -> SimulatorBank:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            if "medgym" not in metadata:
                raise BankError(f"{path}: a safetensors file without a bank header; rebuild it with `simulators fit`")
            header = json.loads(metadata["medgym"])
            if header.get("format") != FORMAT:
                raise BankError(
                    f"{path}: format {header.get('format')!r}, this version reads {FORMAT!r}; "
                    "upgrade medgym-offline or rebuild the bank"
                )
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except BankError:
        raise
    except Exception as error:  # safetensors raises its own type for truncated or foreign files
        raise BankError(
            f"{path}: not a readable bank ({type(error).__name__}: {error}); download it again or rebuild it"
        ) from None
    try:
        trunk = None
        if header["solution_map"] is not None:
            config = SolutionMapConfig(**_tuples(header["solution_map"]))
            parts = {k.removeprefix("trunk/"): t for k, t in tensors.items() if k.startswith("trunk/")}
            trunk = SolutionMap(config=config, code=torch.zeros(0, config.code), **parts)
        population = _world(tensors, "population") if "population/noise" in tensors else None
        bank = SimulatorBank(
            name=header["name"],
            patients=header["patients"],
            scales=Scales(**_tuples(header["scales"])),
            physics=Physics(**_tuples(header["physics"])),
            # Banks written before a world could be a known truth name no kinds: all of theirs are fitted.
            worlds={w: _world(tensors, w, header.get("kinds", {}).get(w, "hybrid")) for w in header["worlds"]},
            population=population,
            trunk=trunk,
            clinician=tensors["clinician"],
            metadata=header["metadata"],
            disease=SEPSIS,
            content_hash=header["content_hash"],
        )
    except (KeyError, TypeError) as error:
        raise BankError(f"{path}: bank header or tensor missing ({error}); rebuild it with `simulators fit`") from None
    if bank.initial_state().shape != (len(bank), bank.state_dim):
        shape = tuple(bank.initial_state().shape)
        raise BankError(f"{path}: initial states have shape {shape}, not {(len(bank), bank.state_dim)}; rebuild it")
    return bank
