"""A simulator bank: one patient simulator per patient, stacked, with everything needed to run and to trust it.

Who of a bank is learned from and who is new, its `train` and `test` people, is drawn once. A bank either was built with
sides (its metadata have them), or they stand in `generation/splits.toml`, where :func:`drawn` put them. Beside the
banks, not in them: a bank's file, and with it the identity of every dataset, is as it was before the draw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration, from_values
from medgym_offline.errors import BankError, unknown_name
from medgym_offline.files import atomic_path, read_toml, release_folder
from medgym_offline.patients import PatientIndex, Patients
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.world import Backend, Motion, World

__all__ = ["Backend", "Draw", "FILE", "FORMAT", "SIDES", "SimulatorBank", "World", "drawn", "read_draws"]

SIDES = ("train", "test")
FILE = "splits.toml"


@configuration("split", BankError)
class Draw:
    """Sides of the people of `banks`, which have the same patients: `count` of them are new, by `seed`."""

    banks: Annotated[tuple[str, ...], Field(min_length=1)]
    count: Annotated[int, Field(ge=1)]
    seed: int
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def drawn(patients: Sequence[str], count: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Sides of people, in their order: test are the `count` whose own number is least, so nobody moves with others."""
    least = set(sorted(patients, key=lambda p: derive_seed(seed, "split of people", p))[:count])
    return {"train": tuple(p for p in patients if p not in least), "test": tuple(p for p in patients if p in least)}


def read_draws() -> dict[str, Draw]:
    """The draws of the release by name; a `BankError` names an entry that is wrong."""
    path = release_folder("generation") / FILE
    return {name: from_values(Draw, values, f"{path}: {name}") for name, values in read_toml(path, BankError).items()}


FORMAT = "medgym-bank/2"


