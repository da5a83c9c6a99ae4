"""Stacked tanh networks as functions of a flat parameter, with their derivatives written out.

A second-order method needs three products with the Jacobian J = d output / d theta and nothing else: the output,
`J v` (forward mode) and `J^T g` (reverse mode). For an MLP each is three matrix products, so they are written here by
hand: no graph is built, and every activation is computed once per batch and shared by all products.

    h_0 = x,  h_i = tanh(h_{i-1} W_i + b_i),  output = h_{n-1} W_n + b_n

A parameter is one flat tensor per patient, `(P, n)`; the weights are views into it in the layout of
:mod:`medgym_offline.stack` (`W_i (P, in, out)`, `b_i (P, 1, out)`). Nothing here loops over patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Adam", "TanhMLP"]


@dataclass(frozen=True)
class TanhMLP:
    """A stack of tanh MLPs of one shape.

    Args:
        sizes: Width of input, hidden layers and output, for instance `(9, 64, 64, 4)`.
    """

    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of parameters per patient."""
        return sum(a * b + b for a, b in zip(self.sizes[:-1], self.sizes[1:]))

    def layers(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views `(W (P, in, out), b (P, 1, out))` of the flat parameter `theta (P, n)`, first layer first."""
        patients, found, start = theta.shape[0], [], 0
        for width, out in zip(self.sizes[:-1], self.sizes[1:]):
            middle, stop = start + width * out, start + width * out + out
            found.append(
                (theta[:, start:middle].view(patients, width, out), theta[:, middle:stop].view(patients, 1, out))
            )
            start = stop
        return found

    def flatten(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Inverse of :meth:`layers`: one flat tensor `(P, n)`."""
        return torch.cat([part.reshape(part.shape[0], -1) for layer in layers for part in layer], dim=1)

    def initial(self, generators: Sequence[np.random.Generator], output_gain: float = 1.0) -> Tensor:
        """Flat parameter `(P, n)`: Glorot-uniform weights, zero biases, the last layer scaled by `output_gain`.

        Args:
            generators: One per patient, so that a patient's start does not depend on its batch mates.
            output_gain: Factor on the last layer's weights; small means an almost constant first output.
        """
        rows = []
        for rng in generators:
            parts = []
            for i, (width, out) in enumerate(zip(self.sizes[:-1], self.sizes[1:])):
                bound = math.sqrt(6.0 / (width + out)) * (output_gain if i == len(self.sizes) - 2 else 1.0)
                parts += [rng.uniform(-bound, bound, width * out), np.zeros(out)]
            rows.append(np.concatenate(parts))
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def activations(self, theta: Tensor, x: Tensor) -> list[Tensor]:
        """`[x, h_1, .., output]` for inputs `x (P, N, sizes[0])`; the last is `(P, N, sizes[-1])`."""
        found, layers = [x], self.layers(theta)
        for i, (weight, bias) in enumerate(layers):
            out = torch.baddbmm(bias, found[-1], weight)
            found.append(out.tanh_() if i < len(layers) - 1 else out)
        return found

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output `(P, N, sizes[-1])`."""
        return self.activations(theta, x)[-1]

    def slopes(self, activations: Sequence[Tensor]) -> list[Tensor]:
        """tanh' = 1 - h^2 of every hidden layer; computed once for the many products of one batch."""
        return [(-h).mul_(h).add_(1.0) for h in activations[1:-1]]

    def jvp(self, theta: Tensor, activations: Sequence[Tensor], slopes: Sequence[Tensor], tangent: Tensor) -> Tensor:
        """`J v`: change of the output `(P, N, sizes[-1])` along the parameter direction `tangent (P, n)`."""
        moved: Tensor | None = None
        layers, moves = self.layers(theta), self.layers(tangent)
        for i, ((weight, _), (d_weight, d_bias)) in enumerate(zip(layers, moves)):
            change = torch.baddbmm(d_bias, activations[i], d_weight)
            if moved is not None:
                change.baddbmm_(moved, weight)
            moved = change.mul_(slopes[i]) if i < len(layers) - 1 else change
        assert moved is not None
        return moved

    def vjp(self, theta: Tensor, activations: Sequence[Tensor], slopes: Sequence[Tensor], cotangent: Tensor) -> Tensor:
        """`J^T g`: gradient `(P, n)` of `sum(output * cotangent)`, for `cotangent (P, N, sizes[-1])`."""
        layers, back = self.layers(theta), cotangent
        gradient = torch.empty_like(theta)
        for i in reversed(range(len(layers))):
            weight, bias = self.layers(gradient)[i]
            weight.copy_(torch.bmm(activations[i].transpose(1, 2), back))
            bias.copy_(back.sum(dim=1, keepdim=True))
            if i:
                back = torch.bmm(back, layers[i][0].transpose(1, 2)).mul_(slopes[i - 1])
        return gradient

    def input_vjp(self, theta: Tensor, slopes: Sequence[Tensor], cotangent: Tensor) -> Tensor:
        """Gradient `(P, N, sizes[0])` of `sum(output * cotangent)` with respect to the input."""
        layers, back = self.layers(theta), cotangent
        for i in reversed(range(len(layers))):
            back = torch.bmm(back, layers[i][0].transpose(1, 2))
            if i:
                back = back.mul_(slopes[i - 1])
        return back


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015) on a flat stack `(P, n)`; each patient has its own moments and step count.

    The step count is per patient so that a patient that was stopped, or joined later, keeps its own bias correction.
    """

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def zeros(cls, theta: Tensor) -> Adam:
        """Fresh moments for the parameter `theta (P, n)`."""
        steps = torch.zeros(theta.shape[0], 1, dtype=theta.dtype, device=theta.device)
        return cls(torch.zeros_like(theta), torch.zeros_like(theta), steps)

    def step_(
        self,
        theta: Tensor,
        gradient: Tensor,
        rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        active: Tensor | None = None,
    ) -> None:
        """Move `theta` in place down `gradient`, both `(P, n)`; only the patients `active (P,)` bool, when given."""
        if active is not None:
            some = Adam(self.mean[active], self.square[active], self.steps[active])
            moved = theta[active]
            some.step_(moved, gradient[active], rate, betas)
            theta[active], self.mean[active], self.square[active] = moved, some.mean, some.square
            self.steps[active] = some.steps
            return
        self.steps += 1.0
        self.mean.mul_(betas[0]).add_(gradient, alpha=1.0 - betas[0])
        self.square.mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])
        corrected = (self.square / (1.0 - betas[1] ** self.steps)).sqrt_().add_(1e-8)
        theta.sub_((self.mean / (1.0 - betas[0] ** self.steps)).div_(corrected), alpha=rate)
