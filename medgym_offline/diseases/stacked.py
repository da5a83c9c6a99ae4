"""What the dynamics of every disease have in common: tensors with a leading patient axis, chosen and moved together."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from typing_extensions import Self  # typing has it from Python 3.11 on

__all__ = ["StackedTensors"]


class StackedTensors:
    """Mixin of dataclasses: three methods of :class:`~medgym_offline.diseases.model.Dynamics`.

    Attributes:
        shares: Whether a tensor with a leading 1 is that of all patients, and stays so when some are chosen.
    """

    shares: ClassVar[bool] = False

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        named = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        return {name: t for name, t in named.items() if isinstance(t, Tensor)}

    def select(self, index: Tensor) -> Self:
        """The patients at `index`."""
        kept = {name: t if self.shares and len(t) == 1 else t[index] for name, t in self.tensors().items()}
        return replace(cast(Any, self), **kept)

    def to(self, where: torch.device | torch.dtype | str) -> Self:
        """The same on another device or in another precision."""
        return replace(cast(Any, self), **{name: t.to(where) for name, t in self.tensors().items()})
