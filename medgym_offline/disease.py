"""What is treated: one object that names a disease's variables, treatments, severity, reward terms and cost.

Everything downstream (cohorts, simulators, environments, evaluation) reads variables, units and bounds from here,
so another disease is another :class:`Disease`, not another code base. All functions take NumPy arrays or torch
tensors and return the same kind.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Array", "Disease", "Scales", "Treatment", "Variable", "namespace"]

Array = Any
"""A NumPy array or a torch tensor."""

Transform = Literal["identity", "log", "log1p", "sqrt"]


def namespace(x: Array) -> Any:
    """The module whose functions act on `x`: torch for tensors, NumPy otherwise. Never imports torch itself."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch
    return np


def stack_last(columns: Sequence[Array]) -> Array:
    """Arrays of one shape (...) to (..., n), contiguous; torch transposes n columns faster than it interleaves them."""
    xp = namespace(columns[0])
    return np.stack(columns, -1) if xp is np else xp.stack(columns).movedim(0, -1).contiguous()


def _forward(transform: Transform, x: Array) -> Array:
    xp = namespace(x)
    if transform == "log":
        return xp.log(x)
    if transform == "log1p":
        return xp.log1p(x)
    return xp.sqrt(x) if transform == "sqrt" else x


def _inverse(transform: Transform, y: Array) -> Array:
    xp = namespace(y)
    if transform == "log":
        return xp.exp(y)
    if transform == "log1p":
        return xp.expm1(y)
    return y * y if transform == "sqrt" else y


@dataclass(frozen=True)
class Variable:
    """A state variable.

    Attributes:
        name: Column name in cohort tables.
        unit: Physical unit.
        lower, upper: Physical bounds; states are clamped to them.
        transform: Applied before centring and scaling.
        center, scale: Default affine map after the transform; a bank stores its cohort's own in :class:`Scales`.
    """

    name: str
    unit: str
    lower: float
    upper: float
    transform: Transform
    center: float
    scale: float


@dataclass(frozen=True)
class Treatment:
    """A continuous treatment and its map to [0, 1].

        u(t) = (log1p(t/s) - log1p(lower/s)) / (log1p(upper/s) - log1p(lower/s))

    so 0 is no treatment, 1 the largest dose in common use, and small doses are resolved finely.

    Attributes:
        name: Column name in cohort tables.
        unit: Physical unit.
        lower, upper: Doses at u = 0 and u = 1.
        knee: `s`, the dose above which the map is about logarithmic.
    """

    name: str
    unit: str
    lower: float
    upper: float
    knee: float


