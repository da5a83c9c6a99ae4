"""A simulator bank: one patient simulator per patient, stacked, with everything needed to run and to trust it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.base import Disease, Dynamics
from medgym_offline.diseases.scales import Scales
from medgym_offline.errors import BankError, unknown_name
from medgym_offline.files import atomic_path
from medgym_offline.patients import PatientIndex, Patients
from medgym_offline.simulators.flow import SolutionMap, solve, solve_between
from medgym_offline.simulators.splits import SIDES, split_of

__all__ = ["FORMAT", "Backend", "SimulatorBank", "World"]

Backend = Literal["map", "ode"]
FORMAT = "medgym-bank/2"


@dataclass
class World:
    """One version of every patient's dynamics: what policies train in, a second fit, the truth, the population's.

    Attributes:
        params: The dynamics, leading axis P.
        noise: (P, D) residual SD per square root of the unit of time, normalized.
        initial: (P, D) normalized first state.
        code: (P, C) codes of the solution map, or None where only the solver exists.
    """

    params: Dynamics
    noise: Tensor
    initial: Tensor
    code: Tensor | None = None

    def select(self, index: Tensor) -> World:
        """The world of the patients at `index`."""
        code = None if self.code is None else self.code[index]
        return World(self.params.select(index), self.noise[index], self.initial[index], code)

    def to(self, where: torch.device | torch.dtype | str) -> World:
        """The same world on another device or in another precision."""
        code = None if self.code is None else self.code.to(where)
        return World(self.params.to(where), self.noise.to(where), self.initial.to(where), code)


class SimulatorBank:
    """P patient simulators that run as one batched program.

    States are normalized, (P, B, D): the disease's components. Treatments are in [0, 1], (P, B, treatments). Times are
    in the disease's unit. All tensors are float32. A bank is not changed; its methods give other banks.

    Args:
        name: Name of the bank.
        patients: One id per patient.
        disease: The disease simulated.
        scales: The cohort's affine maps.
        physics: Strengths of the dynamics that are choices; the disease's own dataclass.
        worlds: `own` and possibly `crossfit` and `true`, each over all patients.
        population: The population model, a world of one patient.
        trunk: Shared trunk of the solution maps (its codes are unused), or None.
        clinician: (P, T, treatments) charted treatment per unit of time, normalized.
        metadata: Provenance; plain JSON types.
        context: (P, C) what is known of the patients, in the order of `disease.context`.
        backend: "map" (solution map) or "ode" (solver). A world without codes of the map is solved whatever it says:
            a known truth is not approximated.
        current_world: The world it is in; `own`, or the first.
    """

    def __init__(
        self,
        name: str,
        patients: Sequence[str],
        disease: Disease,
        scales: Scales,
        physics: Any,
        worlds: dict[str, World],
        population: World | None,
        trunk: SolutionMap | None,
        clinician: Tensor,
        metadata: dict[str, Any] | None = None,
        context: Tensor | None = None,
        backend: Backend | None = None,
        current_world: str | None = None,
        content_hash: str | None = None,
    ):
        self.name, self.patients, self.scales, self.physics = name, tuple(patients), scales, physics
        self.world_data, self.population_data, self.trunk = worlds, population, trunk
        self.clinician_treatment, self.metadata, self.disease = clinician, dict(metadata or {}), disease
        self.current_world = current_world or ("own" if "own" in worlds else next(iter(worlds)))
        self.context = torch.zeros(len(self.patients), len(disease.context)) if context is None else context
        self._backend: Backend = backend or ("map" if trunk is not None else "ode")
        self._content_hash = content_hash
        # Of the precision and on the device of the rest.
        lower, upper = (torch.from_numpy(b).to(self.current().noise) for b in scales.bounds(disease))
        self.lower, self.upper = lower, upper

    # -- who and what ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.patients)

    def __repr__(self) -> str:
        return (
            f"SimulatorBank({self.name!r}, {len(self)} patients, world={self.current_world!r}, "
            f"backend={self.backend!r})"
        )

    @property
    def state_dim(self) -> int:
        """D, number of components of the state."""
        return self.disease.state_dim

    @property
    def worlds(self) -> tuple[str, ...]:
        """Names of the worlds this bank holds."""
        return tuple(self.world_data)

    @property
    def noise_scale(self) -> Tensor:
        """(P, D) residual SD per square root of the unit of time, normalized."""
        return self.current().noise

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.noise_scale.device

    @property
    def content_hash(self) -> str:
        """SHA-256 of all tensors and patient ids; a selection keeps the hash of the bank it came from."""
        if self._content_hash is None:
            digest = hashlib.sha256("\n".join((self.name, *self.patients)).encode())
            for key, tensor in sorted(self.tensors().items()):
                digest.update(key.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
            self._content_hash = digest.hexdigest()
        return self._content_hash

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their name in the file."""
        found = {"clinician": self.clinician_treatment}
        if self.context.shape[1]:
            found["context"] = self.context
        shared = {} if self.population_data is None else {"population": self.population_data}
        for name, world in (self.world_data | shared).items():
            found |= {f"{name}/field/{k}": t for k, t in world.params.tensors().items()}
            found |= {f"{name}/noise": world.noise, f"{name}/initial": world.initial}
            if world.code is not None:
                found[f"{name}/code"] = world.code
        return found | ({} if self.trunk is None else {f"trunk/{k}": t for k, t in self.trunk.tensors().items()})

    @property
    def backend(self) -> Backend:
        """How the current world's flow is computed."""
        return self._backend if self.trunk is not None and self.current().code is not None else "ode"

    @property
    def padding(self) -> str:
        """How rows of unequal length are cut into rectangles: the backend, or "ticks" where a world steps by itself."""
        return "ticks" if hasattr(self.current().params, "path") else self.backend

    @property
    def noisy(self) -> bool:
        """Whether a path can leave the flow; a world that steps on ticks keeps its own bounds."""
        return not hasattr(self.current().params, "path") or bool((self.noise_scale > 0).any())

    def current(self, world: str | None = None) -> World:
        """Tensors of the current world, or of the one named."""
        return self.world_data[world or self.current_world]

    @property
    def patient_index(self) -> PatientIndex:
        """Finds this bank's patients by id or position."""
        return PatientIndex(self.patients, f"bank {self.name!r}")

    @property
    def split(self) -> Mapping[str, tuple[str, ...]]:
        """ "train" and "test" -> ids of the people on that side; `BankError` if the bank has none."""
        return split_of(self)

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
        """The same bank with other arguments; it keeps its hash unless `content_hash=None` is among them."""
        same = {
            "name": self.name,
            "patients": self.patients,
            "disease": self.disease,
            "scales": self.scales,
            "physics": self.physics,
            "worlds": self.world_data,
            "population": self.population_data,
            "trunk": self.trunk,
            "clinician": self.clinician_treatment,
            "metadata": self.metadata,
            "context": self.context,
            "backend": self._backend,
            "current_world": self.current_world,
        }
        if "content_hash" not in changes:
            changes["content_hash"] = self.content_hash
        return SimulatorBank(**{**same, **changes})

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
            worlds={name: world.select(index) for name, world in self.world_data.items()},
            clinician=self.clinician_treatment[index],
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
        return self.replace(worlds={**self.world_data, name: world}, content_hash=None)

    def population(self) -> SimulatorBank:
        """The population simulator: a bank of one patient, `population`."""
        if self.population_data is None:
            raise BankError(f"bank {self.name!r} has no population simulator; rebuild it with `simulators fit`")
        return self.replace(
            patients=("population",),
            worlds={"own": self.population_data},
            current_world="own",
            clinician=self.clinician_treatment.mean(0, keepdim=True),
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
        return self.replace(backend=backend)

    def to(self, where: torch.device | torch.dtype | str) -> SimulatorBank:
        """The same bank on another device, or in another precision (float64: what datasets are generated in)."""
        return self.replace(
            worlds={name: world.to(where) for name, world in self.world_data.items()},
            population=None if self.population_data is None else self.population_data.to(where),
            trunk=None if self.trunk is None else self.trunk.to(where),
            clinician=self.clinician_treatment.to(where),
            context=self.context.to(where),
        )

    # -- dynamics --------------------------------------------------------------------------------------------------

    def initial_state(self) -> Tensor:
        """(P, D) normalized first state of every patient."""
        return self.current().initial

    @own_defaults()
    def field(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector field, (P, B, D), (P, B, treatments) -> (P, B, D) per unit of time; worlds on a grid have none."""
        dynamics: Any = self.current().params
        if not hasattr(dynamics, "rate"):
            raise BankError(f"bank {self.name!r}: world {self.current_world!r} steps on its own grid and has no field")
        rate: Tensor = dynamics.rate(self.disease, self.scales, self.physics, x, u)
        return rate

    @property
    def relaxation(self) -> Tensor:
        """(P, D) rough linear rate at which each component returns, per hour (for the solution map's inputs)."""
        dynamics: Any = self.current().params
        relaxation: Tensor = dynamics.relaxation()
        return relaxation

    @own_defaults()
    def trajectory(
        self,
        x: Tensor,
        u: Tensor,
        times: Tensor,
        interval: Tensor | None = None,
        start: Tensor | None = None,
        exogenous: Tensor | None = None,
    ) -> Tensor:
        """The whole curve while a treatment is held, without noise.

        Args:
            x: (P, B, D) states at the start.
            u: (P, B, treatments); a bolus is given at the start.
            times: (P, B, T) or (T,) since the start, ascending, at most a little above the longest interval.
            interval: (P, B) for how long the treatment is held, at least the last of `times`. With it a solver steps
                through the interval as it would to reach its end, and interpolates (:func:`.flow.solve_between`);
                without it, from time to time. The map gives the same either way.
            start: (P, B) time of the start, for worlds in which the clock or events matter; 0 if not given.
            exogenous: (P, B, F) the episodes' events; none if not given.

        Returns:
            (P, B, T, D); at time 0 exactly `x`. A world that steps on the disease's ticks gives the state at the last
            tick that has passed.
        """
        x = self.clamp(x)
        world = self.current()
        if hasattr(world.params, "path"):
            return self._path(x, u, times.expand(*x.shape[:-1], times.shape[-1]), start, exogenous)
        if self.backend == "ode" or self.trunk is None or world.code is None:
            times, step = times.expand(*x.shape[:-1], times.shape[-1]), self.disease.process.cell
            if interval is not None:
                return solve_between(self.field, x, u, interval, times, self.lower, self.upper, step)
            return solve(self.field, x, u, times, self.lower, self.upper, step)
        return self.trunk.with_code(world.code)(self.field, x, u, times, self.relaxation, self.lower, self.upper)

    def _path(self, x: Tensor, u: Tensor, times: Tensor, start: Tensor | None, exogenous: Tensor | None) -> Tensor:
        dynamics: Any = self.current().params
        tick = self.disease.process.tick or 1.0
        ticks = torch.floor(times / tick + 1e-4).long().clamp(min=0)
        start = torch.zeros_like(x[..., 0]) if start is None else start
        count = int(ticks.max()) if ticks.numel() else 0
        steps = dynamics.path(self.disease, self.scales, self.physics, x, u, start, count, exogenous)
        whole = torch.cat([x.unsqueeze(2), steps], 2)
        return torch.gather(whole, 2, ticks[..., None].expand(*ticks.shape, x.shape[-1]))

    def flow(
        self, x: Tensor, u: Tensor, dt: Tensor, start: Tensor | None = None, exogenous: Tensor | None = None
    ) -> Tensor:
        """State after holding `u` for `dt`, no noise: (P, B, D), (P, B, treatments), (P, B) -> (P, B, D)."""
        return self.trajectory(x, u, dt.unsqueeze(-1), start=start, exogenous=exogenous).squeeze(-2)

    @own_defaults()
    def step(self, x: Tensor, u: Tensor, dt: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Flow plus residual noise N(0, noise_scale^2 dt), clamped to the bounds. Shapes as in :meth:`flow`."""
        # Drawn on the CPU and moved, so that a seed means the same numbers on every device.
        draw = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        scale = self.noise_scale.unsqueeze(1) * dt.clamp(min=0.0).sqrt().unsqueeze(-1)
        return self.clamp(self.flow(x, u, dt) + scale * draw)

    def clamp(self, x: Tensor) -> Tensor:
        """States (..., D) clamped to their bounds."""
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    # -- units -----------------------------------------------------------------------------------------------------

    def normalize(self, physical: Any) -> Any:
        """Physical states (..., n), the first n components, to normalized."""
        return self.scales.normalize(self.disease, physical)

    def denormalize(self, x: Any) -> Any:
        """Normalized states (..., n), the first n components, to physical units, within their bounds."""
        return self.scales.denormalize(self.disease, x)

    def monitored(self, x: Any) -> Any:
        """The monitored component (...) of normalized states (..., D), in its unit."""
        j = self.disease.monitored
        return self.scales.physical_column(self.disease, x[..., j], j)

    def normalize_treatment(self, physical: Any) -> Any:
        """Doses (..., treatments), physical units, to [0, 1]."""
        return self.scales.normalize_treatment(self.disease, physical)

    def denormalize_treatment(self, u: Any) -> Any:
        """Inverse of :meth:`normalize_treatment`."""
        return self.scales.denormalize_treatment(self.disease, u)

    @own_defaults()
    def save(self, path: str | Path) -> None:
        """Write the bank to one safetensors file, atomically."""
        from safetensors.torch import save_file

        header = {
            "format": FORMAT,
            "name": self.name,
            "disease": self.disease.name,
            "patients": list(self.patients),
            "scales": asdict(self.scales),
            "physics": asdict(self.physics),
            "worlds": list(self.worlds),
            "kinds": {name: world.params.kind for name, world in self.world_data.items()},
            "population_kind": None if self.population_data is None else self.population_data.params.kind,
            "solution_map": None if self.trunk is None else asdict(self.trunk.config),
            "content_hash": self.content_hash,
            "metadata": self.metadata,
        }
        tensors = {k: t.detach().to("cpu", torch.float32).contiguous().clone() for k, t in self.tensors().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"medgym": json.dumps(header, sort_keys=True)})

    def replace_physics(self, **changes: Any) -> SimulatorBank:
        """The same patients with other strengths (an ablation); the solution map no longer applies, so "ode"."""
        return self.replace(physics=replace(self.physics, **changes), backend="ode", trunk=None)
