"""Stacked policies and critics as functions of a flat parameter, with their derivatives written out.

A parameter is one flat tensor per patient, `(P, n)`; the weights are views into it in the layout of
:mod:`medgym_offline.stack` (`W_i (P, in, out)`, `b_i (P, 1, out)`). Nothing here loops over patients.

    h_0 = x,  h_i = tanh(h_{i-1} W_i + b_i),  output = h_{n-1} W_n + b_n

A second-order method needs the output and two products with the Jacobian J = d output / d theta: `J v` (forward mode)
and `J^T g` (reverse mode), ten of each per update on the same rows. For an MLP each is three matrix products, so they
are written here by hand. The same products of :class:`~medgym_offline.stack.StackedMLP` by `torch.func` take 1.8
times as long (`vjp` with `jvp`; 3.1 times with `linearize`, 1.4 times by differentiating twice): 22 policies of two
layers of 64, 1040 rows, one thread.

The policy is a tanh-squashed Gaussian whose spread does not depend on the state:

    z ~ N(mu_theta(s), diag(sigma^2)),   a = tanh(z),   log sigma in [-3, 0]

Density ratios and the KL divergence of two such policies are those of the Gaussians before squashing: tanh is one fixed
invertible map, whose Jacobian cancels in a ratio, and KL is invariant under it. Both are therefore closed-form:

    KL(old || new) = mean_s sum_i [ log(sigma'_i/sigma_i) + (sigma_i^2 + (mu_i - mu'_i)^2) / (2 sigma'_i^2) - 1/2 ]

and its Hessian at new = old, the Fisher matrix, is exactly

    F = [ J^T diag(1/sigma^2) J / N    0 ]      J = d mu / d theta
        [ 0                          2 I ]      (log sigma)

which is positive semi-definite by construction (the Hessian of a sampled log-ratio is not).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["Adam", "GaussianActor", "Streams", "TanhMLP", "interval_bias"]

LOG_STD_RANGE = (-3.0, 0.0)
"""Bounds of the log standard deviation before squashing (arXiv 2606.01028)."""
Layers = list[tuple[Tensor, Tensor]]
Streams = Sequence[np.random.Generator]
"""A generator per patient, so that nobody's numbers depend on batch mates."""


