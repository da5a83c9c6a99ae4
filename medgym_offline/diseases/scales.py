"""Physical units to normalized coordinates and back: one affine map per component, for NumPy and torch alike."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from medgym_offline.diseases.base import Component, Disease, Treatment

__all__ = ["Array", "Scales", "Transform", "namespace", "stack_last"]

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
    return x if transform == "identity" else getattr(namespace(x), transform)(x)


def _inverse(transform: Transform, y: Array) -> Array:
    if transform in ("identity", "sqrt"):
        return y if transform == "identity" else y * y
    return getattr(namespace(y), {"log": "exp", "log1p": "expm1"}[transform])(y)


@functools.lru_cache(maxsize=256)
def _normalized_bound(c: Component, center: float, scale: float) -> tuple[float, float]:
    ends = (_forward(c.transform, np.float64(end)) for end in (c.lower, c.upper))
    lower, upper = ((float(end) - center) / scale for end in ends)
    return lower, upper


@functools.lru_cache(maxsize=256)
def _dose_ends(t: Treatment, upper: float) -> tuple[float, float]:
    low, high = (float(_forward(t.transform, np.float64(d / t.knee))) for d in (t.lower, upper))
    return low, high


@dataclass(frozen=True)
class Scales:
    """One affine map per component for a whole cohort, stored with its simulators.

        x = (transform(physical) - center) / scale       treatments as in
        :class:`~medgym_offline.diseases.base.Treatment`

    Attributes:
        center, scale: Per observed component, after its transform; other components have their own.
        treatment_upper: Dose at u = 1 per treatment.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    treatment_upper: tuple[float, ...]

    def _map(self, disease: Disease, j: int) -> tuple[Component, float, float]:
        c = disease.components[j]
        return (c, self.center[j], self.scale[j]) if j < len(self.center) else (c, c.center, c.scale)

    def normalize(self, disease: Disease, physical: Array) -> Array:
        """Physical state (..., n), the first n components, to normalized."""
        return stack_last([self.normal_column(disease, physical[..., j], j) for j in range(physical.shape[-1])])

    def normal_column(self, disease: Disease, column: Array, j: int) -> Array:
        """Column `j` of :meth:`normalize` from the physical one, (...)."""
        c, center, scale = self._map(disease, j)
        return (_forward(c.transform, namespace(column).clip(column, c.lower, c.upper)) - center) / scale

    def denormalize(self, disease: Disease, x: Array) -> Array:
        """Inverse of :meth:`normalize` for states within their bounds; observed components are clipped to theirs."""
        return stack_last([self.physical_column(disease, x[..., j], j) for j in range(x.shape[-1])])

    def physical_column(self, disease: Disease, column: Array, j: int) -> Array:
        """Column `j` of :meth:`denormalize` from the normalized one, (...)."""
        xp = namespace(column)
        c, center, scale = self._map(disease, j)
        if j >= len(self.center) and c.transform == "identity":
            # Exact bookkeeping or hidden: states are clamped already, and most of these are not scaled.
            return column if (center, scale) == (0.0, 1.0) else column * scale + center
        if c.transform == "identity":
            return xp.clip(column * scale + center, c.lower, c.upper)
        # Bounds are applied before the inverse: squaring a negative root would fold it back.
        bounded = xp.clip(column, *_normalized_bound(c, center, scale))
        return xp.clip(_inverse(c.transform, bounded * scale + center), c.lower, c.upper)

    def bound(self, disease: Disease, j: int) -> tuple[float, float]:
        """Normalized lower and upper bound of component `j`."""
        return _normalized_bound(*self._map(disease, j))

    def bounds(self, disease: Disease) -> tuple[np.ndarray, np.ndarray]:
        """Normalized bounds of all components, float32 arrays (D,), (D,)."""
        pairs = [self.bound(disease, j) for j in range(disease.state_dim)]
        return np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.float32)

    def normalize_treatment(self, disease: Disease, physical: Array) -> Array:
        """Doses (..., T) to [0, 1], clipped to the range in use."""
        xp = namespace(physical)
        columns = []
        for j, t in enumerate(disease.treatments):
            low, high = _dose_ends(t, self.treatment_upper[j])
            dose = xp.clip(physical[..., j], t.lower, self.treatment_upper[j])
            columns.append((_forward(t.transform, dose / t.knee) - low) / (high - low))
        return stack_last(columns)

    def denormalize_treatment(self, disease: Disease, u: Array) -> Array:
        """Inverse of :meth:`normalize_treatment`; `u` is clipped to [0, 1]."""
        xp = namespace(u)
        columns = []
        for j, t in enumerate(disease.treatments):
            low, high = _dose_ends(t, self.treatment_upper[j])
            columns.append(t.knee * _inverse(t.transform, low + xp.clip(u[..., j], 0.0, 1.0) * (high - low)))
        return stack_last(columns)
