"""What the patients of a world must offer, and how a disease learns them from records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

__all__ = ["Dynamics", "Model"]


class Dynamics(Protocol):
    """Patient-specific numbers of one world, leading axis P; the tensors of a bank's world.

    A field of ordinary differential equations has `rate` and `relaxation`. What steps by itself on the disease's ticks
    has `path` instead:

        path(disease, scales, physics, x (P, B, D), u (P, B, T), start (P, B), ticks, exogenous) -> (P, B, ticks, D)

    the states at the end of each of the ticks after `start`, with doses held and boluses given at the start.
    """

    @property
    def kind(self) -> str:
        """Name of the class in a bank file."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; the class is built from them by keyword."""

    def select(self, index: Tensor) -> Dynamics:
        """The patients at `index`."""

    def to(self, where: torch.device | torch.dtype | str) -> Dynamics:
        """The same on another device or in another precision."""


class Model(Protocol):
    """How simulators of a disease are learned from records: the parts of :mod:`medgym_offline.simulators.fit`.

    Attributes:
        physics: Strengths that are choices, not estimates: a :func:`~medgym_offline.config.configuration`.
        prior: What records cannot tell: another.
        kinds: Classes a world's dynamics may be of, by the kind in a bank's header.
        pooled: Names of raw tensors in which a patient deviates from the population.
        decayed: Names of raw tensors with weight decay.
    """

    physics: type[Any]
    prior: type[Any]
    kinds: Mapping[str, type[Any]]
    pooled: tuple[str, ...]
    decayed: tuple[str, ...]

    def initial_raw(self, seed: int) -> dict[str, Tensor]:
        """Free numbers at the start of a fit, leading axis 1."""

    def given(self, data: Any, times: np.ndarray, physics: Any, prior: Any, root: int, recency: float) -> Any:
        """Per patient what is estimated or drawn before the fit: {name: (P, ...) float32}."""

    def parameters(self, raw: Mapping[str, Tensor], physics: Any, given: Mapping[str, Tensor]) -> Dynamics:
        """Dynamics from free numbers and what is given."""

    def hidden_course(self, physics: Any, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, hidden components) at each step of the record's treatment (P, T, treatments), normalized."""

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """What :meth:`given` gave, read back from fitted dynamics; `BankError` if they are none."""

    def average(self, dynamics: Dynamics, how: str) -> Dynamics:
        """The population's: what is individual averaged, "mean" or "median"."""