@dataclass(frozen=True)
class Disease:
    """A disease as the benchmark sees it.

    Attributes:
        name: Short name.
        variables: Observed physiological variables, in the order of the state's first columns.
        treatments: Treatments in the order of the action's first columns.
        balance_litres: Fluid balance in litres that counts as 1 in normalised coordinates.
        balance_bounds: Bounds of the fluid balance, litres.
        hidden: Names of state components after the fluid balance that no policy observes.
        severity: `(physical state (..., >= n_variables), physical treatment (..., n_treatments)) -> (...)`.
        burden: `(normalised treatment (..., n_treatments)) -> (...)`: what treating costs per hour, in severity points.
        cost: `(monitored variable at start, at end of a decision) -> (...)`: the safety cost of a decision.
        monitored: Index of the variable that safety looks at.
        monitored_limit: Its threshold, physical units; above it a state is unsafe.
    """

    name: str
    variables: tuple[Variable, ...]
    treatments: tuple[Treatment, ...]
    balance_litres: float
    balance_bounds: tuple[float, float]
    hidden: tuple[str, ...]
    severity: Callable[[Array, Array], Array]
    burden: Callable[[Array], Array]
    cost: Callable[[Array, Array], Array]
    monitored: int
    monitored_limit: float

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all state components: variables, fluid balance, hidden ones."""
        return (*(v.name for v in self.variables), "fluid_balance", *self.hidden)

    @property
    def state_dim(self) -> int:
        """Number of state components."""
        return len(self.state_names)

    @property
    def observed_dim(self) -> int:
        """Number of state components that a policy observes (variables and fluid balance)."""
        return len(self.variables) + 1

    def default_scales(self) -> Scales:
        """Scales from the defaults of the variables and treatments."""
        return Scales(
            tuple(v.center for v in self.variables),
            tuple(v.scale for v in self.variables),
            tuple(t.upper for t in self.treatments),
        )


@functools.lru_cache(maxsize=256)
def _normalised_bound(v: Variable, center: float, scale: float) -> tuple[float, float]:
    ends = (_forward(v.transform, np.float64(end)) for end in (v.lower, v.upper))
    lower, upper = ((float(end) - center) / scale for end in ends)
    return lower, upper


@dataclass(frozen=True)
class Scales:
    """One affine map per variable for a whole cohort, stored with its simulators.

        x = (transform(physical) - center) / scale            treatments as in :class:`Treatment`

    Attributes:
        center, scale: Per variable, after its transform.
        treatment_upper: Dose at u = 1 per treatment.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    treatment_upper: tuple[float, ...]

    def normalize(self, disease: Disease, physical: Array) -> Array:
        """Physical state (..., n) to normalised; columns beyond the variables are balance (litres) and hidden ones."""
        return stack_last([self.normal_column(disease, physical[..., j], j) for j in range(physical.shape[-1])])

    def normal_column(self, disease: Disease, column: Array, j: int) -> Array:
        """Column `j` of :meth:`normalize` from the physical one, (...)."""
        xp = namespace(column)
        if j < len(disease.variables):
            v = disease.variables[j]
            return (_forward(v.transform, xp.clip(column, v.lower, v.upper)) - self.center[j]) / self.scale[j]
        if j == len(disease.variables):
            return xp.clip(column, *disease.balance_bounds) / disease.balance_litres
        return column

    def denormalize(self, disease: Disease, x: Array) -> Array:
        """Inverse of :meth:`normalize`; the result is within the physical bounds."""
        return stack_last([self.physical_column(disease, x[..., j], j) for j in range(x.shape[-1])])

    def physical_column(self, disease: Disease, column: Array, j: int) -> Array:
        """Column `j` of :meth:`denormalize` from the normalised one, (...)."""
        xp = namespace(column)
        if j < len(disease.variables):
            v = disease.variables[j]
            # Bounds are applied before the inverse: squaring a negative root would fold it back.
            bounded = xp.clip(column, *self.bound(disease, j))
            return xp.clip(_inverse(v.transform, bounded * self.scale[j] + self.center[j]), v.lower, v.upper)
        return column * disease.balance_litres if j == len(disease.variables) else column

    def bound(self, disease: Disease, j: int) -> tuple[float, float]:
        """Normalised lower and upper bound of state component `j`."""
        if j < len(disease.variables):
            return _normalised_bound(disease.variables[j], self.center[j], self.scale[j])
        if j == len(disease.variables):
            low, high = disease.balance_bounds
            return low / disease.balance_litres, high / disease.balance_litres
        return 0.0, 4.0

    def bounds(self, disease: Disease) -> tuple[np.ndarray, np.ndarray]:
        """Normalised bounds of all state components, float32 arrays (D,), (D,)."""
        pairs = [self.bound(disease, j) for j in range(disease.state_dim)]
        return np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.float32)

    def normalize_treatment(self, disease: Disease, physical: Array) -> Array:
        """Doses (..., n_treatments) to [0, 1], clipped to the range in use."""
        xp = namespace(physical)
        columns = []
        for j, t in enumerate(disease.treatments):
            low, high = np.log1p(t.lower / t.knee), np.log1p(self.treatment_upper[j] / t.knee)
            dose = xp.clip(physical[..., j], t.lower, self.treatment_upper[j])
            columns.append((xp.log1p(dose / t.knee) - float(low)) / float(high - low))
        return stack_last(columns)

    def denormalize_treatment(self, disease: Disease, u: Array) -> Array:
        """Inverse of :meth:`normalize_treatment`; `u` is clipped to [0, 1]."""
        xp = namespace(u)
        columns = []
        for j, t in enumerate(disease.treatments):
            low, high = np.log1p(t.lower / t.knee), np.log1p(self.treatment_upper[j] / t.knee)
            unit = xp.clip(u[..., j], 0.0, 1.0)
            columns.append(t.knee * xp.expm1(float(low) + unit * float(high - low)))
        return stack_last(columns)