@dataclass(frozen=True)
class TanhMLP:
    """A stack of tanh MLPs of one shape.

    Attributes:
        sizes: Width of input, hidden layers and output, for instance `(9, 64, 64, 4)`.
        silent: Inputs whose first weights are 0: at the start the network is the one without them.
    """

    sizes: tuple[int, ...]
    silent: range = range(0)

    @property
    def count(self) -> int:
        """Number of parameters per patient."""
        return sum(a * b + b for a, b in zip(self.sizes[:-1], self.sizes[1:]))

    def layers(self, theta: Tensor) -> Layers:
        """Views `(W (P, in, out), b (P, 1, out))` of the flat parameter `theta (P, n)`, first layer first."""
        patients, found, start = theta.shape[0], [], 0
        for width, out in zip(self.sizes[:-1], self.sizes[1:]):
            middle, stop = start + width * out, start + width * out + out
            weight, bias = theta[:, start:middle], theta[:, middle:stop]
            found.append((weight.view(patients, width, out), bias.view(patients, 1, out)))
            start = stop
        return found

    def flatten(self, layers: Layers) -> Tensor:
        """Inverse of :meth:`layers`: one flat tensor `(P, n)`."""
        return torch.cat([part.reshape(part.shape[0], -1) for layer in layers for part in layer], dim=1)

    def initial(self, generators: Streams, output_gain: float = 1.0) -> Tensor:
        """Flat parameter `(P, n)`: Glorot-uniform weights, zero biases, the last layer scaled by `output_gain`.

        Args:
            generators: One per patient, so that a patient's start does not depend on its batch mates.
            output_gain: Factor on the last layer's weights; small means an almost constant first output.
        """
        rows = []
        for rng in generators:
            parts, widths = [], (self.sizes[0] - len(self.silent), *self.sizes[1:])
            for i, (width, out) in enumerate(zip(widths[:-1], widths[1:])):
                bound = math.sqrt(6.0 / (width + out)) * (output_gain if i == len(self.sizes) - 2 else 1.0)
                parts += [rng.uniform(-bound, bound, width * out), np.zeros(out)]
            if self.silent:
                heard = parts[0].reshape(-1, self.sizes[1])
                parts[0] = np.insert(heard, [self.silent.start] * len(self.silent), 0.0, axis=0).ravel()
            rows.append(np.concatenate(parts))
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def __call__(self, theta: Tensor, x: Tensor) -> Pass:
        """One forward pass of inputs `x (P, N, sizes[0])`."""
        found, layers = [x], self.layers(theta)
        for i, (weight, bias) in enumerate(layers):
            out = torch.baddbmm(bias, found[-1], weight)
            found.append(out.tanh_() if i < len(layers) - 1 else out)
        return Pass(self, layers, found)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a stack, `activations = [x, h_1, .., output]`, and products with its Jacobian."""

    network: TanhMLP
    layers: Layers
    activations: list[Tensor]

    @property
    def output(self) -> Tensor:
        """`(P, N, sizes[-1])`."""
        return self.activations[-1]

    @cached_property
    def slopes(self) -> list[Tensor]:
        """tanh' = 1 - h^2 of every hidden layer; computed once for the many products of one batch."""
        return [(-h).mul_(h).add_(1.0) for h in self.activations[1:-1]]

    def jvp(self, tangent: Tensor) -> Tensor:
        """`J v`: change of the output `(P, N, sizes[-1])` along the parameter direction `tangent (P, n)`."""
        moved = None
        for i, ((weight, _), (d_weight, d_bias)) in enumerate(zip(self.layers, self.network.layers(tangent))):
            change = torch.baddbmm(d_bias, self.activations[i], d_weight)
            if moved is not None:
                change.baddbmm_(moved, weight)
            moved = change.mul_(self.slopes[i]) if i < len(self.layers) - 1 else change
        assert moved is not None
        return moved

    def vjp(self, cotangent: Tensor) -> Tensor:
        """`J^T g`: gradient `(P, n)` of `sum(output * cotangent)`, for `cotangent (P, N, sizes[-1])`."""
        gradient = cotangent.new_empty(cotangent.shape[0], self.network.count)
        into = self.network.layers(gradient)
        for i, back in self._back(cotangent):
            into[i][0].copy_(torch.bmm(self.activations[i].transpose(1, 2), back))
            into[i][1].copy_(back.sum(dim=1, keepdim=True))
        return gradient

    def input_vjp(self, cotangent: Tensor) -> Tensor:
        """Gradient `(P, N, sizes[0])` of `sum(output * cotangent)` with respect to the input."""
        *_, (_, back) = self._back(cotangent)
        return torch.bmm(back, self.layers[0][0].transpose(1, 2))

    def _back(self, cotangent: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Number of every layer, the last first, and the gradient with respect to what it gives before its tanh."""
        for i in reversed(range(len(self.layers))):
            yield i, cotangent
            if i:
                cotangent = torch.bmm(cotangent, self.layers[i][0].transpose(1, 2)).mul_(self.slopes[i - 1])


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) on a flat stack `(P, n)`.

    The step count `(P, 1)` is per patient, which `torch.optim.Adam` has not: a patient that was stopped, or whose rows
    are used up before those of the others, keeps its own bias correction.
    """

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def zeros(cls, theta: Tensor) -> Adam:
        """Fresh moments for the parameter `theta (P, n)`."""
        return cls(torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta[:, :1]))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> Adam:
        """Inverse of :meth:`named`."""
        return cls(*(tensors[f"{prefix}{name}"] for name in cls.__annotations__))

    def named(self, prefix: str = "") -> dict[str, Tensor]:
        """The moments by name, with something before it."""
        return {f"{prefix}{name}": value for name, value in vars(self).items()}

    def rows(self, rows: slice) -> Adam:
        """The moments of some policies, views."""
        return Adam(*(value[rows] for value in vars(self).values()))

    def step_(self, theta: Tensor, gradient: Tensor, rate: float, active: Tensor | None = None) -> None:
        """Move `theta` in place down `gradient`, both `(P, n)`; only the patients `active (P,)` bool, when given."""
        if active is not None:
            some = Adam(self.mean[active], self.square[active], self.steps[active])
            moved = theta[active]
            some.step_(moved, gradient[active], rate)
            theta[active], self.mean[active], self.square[active] = moved, some.mean, some.square
            self.steps[active] = some.steps
            return
        betas = (0.9, 0.999)
        self.steps += 1.0
        self.mean.mul_(betas[0]).add_(gradient, alpha=1.0 - betas[0])
        self.square.mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])
        corrected = (self.square / (1.0 - betas[1] ** self.steps)).sqrt_().add_(1e-8)
        theta.sub_((self.mean / (1.0 - betas[0] ** self.steps)).div_(corrected), alpha=rate)


def interval_bias(decisions: int, horizon: float, low: float, high: float) -> float:
    """Pre-squash mean whose interval is `horizon / decisions`, for actions mapped from [-1, 1] to [low, high].

    An interval head that starts elsewhere costs more than any later update repairs.
    """
    share = (horizon / decisions - low) / (high - low)
    return math.atanh(min(max(2.0 * share - 1.0, -0.999), 0.999))


