"""What the models of diseases have in common: tensors with a leading patient axis, chosen and moved together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor
from typing_extensions import Self  # typing has it from Python 3.11 on

from medgym_offline.config import configuration
from medgym_offline.errors import BankError, DiseaseError

__all__ = ["NoChoices", "StackedTensors", "WorldsOnly"]


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


@configuration("choices", BankError)
class NoChoices:
    """Nothing is a choice of strength, or has a prior."""


class WorldsOnly:
    """Model of a disease whose banks are not fitted to cohort tables: the kinds of their worlds.

    Args:
        kinds: See :class:`~medgym_offline.diseases.model.Model`.
        remedy: How banks are built, for the error that everything else raises.
    """

    physics: type[Any] = NoChoices
    prior: type[Any] = NoChoices
    pooled: tuple[str, ...] = ()
    decayed: tuple[str, ...] = ()

    def __init__(self, kinds: Mapping[str, type[Any]], remedy: str):
        self.kinds, self._remedy = kinds, remedy

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise DiseaseError(self._remedy)

    initial_raw = given = parameters = hidden_course = given_of = average = _refuse
