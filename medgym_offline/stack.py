"""Stacked layers: one network per patient, trained and evaluated together.

A stack holds `P` networks of one shape as tensors with a leading patient axis: weights `(P, in, out)`, inputs
`(P, B, in)`. Losses are summed over patients, so each network sees exactly the gradient it would see alone, and
Adam (elementwise) keeps them independent. A model shared by all patients is a stack of one.

:class:`StackedTensors` is what the models of diseases have in common: tensors chosen and moved together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration
from medgym_offline.errors import BankError, DiseaseError
from medgym_offline.seeds import torch_generator

__all__ = [
    "NoChoices", "StackedLinear", "StackedMLP", "StackedTensors", "Steps", "WHOLE", "WorldsOnly", "activated",
    "clip_gradients",
]  # fmt: skip

_ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": nn.functional.silu,
    "identity": lambda x: x,
    # Its gain and shift would be absorbed by the next layer, so it has none.
    "relu-norm": lambda x: nn.functional.layer_norm(torch.relu(x), x.shape[-1:]),
}


def activated(name: str, x: Tensor) -> Tensor:
    """The activation called `name` of x."""
    return _ACTIVATIONS[name](x)


@dataclass(frozen=True)
class Steps:
    """How a network over a window reads its input (:mod:`medgym_offline.sequences`).

    Attributes:
        history, action: n observations, with actions of width A between them.
        extra: Columns behind the window.
    """

    history: int
    action: int
    extra: int = 0


WHOLE = Steps(1, 0)
"""No window: the input is one observation."""


class StackedLinear(nn.Module):
    """`y[p] = x[p] @ weight[p] + bias[p]` for every patient at once.

    Args:
        inputs, outputs: Widths.
        generators: One torch generator per patient; each draws its own patient's weights.
        gain: Scale of the LeCun-uniform initialization (variance gain^2 / inputs).
    """

    def __init__(self, inputs: int, outputs: int, generators: Sequence[torch.Generator], gain: float):
        super().__init__()
        bound = gain * math.sqrt(3.0 / inputs)
        weight = torch.stack([torch.rand((inputs, outputs), generator=g) for g in generators])
        self.weight = nn.Parameter(bound * (2.0 * weight - 1.0))
        self.bias = nn.Parameter(torch.zeros(len(generators), 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(P, B, in) -> (P, B, out). A stack of one is applied to each of P by itself, as P equal layers would be."""
        count = x.shape[0]
        return torch.baddbmm(self.bias.expand(count, -1, -1), x, self.weight.expand(count, -1, -1))


class StackedMLP(nn.Module):
    """A multilayer perceptron per patient.

    Args:
        patients: Number of stacked networks, P.
        sizes: Widths from input to output, e.g. `(9, 64, 64, 3)`.
        activation: "tanh", "relu", "silu" or "relu-norm" (ReLU, then layer normalization) between layers.
        output: Activation of the last layer.
        seeds: One integer per patient for the initial weights; default 0, 1, ..., P - 1. A patient's initial
            network depends on its own seed alone.
        output_gain: Scale of the last layer's initial weights (small: near-zero outputs at the start).
        steps: How the input is read, for networks over windows (:mod:`medgym_offline.sequences`).
    """

    kind: ClassVar[str] = "mlp"
    numbers: ClassVar[tuple[str, ...]] = ()
    """Names of buffers with one number per network, 1 at the start."""

    @own_defaults()
    def __init__(
        self,
        patients: int,
        sizes: Sequence[int],
        activation: str = "tanh",
        output: str = "identity",
        seeds: Sequence[int] | None = None,
        output_gain: float = 1.0,
        steps: Steps = WHOLE,
    ):
        super().__init__()
        seeds = list(range(patients)) if seeds is None else list(seeds)
        if len(seeds) != patients:
            raise ValueError(f"{patients} stacked networks need as many seeds, not {len(seeds)}")
        generators = [torch_generator(int(s), "stacked-mlp") for s in seeds]
        self.sizes, self.activation, self.output, self.steps = tuple(sizes), activation, output, steps
        widths = self.widths(sizes, steps)
        last = len(widths) - 1
        self.layers = nn.ModuleList(
            StackedLinear(a, b, generators, output_gain if i == last else 1.0) for i, (a, b) in enumerate(widths)
        )
        for name in self.numbers:
            self.register_buffer(name, torch.ones(patients, 1, 1))

    @staticmethod
    def widths(sizes: Sequence[int], steps: Steps = WHOLE) -> list[tuple[int, int]]:
        """Inputs and outputs of every layer."""
        return list(zip(sizes[:-1], sizes[1:]))

    @property
    def state_inputs(self) -> int:
        """Leading inputs of layer 0 that are columns of the state as it is given."""
        return self.sizes[0]

    @classmethod
    def shapes(cls, patients: int, sizes: Sequence[int], steps: Steps = WHOLE) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in the state of such a stack."""
        found: dict[str, tuple[int, ...]] = dict.fromkeys(cls.numbers, (patients, 1, 1))
        for i, (a, b) in enumerate(cls.widths(sizes, steps)):
            found[f"layers.{i}.weight"], found[f"layers.{i}.bias"] = (patients, a, b), (patients, 1, b)
        return found

    @property
    def patients(self) -> int:
        """Number of stacked networks, P."""
        return int(self.layers[0].weight.shape[0])  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """(P, B, in) -> (P, B, out)."""
        return self.behind(0, x)

    def behind(self, first: int, x: Tensor) -> Tensor:
        """(P, B, inputs of layer `first`) -> (P, B, out): through it and those behind it."""
        last = len(self.layers) - 1
        for i in range(first, last + 1):
            x = activated(self.activation if i < last else self.output, self.layers[i](x))
        return x

    def like(self, patients: int) -> StackedMLP:
        """A stack of the same form with so many networks, whose weights are to be loaded."""
        blank = [0] * patients
        return type(self)(patients, self.sizes, self.activation, self.output, seeds=blank, steps=self.steps)

    @own_defaults()
    def select(self, indices: Sequence[int] | Tensor) -> StackedMLP:
        """A copy that holds only the networks at `indices` (repeats allowed), in that order."""
        index = torch.as_tensor(indices, dtype=torch.long)
        copy = self.like(len(index))
        copy.load_state_dict({name: value[index].clone() for name, value in self.state_dict().items()})
        return copy.to(next(self.parameters()).device)


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale each patient's gradient to at most `limit` in Euclidean norm, patient by patient, in place.

    Args:
        parameters: Stacked parameters `(P, ...)` whose `.grad` is set.
        limit: Largest norm.

    Returns:
        (P,) norms before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    factor = (limit / (norm + 1e-12)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))
    return norm


class StackedTensors:
    """Mixin of dataclasses: three methods of :class:`~medgym_offline.diseases.base.Dynamics`.

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
        kinds: See :class:`~medgym_offline.diseases.base.Model`.
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