@dataclass(frozen=True)
class GaussianActor:
    """A stack of tanh-squashed Gaussian actors of one shape, as functions of a flat parameter `(P, n)`.

    The last `action_dim` entries of the parameter are the log standard deviations, the rest the mean network.

    Attributes:
        sizes: Widths of the mean network, `(observation_dim, hidden, .., action_dim)`.
        silent: As of :class:`TanhMLP`.
    """

    sizes: tuple[int, ...]
    silent: range = range(0)

    @property
    def action_dim(self) -> int:
        """Number of action components A."""
        return self.sizes[-1]

    @property
    def network(self) -> TanhMLP:
        """The mean network."""
        return TanhMLP(self.sizes, self.silent)

    @property
    def count(self) -> int:
        """Number of parameters per patient."""
        return self.network.count + self.action_dim

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """`(mean network (P, n - A), log std (P, A))`, views of `theta (P, n)`."""
        return theta[:, : -self.action_dim], theta[:, -self.action_dim :]

    def initial(
        self, generators: Streams, mean: Sequence[float], std: Sequence[float], output_gain: float = 0.01
    ) -> Tensor:
        """Flat parameter `(P, n)` whose pre-squash mean starts near `mean` with spread `std`, each of length A."""
        theta = self.network.initial(generators, output_gain)
        self.network.layers(theta)[-1][1].copy_(torch.tensor(mean, dtype=theta.dtype))
        return torch.cat([theta, torch.tensor(std, dtype=theta.dtype).log().expand(theta.shape[0], -1)], dim=1)

    def project(self, theta: Tensor) -> Tensor:
        """`theta` with its log standard deviations clamped to their range (a new tensor)."""
        network, log_std = self.split(theta)
        return torch.cat([network, log_std.clamp(*LOG_STD_RANGE)], dim=1)

    def run(self, theta: Tensor, observations: Tensor) -> Pass:
        """Forward pass of the mean network on `observations (P, N, d)`."""
        return self.network(self.split(theta)[0], observations)

    def mean(self, theta: Tensor, observations: Tensor) -> Tensor:
        """Pre-squash mean `(P, N, A)` of `observations (P, N, d)`."""
        return self.run(theta, observations).output

    def log_ratio(self, mean: Tensor, log_std: Tensor, noise: Tensor, shift: Tensor, old_log_std: Tensor) -> Tensor:
        """log pi_new(a) - log pi_old(a), `(P, N)`, of actions drawn as `z = mu_old + sigma_old * noise`.

        Args:
            mean: New pre-squash mean `(P, N, A)`.
            log_std: New log standard deviation `(P, A)`.
            noise: Standard normal draws `(P, N, A)` behind the actions.
            shift: Old pre-squash mean `(P, N, A)`.
            old_log_std: Old log standard deviation `(P, A)`.
        """
        old_std, std = old_log_std.exp().unsqueeze(1), log_std.exp().unsqueeze(1)
        scaled = (shift - mean + old_std * noise) / std
        return (0.5 * (noise.square() - scaled.square())).sum(-1) + (old_log_std - log_std).sum(-1, keepdim=True)

    def kl(self, old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor, weights: Tensor) -> Tensor:
        """KL(old || new) `(P,)`, averaged over rows with `weights (P, N)` that sum to 1 per patient."""
        precision = (-2.0 * log_std).exp()
        distance = ((mean - old_mean).square() * precision.unsqueeze(1)).sum(-1)
        spread = (log_std - old_log_std + 0.5 * ((2.0 * old_log_std).exp() * precision - 1.0)).sum(-1)
        return 0.5 * (distance * weights).sum(-1) + spread * weights.sum(-1)

    def policy_gradient(self, theta: Tensor, seen: Pass, noise: Tensor, weighted_advantage: Tensor) -> Tensor:
        """Gradient `(P, n)` of `sum(weighted_advantage * ratio)` at the policy that acted, where the ratio is 1.

        d ratio / d mu = noise / sigma;  d ratio / d log sigma = noise^2 - 1.
        """
        pull = weighted_advantage.unsqueeze(-1) * noise
        g_mean = seen.vjp(pull * (-self.split(theta)[1]).exp().unsqueeze(1))
        g_std = (pull * noise).sum(1) - weighted_advantage.sum(1, keepdim=True)
        return torch.cat([g_mean, g_std], dim=1)

    def curvature(self, theta: Tensor, seen: Pass, weights: Tensor, vector: Tensor) -> Tensor:
        """`v^T F v` `(P,)` on the rows of `weights (P, N)`: one forward product, no reverse one."""
        v_mean, v_std = self.split(vector)
        pushed = seen.jvp(v_mean)
        length = (pushed * (-self.split(theta)[1]).exp().unsqueeze(1)).square().sum(-1)
        return (length * weights).sum(-1) + 2.0 * v_std.square().sum(-1)

    def precision(self, theta: Tensor, weights: Tensor) -> Tensor:
        """Row weights `(P, N)`, which sum to 1 per patient, over sigma^2: `(P, N, A)`, for :meth:`fisher_product`."""
        return weights.unsqueeze(-1) * (-2.0 * self.split(theta)[1]).exp().unsqueeze(1)

    def fisher_product(self, seen: Pass, precision: Tensor, vector: Tensor) -> Tensor:
        """`F v` for `vector (P, n)`: curvature of the closed-form KL at the policy of `seen`."""
        v_mean, v_std = self.split(vector)
        return torch.cat([seen.vjp(seen.jvp(v_mean).mul_(precision)), 2.0 * v_std], dim=1)