class SimulatorBank(Motion):
    """P patient simulators that run as one batched program.

    Attributes, shapes and units are those of :class:`~medgym_offline.simulators.world.Motion`. A bank is not changed:
    its methods give other banks.
    """

    # -- who and what ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.patients)

    def __repr__(self) -> str:
        return (
            f"SimulatorBank({self.name!r}, {len(self)} patients, world={self.current_world!r}, "
            f"backend={self.backend!r})"
        )

    @property
    def worlds(self) -> tuple[str, ...]:
        """Names of the worlds this bank holds."""
        return tuple(self.world_data)

    @property
    def content_hash(self) -> str:
        """SHA-256 of all tensors and patient ids; a selection keeps the hash of the bank it came from."""
        if self.known_hash is None:
            digest = hashlib.sha256("\n".join((self.name, *self.patients)).encode())
            for key, tensor in sorted(self.tensors().items()):
                digest.update(key.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
            self.known_hash = digest.hexdigest()
        return self.known_hash

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their name in the file."""
        found = {"clinician": self.clinician_treatment}
        if self.context.shape[1]:
            found["context"] = self.context
        shared = {} if self.population_data is None else {"population": self.population_data}
        for name, world in (self.world_data | shared).items():
            found |= {f"{name}/field/{k}": t for k, t in world.params.tensors().items()}
            found |= {f"{name}/{k}": t for k, t in world.tensors().items()}
        trunk = {} if self.trunk is None else self.trunk.tensors()
        return found | {f"trunk/{k}": t for k, t in trunk.items() if k != "code"}

    @property
    def patient_index(self) -> PatientIndex:
        """Finds this bank's patients by id or position."""
        return PatientIndex(self.patients, f"bank {self.name!r}")

    @property
    def split(self) -> Mapping[str, tuple[str, ...]]:
        """ "train" and "test" -> ids of the people on that side, in the bank's order.

        Raises:
            BankError: No split names this bank, or it leaves somebody out or has somebody on both sides.
        """
        sides = self.metadata.get("split")
        if sides is None:
            draw = next((d for d in read_draws().values() if self.name in d.banks), None)
            sides = {} if draw is None else {"train": draw.train, "test": draw.test}
        known = {side: set(sides.get(side, ())) for side in SIDES}
        if not set(self.patients) <= set.union(*known.values()) or set.intersection(*known.values()):
            raise BankError(
                f"bank {self.name!r} has no split of its people into train and test; leave split out, or build it with "
                'metadata {"split": {"train": [ids], "test": [ids]}}'
            )
        return {side: tuple(p for p in self.patients if p in known[side]) for side in SIDES}

    def people(self, side: str) -> tuple[str, ...]:
        """Ids of the people of the side "train" or "test", in the bank's order.

        Raises:
            BankError: The bank has no split, or nobody on that side.
            UnknownNameError: No such side.
        """
        if side not in SIDES:
            raise unknown_name("split", side, SIDES)
        if not (found := self.split[side]):
            raise BankError(
                f"bank {self.name!r}: none of its {len(self)} patients is on the side {side!r}; name another"
            )
        return found

    def index(self, patient: int | str) -> int:
        """Position of a patient given by position or id.

        Raises:
            UnknownNameError: No such patient in this bank.
        """
        return self.patient_index.one(patient)

    # -- views -----------------------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> SimulatorBank:
        """The same bank with other attributes; it keeps its hash unless `known_hash=None` is among them."""
        return dataclasses.replace(self, **{"known_hash": self.content_hash} | changes)

    @own_defaults()
    def select(self, patients: Patients) -> SimulatorBank:
        """The bank of the given patients (positions or ids), in that order; repeats are allowed.

        Raises:
            UnknownNameError: See :class:`~medgym_offline.patients.PatientIndex`.
        """
        positions = self.patient_index.resolve(patients, repeats=True)
        index = torch.tensor(positions, device=self.device)
        return self.replace(
            patients=tuple(self.patients[i] for i in positions),
            world_data={name: world.select(index) for name, world in self.world_data.items()},
            clinician_treatment=self.clinician_treatment[index],
            context=self.context[index],
        )

    def world(self, name: str) -> SimulatorBank:
        """The same patients in another world: "own", "crossfit" or "true"."""
        if name not in self.world_data:
            raise unknown_name(f"world of bank {self.name!r}", name, self.world_data)
        return self.replace(current_world=name)

    def with_world(self, name: str, world: World) -> SimulatorBank:
        """The same patients with one world more (or another in its place); a new bank with a hash of its own."""
        if world.initial.shape != self.initial_state().shape:
            shapes = tuple(world.initial.shape), tuple(self.initial_state().shape)
            raise BankError(
                f"bank {self.name!r}: world {name!r} has first states {shapes[0]}, the bank's are {shapes[1]}"
            )
        return self.replace(world_data={**self.world_data, name: world}, known_hash=None)

    def population(self) -> SimulatorBank:
        """The population simulator: a bank of one patient, `population`."""
        if self.population_data is None:
            raise BankError(f"bank {self.name!r} has no population simulator; rebuild it with `simulators fit`")
        return self.replace(
            patients=("population",),
            world_data={"own": self.population_data},
            current_world="own",
            clinician_treatment=self.clinician_treatment.mean(0, keepdim=True),
            context=self.context.mean(0, keepdim=True),
        )

    def with_backend(self, backend: Backend) -> SimulatorBank:
        """The same bank with "map" (solution map) or "ode" (solver) as its flow."""
        if backend not in ("map", "ode"):
            raise unknown_name("backend", backend, ("map", "ode"))
        if backend == "map" and (self.trunk is None or self.current().code is None):
            raise BankError(
                f"bank {self.name!r}: world {self.current_world!r} has no solution map; use backend='ode' or rebuild it"
            )
        return self.replace(flow_by=backend)

    def to(self, where: torch.device | torch.dtype | str) -> SimulatorBank:
        """The same bank on another device, or in another precision (float64: what datasets are generated in)."""
        return self.replace(
            world_data={name: world.to(where) for name, world in self.world_data.items()},
            population_data=None if self.population_data is None else self.population_data.to(where),
            trunk=None if self.trunk is None else self.trunk.to(where),
            clinician_treatment=self.clinician_treatment.to(where),
            context=self.context.to(where),
        )

    @own_defaults()
    def save(self, path: str | Path) -> None:
        """Write the bank to one safetensors file, atomically."""
        from safetensors.torch import save_file

        header = {
            "format": FORMAT,
            "name": self.name,
            "disease": self.disease.name,
            "patients": list(self.patients),
            "scales": dataclasses.asdict(self.scales),
            "physics": dataclasses.asdict(self.physics),
            "worlds": list(self.worlds),
            "kinds": {name: world.params.kind for name, world in self.world_data.items()},
            "population_kind": None if self.population_data is None else self.population_data.params.kind,
            "solution_map": None if self.trunk is None else dataclasses.asdict(self.trunk.config),
            "content_hash": self.content_hash,
            "metadata": self.metadata,
        }
        tensors = {k: t.detach().to("cpu", torch.float32).contiguous().clone() for k, t in self.tensors().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"medgym": json.dumps(header, sort_keys=True)})
