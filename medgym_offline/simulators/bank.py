"""A simulator bank: one patient simulator per patient, stacked, with everything needed to run and to trust it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.disease import Disease, Scales
from medgym_offline.errors import BankError, unknown_name
from medgym_offline.patients import PatientIndex, Patients
from medgym_offline.sepsis import SEPSIS
from medgym_offline.simulators.field import Dynamics, Physics
from medgym_offline.simulators.flow import SolutionMap, solve, solve_between

__all__ = ["Backend", "SimulatorBank", "World"]

Backend = Literal["map", "ode"]


@dataclass
class World:
    """One version of every patient's dynamics: the simulator policies train in, a held-out one, the population's.

    Attributes:
        params: The field, leading axis P: `FieldParameters`, or `TwinField` where the truth is known.
        noise: (P, D) residual standard deviation per square root of an hour, normalised.
        initial: (P, D) normalised first state.
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

    States are normalised, (P, B, D): the disease's variables, fluid balance, then hidden components. Treatments are
    in [0, 1], (P, B, 3). Times are hours. All tensors are float32.

    Args:
        name: Name of the bank.
        patients: One id per patient.
        scales: The cohort's affine maps.
        physics: Strengths of the field that are choices.
        worlds: `own` and possibly `held-out` (or `true`), each over all patients.
        population: The population model, a world of one patient.
        trunk: Shared trunk of the solution maps (its codes are unused), or None.
        clinician: (P, H, 3) charted treatment per hour, normalised.
        metadata: Provenance; plain JSON types.
        disease: The disease simulated.
        backend: "map" (solution map) or "ode" (solver). A world without codes of the map is solved whatever it says:
            a known truth is not approximated.
    """

    def __init__(
        self,
        name: str,
        patients: Sequence[str],
        scales: Scales,
        physics: Physics,
        worlds: dict[str, World],
        population: World | None,
        trunk: SolutionMap | None,
        clinician: Tensor,
        metadata: dict[str, Any] | None = None,
        disease: Disease = SEPSIS,
        backend: Backend | None = None,
        content_hash: str | None = None,
    ):
        self.name, self.patients, self.scales, self.physics = name, tuple(patients), scales, physics
        self._worlds, self._population, self._trunk = worlds, population, trunk
        self.clinician_treatment, self.metadata, self.disease = clinician, dict(metadata or {}), disease
        self.current_world = "own" if "own" in worlds else next(iter(worlds))
        self._backend: Backend = backend or ("map" if trunk is not None else "ode")
        self._content_hash = content_hash
        lower, upper = scales.bounds(disease)
        self.lower, self.upper = torch.from_numpy(lower), torch.from_numpy(upper)

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
        """Components of the state: variables, fluid balance, hidden."""
        return self.disease.state_dim

    @property
    def worlds(self) -> tuple[str, ...]:
        """Names of the worlds this bank holds."""
        return tuple(self._worlds)

    @property
    def noise_scale(self) -> Tensor:
        """(P, D) residual standard deviation per square root of an hour, normalised."""
        return self._current.noise

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.noise_scale.device

    @property
    def content_hash(self) -> str:
        """SHA-256 of all tensors and patient ids; a selection keeps the hash of the bank it came from."""
        if self._content_hash is None:
            from medgym_offline.simulators.files import bank_tensors

            digest = hashlib.sha256("\n".join((self.name, *self.patients)).encode())
            for key, tensor in sorted(bank_tensors(self).items()):
                digest.update(key.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
            self._content_hash = digest.hexdigest()
        return self._content_hash

    @property
    def backend(self) -> Backend:
        """How the current world's flow is computed."""
        return self._backend if self._trunk is not None and self._current.code is not None else "ode"

    @property
    def _current(self) -> World:
        return self._worlds[self.current_world]

    @property
    def patient_index(self) -> PatientIndex:
        """Finds this bank's patients by id or position."""
        return PatientIndex(self.patients, f"bank {self.name!r}")

    def index(self, patient: int | str) -> int:
        """Position of a patient given by position or id.

        Raises:
            UnknownNameError: No such patient in this bank.
        """
        return self.patient_index.one(patient)

    # -- views -----------------------------------------------------------------------------------------------------

    def _with(self, **changes: Any) -> SimulatorBank:
        other = copy.copy(self)
        _ = self.content_hash
        other.__dict__.update(changes, _content_hash=self.content_hash)
        return other

    @own_defaults()
    def select(self, patients: Patients) -> SimulatorBank:
        """The bank of the given patients (positions or ids), in that order; repeats are allowed.

        Raises:
            UnknownNameError: See :class:`~medgym_offline.patients.PatientIndex`.
        """
        positions = self.patient_index.resolve(patients, repeats=True)
        index = torch.tensor(positions, device=self.device)
        return self._with(
            patients=tuple(self.patients[i] for i in positions),
            _worlds={name: world.select(index) for name, world in self._worlds.items()},
            clinician_treatment=self.clinician_treatment[index],
        )

    def world(self, name: str) -> SimulatorBank:
        """The same patients in another world: "own", "held-out" or "true"."""
        if name not in self._worlds:
            raise unknown_name(f"world of bank {self.name!r}", name, self._worlds)
        return self._with(current_world=name)

    def with_world(self, name: str, world: World) -> SimulatorBank:
        """The same patients with one world more (or another in its place); a new bank with a hash of its own."""
        if world.initial.shape != self.initial_state().shape:
            shapes = tuple(world.initial.shape), tuple(self.initial_state().shape)
            raise BankError(
                f"bank {self.name!r}: world {name!r} has first states {shapes[0]}, the bank's are {shapes[1]}"
            )
        other = self._with(_worlds={**self._worlds, name: world})
        other._content_hash = None
        return other

    def population(self) -> SimulatorBank:
        """The population simulator: a bank of one patient, `population`."""
        if self._population is None:
            raise BankError(f"bank {self.name!r} has no population simulator; rebuild it with `simulators fit`")
        return self._with(
            patients=("population",),
            _worlds={"own": self._population},
            current_world="own",
            clinician_treatment=self.clinician_treatment.mean(0, keepdim=True),
        )

    def with_backend(self, backend: Backend) -> SimulatorBank:
        """The same bank with "map" (solution map) or "ode" (solver) as its flow."""
        if backend not in ("map", "ode"):
            raise unknown_name("backend", backend, ("map", "ode"))
        if backend == "map" and (self._trunk is None or self._current.code is None):
            raise BankError(
                f"bank {self.name!r}: world {self.current_world!r} has no solution map; use backend='ode' or rebuild it"
            )
        return self._with(_backend=backend)

    def to(self, where: torch.device | torch.dtype | str) -> SimulatorBank:
        """The same bank on another device, or in another precision (float64: what datasets are generated in)."""
        return self._with(
            _worlds={name: world.to(where) for name, world in self._worlds.items()},
            _population=None if self._population is None else self._population.to(where),
            _trunk=None if self._trunk is None else self._trunk.to(where),
            clinician_treatment=self.clinician_treatment.to(where),
            lower=self.lower.to(where),
            upper=self.upper.to(where),
        )

    # -- dynamics --------------------------------------------------------------------------------------------------

    def initial_state(self) -> Tensor:
        """(P, D) normalised first state of every patient."""
        return self._current.initial

    @own_defaults()
    def field(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector field, (P, B, D), (P, B, 3) -> (P, B, D) per hour."""
        return self._current.params.rate(self.disease, self.scales, self.physics, x, u)

    @property
    def relaxation(self) -> Tensor:
        """(P, D) rough linear rate at which each component returns, per hour (for the solution map's inputs)."""
        return self._current.params.relaxation()

    @own_defaults()
    def trajectory(self, x: Tensor, u: Tensor, times: Tensor, hold: Tensor | None = None) -> Tensor:
        """The whole curve while a treatment is held, without noise.

        Args:
            x: (P, B, D) states at the start.
            u: (P, B, 3) treatment.
            times: (P, B, T) or (T,) hours since the start, ascending, in [0, 42].
            hold: (P, B) hours that the treatment is held, at least the last of `times`. With it a solver steps
                through the hold as it would to reach its end, and interpolates (:func:`.flow.solve_between`); without
                it, from time to time. The map gives the same either way.

        Returns:
            (P, B, T, D); at time 0 exactly `x`.
        """
        x = self.clamp(x)
        code = self._current.code
        if self.backend == "ode" or self._trunk is None or code is None:
            times = times.expand(*x.shape[:-1], times.shape[-1])
            if hold is not None:
                return solve_between(self.field, x, u, hold, times, self.lower, self.upper)
            return solve(self.field, x, u, times, self.lower, self.upper)
        return self._trunk.with_code(code)(self.field, x, u, times, self.relaxation, self.lower, self.upper)

    def flow(self, x: Tensor, u: Tensor, dt: Tensor) -> Tensor:
        """State after holding `u` for `dt` hours, without noise: (P, B, D), (P, B, 3), (P, B) -> (P, B, D)."""
        return self.trajectory(x, u, dt.unsqueeze(-1)).squeeze(-2)

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
        """Physical states (..., 6, 7 or D) to normalised; the seventh column is fluid balance in litres."""
        return self.scales.normalize(self.disease, physical)

    def denormalize(self, x: Any) -> Any:
        """Normalised states (..., 6, 7 or D) to physical units, within the physical bounds."""
        return self.scales.denormalize(self.disease, x)

    def monitored(self, x: Any) -> Any:
        """The monitored variable (...) of normalised states (..., D), in its unit (sepsis: lactate, mmol/L)."""
        j = self.disease.monitored
        return self.scales.physical_column(self.disease, x[..., j], j)

    def normalize_treatment(self, physical: Any) -> Any:
        """Doses (..., 3): FiO2 %, vasopressor mcg/kg/min, fluids mL/h, to [0, 1]."""
        return self.scales.normalize_treatment(self.disease, physical)

    def denormalize_treatment(self, u: Any) -> Any:
        """Inverse of :meth:`normalize_treatment`."""
        return self.scales.denormalize_treatment(self.disease, u)

    def save(self, path: str | Path) -> None:
        """Write the bank to one safetensors file, atomically."""
        from medgym_offline.simulators.files import save_bank

        save_bank(self, path)

    def replace_physics(self, **changes: Any) -> SimulatorBank:
        """The same patients with other strengths (an ablation); the solution map no longer applies, so "ode"."""
        return self._with(physics=replace(self.physics, **changes), _backend="ode", _trunk=None)
