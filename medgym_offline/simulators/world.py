"""The worlds of a bank, and how all of its patients move in one of them as one batched program."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import Disease, Dynamics
from medgym_offline.diseases.scales import Scales
from medgym_offline.errors import BankError
from medgym_offline.simulators.flow import BoundedField, SolutionMap
from medgym_offline.stack import NoChoices, StackedTensors

__all__ = ["Backend", "Motion", "World"]

Backend = Literal["map", "ode"]


@dataclass
class World(StackedTensors):
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
        return replace(super().select(index), params=self.params.select(index))

    def to(self, where: torch.device | torch.dtype | str) -> World:
        """The same world on another device or in another precision."""
        return replace(super().to(where), params=self.params.to(where))


@dataclass(eq=False, repr=False)
class Motion:
    """The flow of P patients in the current world of a bank (:class:`~medgym_offline.simulators.bank.SimulatorBank`).

    States are normalized, (P, B, D): the disease's components. Treatments are in [0, 1], (P, B, treatments). Times are
    in the disease's unit. All tensors are float32.

    Attributes:
        name: Name of the bank.
        patients: One id per patient.
        disease: The disease simulated.
        scales: The cohort's affine maps.
        world_data: `own` and possibly `crossfit` and `true`, each over all patients.
        clinician_treatment: (P, T, treatments) charted treatment per unit of time, normalized.
        physics: Strengths of the dynamics that are choices; the disease's own dataclass.
        population_data: The population model, a world of one patient.
        trunk: Shared trunk of the solution maps (its codes are unused), or None.
        metadata: Provenance; plain JSON types.
        context: (P, C) what is known of the patients, in the order of `disease.context`.
        flow_by: "map" (solution map) or "ode" (solver). A world without codes of the map is solved whatever it says: a
            known truth is not approximated.
        current_world: The world it is in; `own`, or the first.
        known_hash: The hash of the file, or of the bank that it was selected from; None: of what is in it.
        lower, upper: (D,) normalized bounds.
    """

    name: str
    patients: tuple[str, ...]
    disease: Disease
    scales: Scales
    world_data: dict[str, World]
    clinician_treatment: Tensor
    physics: Any = field(default_factory=NoChoices)
    population_data: World | None = None
    trunk: SolutionMap | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    context: Tensor = field(default_factory=lambda: torch.zeros(0))
    flow_by: Backend = "map"
    current_world: str = ""
    known_hash: str | None = None
    lower: Tensor = field(init=False)
    upper: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.patients, self.metadata = tuple(self.patients), dict(self.metadata)
        self.current_world = self.current_world or ("own" if "own" in self.world_data else next(iter(self.world_data)))
        # All of the precision and on the device of the rest.
        like = self.current().noise
        if not self.context.numel():
            self.context = like.new_zeros(len(self.patients), len(self.disease.context))
        self.lower, self.upper = (torch.from_numpy(b).to(like) for b in self.scales.bounds(self.disease))

    def current(self, world: str | None = None) -> World:
        """Tensors of the current world, or of the one named."""
        return self.world_data[world or self.current_world]

    @property
    def state_dim(self) -> int:
        """D, number of components of the state."""
        return self.disease.state_dim

    @property
    def noise_scale(self) -> Tensor:
        """(P, D) residual SD per square root of the unit of time, normalized."""
        return self.current().noise

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.noise_scale.device

    @property
    def backend(self) -> Backend:
        """How the current world's flow is computed."""
        return self.flow_by if self.trunk is not None and self.current().code is not None else "ode"

    @property
    def padding(self) -> str:
        """How rows of unequal length are cut into rectangles: the backend, or "ticks" where a world steps by itself."""
        return "ticks" if hasattr(self.current().params, "path") else self.backend

    @property
    def noisy(self) -> bool:
        """Whether a path can leave the flow; a world that steps on ticks keeps its own bounds."""
        return not hasattr(self.current().params, "path") or bool((self.noise_scale > 0).any())

    def initial_state(self) -> Tensor:
        """(P, D) normalized first state of every patient."""
        return self.current().initial

    @own_defaults()
    def field(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector field, (P, B, D), (P, B, treatments) -> (P, B, D) per unit of time; worlds on a grid have none."""
        dynamics: Any = self.current().params
        if not hasattr(dynamics, "rate"):
            raise BankError(f"bank {self.name!r}: world {self.current_world!r} steps on its own grid and has no field")
        return dynamics.rate(self.disease, self.scales, self.physics, x, u)

    @property
    def relaxation(self) -> Tensor:
        """(P, D) rough linear rate at which each component returns, per hour (for the solution map's inputs)."""
        dynamics: Any = self.current().params
        return dynamics.relaxation()

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
                through the interval as it would to reach its end, and interpolates; without it, from time to time.
                The map gives the same either way.
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
        field = BoundedField(self.field, self.lower, self.upper)
        if self.backend == "map" and self.trunk is not None and world.code is not None:
            return replace(self.trunk, code=world.code)(field, x, u, times, self.relaxation)
        times, step = times.expand(*x.shape[:-1], times.shape[-1]), self.disease.process.cell
        if interval is None:
            return field.solve(x, u, times, step)
        return field.solve_between(x, u, interval, times, step)

    def _path(self, x: Tensor, u: Tensor, times: Tensor, start: Tensor | None, exogenous: Tensor | None) -> Tensor:
        dynamics: Any = self.current().params
        ticks = torch.floor(times / (self.disease.process.tick or 1.0) + 1e-4).long().clamp(min=0)
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
