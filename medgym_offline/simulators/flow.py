"""From a vector field to its solution: the reference ODE solver and the learned solution map.

Both give the state after holding a treatment for any time in one call, and the whole curve in between:

- :meth:`BoundedField.solve` integrates the field with Heun's method at steps of at most `max_step` hours. It is the
  definition of the truth. (Heun is as accurate as RK4 here: the error comes from the bounds, not from the order.)
- :class:`SolutionMap` is the physics-informed network F(x, u, t), distilled from the solver:

      F(x, u, t) = clamp( x + sum_k phi_k(t) A_k(x, u, patient) )        phi_k(t) = 1 - exp(-t/tau_k),  phi_K(t) = t/36

  so F(x, u, 0) = x by construction, and one network call gives the curve at any number of times. One trunk serves all
  patients and worlds; a patient enters through a code that scales and shifts the hidden units, and through the
  displacements of a few long exponential-Euler steps of the patient's own field (the skeleton). They are stable at
  any length, rough, and tell the network where this patient is heading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.config import configuration
from medgym_offline.errors import BankError
from medgym_offline.stack import StackedTensors

__all__ = ["BoundedField", "SolutionMap", "SolutionMapConfig"]


@dataclass(frozen=True)
class BoundedField:
    """A vector field and the bounds on which its states are projected.

    Attributes:
        rate: dx/dt per hour, (P, B, D), (P, B, treatments) -> (P, B, D).
        lower, upper: (D,) bounds.
    """

    rate: Callable[[Tensor, Tensor], Tensor]
    lower: Tensor
    upper: Tensor

    def heun_step(self, x: Tensor, u: Tensor, h: Tensor, first: Tensor | None = None) -> Tensor:
        """One step of Heun's method; `h` is (P, B, 1) hours and may be 0, `first` the rate at `x`."""
        first = self.rate(x, u) if first is None else first
        second = self.rate((x + h * first).clamp(self.lower, self.upper), u)
        return (x + 0.5 * h * (first + second)).clamp(self.lower, self.upper)

    def exponential_step(self, x: Tensor, u: Tensor, h: float, relaxation: Tensor) -> Tensor:
        """One exponential-Euler step of length `h` with diagonal linear rates `relaxation` (P, 1, D) per hour.

        Exact for dx/dt = c - L x with the given L; stable for every h.
        """
        decay = relaxation * h
        weight = torch.where(decay > 1e-4, -torch.expm1(-decay) / decay.clamp(min=1e-4), torch.ones_like(decay))
        return (x + h * weight * self.rate(x, u)).clamp(self.lower, self.upper)

    def solve(self, x: Tensor, u: Tensor, times: Tensor, max_step: float = 1.0) -> Tensor:
        """Dense solution with u held.

        Every row takes its own number of equal steps between its own times, so a row's result does not depend on the
        rows it shares a batch with. Rows whose last time has passed take no more part: with rows sorted by it (as
        :func:`medgym_offline.envs.reward.rectangles` does) the work is the sum of their lengths.

        Args:
            x: (P, B, D) states at time 0.
            u: (P, B, treatments).
            times: (P, B, T) hours, not decreasing along T.
            max_step: Longest step, hours.

        Returns:
            (P, B, T, D).
        """
        curve = []
        now = torch.zeros_like(times[..., 0])
        for j in range(times.shape[-1]):
            gap = (times[..., j] - now).clamp(min=0.0)
            steps = torch.ceil(gap / max_step - 1e-6).clamp(min=1.0)
            h = gap / steps
            begin = _first_running(times[..., -1] > now)
            y, held = x[:, begin:], u[:, begin:]
            for i in range(int(steps[:, begin:].max()) if begin < x.shape[1] else 0):
                y = self.heun_step(y, held, torch.where(steps > i, h, torch.zeros_like(h))[:, begin:, None])
            x = torch.cat([x[:, :begin], y], 1) if begin else y
            now = times[..., j]
            curve.append(x)
        return torch.stack(curve, -2)

    def solve_between(self, x: Tensor, u: Tensor, interval: Tensor, times: Tensor, max_step: float = 1.0) -> Tensor:
        """The curve inside holds on the very steps that :meth:`solve` takes to their ends, for any number of times.

        Between the ends of a step the state is the cubic with their states and rates (Hermite; its error is of order
        h^4, the step's own of order h^2), so the work does not grow with the times asked for.

        Args:
            x, u, max_step: As in :meth:`solve`.
            interval: (P, B) hours that the treatment is held.
            times: (P, B, T) hours in [0, interval], in any order.

        Returns:
            (P, B, T, D).
        """
        steps = torch.ceil(interval / max_step - 1e-6).clamp(min=1.0)
        h = interval / steps
        count = int(steps.max())
        ends, slopes = [x], []
        for i in range(count):
            begin = _first_running(steps > i)
            y, held = x[:, begin:], u[:, begin:]
            length = torch.where(steps > i, h, torch.zeros_like(h))[:, begin:, None]
            first = self.rate(y, held)
            y = self.heun_step(y, held, length, first)
            x = torch.cat([x[:, :begin], y], 1) if begin else y
            ends.append(x)
            slopes.append(torch.cat([torch.zeros_like(x[:, :begin]), first], 1) if begin else first)
        last = self.rate(x, u)
        # A row's last step ends with the rate there; steps after it have no length and are not asked for.
        scaled = h[..., None, None] * torch.stack(slopes, 2)
        following = torch.cat([scaled[:, :, 1:], torch.zeros_like(scaled[:, :, :1])], 2)
        at_last = torch.arange(count, device=x.device) == (steps - 1.0)[..., None]
        following = torch.where(at_last[..., None], (h[..., None] * last)[:, :, None], following)
        path = torch.stack(ends, 2)
        change = path[:, :, 1:] - path[:, :, :-1]
        cubic = scaled + following - 2.0 * change
        square = 3.0 * change - 2.0 * scaled - following
        place = times / h.clamp_min(torch.finfo(h.dtype).tiny)[..., None]
        cell = torch.minimum(place.floor(), steps[..., None] - 1.0).clamp(min=0.0)
        share = (place - cell).unsqueeze(-1)
        row = torch.arange(cell[..., 0].numel(), device=x.device).reshape(*cell.shape[:2], 1)
        index = (row * count + cell.long()).flatten()
        out = x.new_zeros(())
        for coefficient in (cubic, square, scaled, path[:, :, :-1]):
            there = coefficient.reshape(-1, x.shape[-1]).index_select(0, index).reshape(*cell.shape, -1)
            out = out * share + there
        return out.clamp(self.lower, self.upper)


def _first_running(running: Tensor) -> int:
    """Number of leading columns of (P, B) in which nobody is running."""
    columns = running.any(0)
    return int(columns.to(torch.uint8).argmax()) if bool(columns.any()) else running.shape[1]


@configuration("solution_map", BankError)
class SolutionMapConfig:
    """Shape of a solution map.

    Attributes:
        width: Hidden units of the shared trunk (two layers).
        code: Length of a patient's code.
        taus: Time constants of the basis, hours (learned from these).
        longest: Of the intervals in use, hours.
        skeleton: Lengths of the exponential-Euler steps whose displacements are inputs, hours.
    """

    width: int = 128
    code: int = 24
    taus: tuple[float, ...] = (0.7, 1.6, 3.5, 7.5, 16.0, 36.0, 80.0)
    longest: float = 36.0
    skeleton: tuple[float, ...] = (2.0, 6.0, 14.0, 20.0)


@dataclass
class SolutionMap(StackedTensors):
    """Weights of the shared trunk and the patients' codes.

    Attributes:
        config: Shape.
        w1, b1, w2, b2, w3, b3: Trunk, `(in, out)` and `(out,)`.
        film: (code, 4 * width) from a code to scale and shift of both hidden layers.
        log_tau: (K - 1,) logarithms of the time constants.
        code: (P, code) patients' codes.
    """

    config: SolutionMapConfig
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor
    film: Tensor
    log_tau: Tensor
    code: Tensor

    @classmethod
    def initial(
        cls, config: SolutionMapConfig, patients: int, state_dim: int, treatments: int, seed: int
    ) -> SolutionMap:
        """A map with random trunk and codes, near the identity."""
        g = torch.Generator().manual_seed(seed)
        n, w, k = state_dim * (1 + len(config.skeleton)) + treatments, config.width, len(config.taus) + 1

        def uniform(a: int, b: int, gain: float = 1.0) -> Tensor:
            return (2.0 * torch.rand((a, b), generator=g) - 1.0) * gain * (3.0 / a) ** 0.5

        return cls(
            config,
            uniform(n, w),
            torch.zeros(w),
            uniform(w, w),
            torch.zeros(w),
            uniform(w, k * state_dim, 0.02),
            torch.zeros(k * state_dim),
            uniform(config.code, 4 * w, 0.3),
            torch.log(torch.tensor(config.taus)),
            0.5 * torch.randn((patients, config.code), generator=g),
        )

    def inputs(self, field: BoundedField, x: Tensor, u: Tensor, relaxation: Tensor) -> Tensor:
        """The trunk's inputs (state, treatment, skeleton displacements): (P, B, D), (P, B, treatments) -> (P, B, N)."""
        parts, y = [x, u], x
        for h in self.config.skeleton:
            y = field.exponential_step(y, u, h, relaxation.unsqueeze(1))
            parts.append(y - x)
        # Bounded inputs: a state far outside the training range must not extrapolate linearly.
        return torch.cat(parts, -1).clamp(-6.0, 6.0)

    def amplitudes(self, inputs: Tensor, state_dim: int) -> Tensor:
        """A_k(x, u, patient) from the trunk's inputs: (P, B, N) -> (P, B, K, D)."""
        patients, rows, _ = inputs.shape
        scale1, shift1, scale2, shift2 = (self.code @ self.film).unsqueeze(1).split(self.config.width, -1)
        spare = not torch.is_grad_enabled()  # then a layer's memory is used again by the next operation

        def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return torch.addmm(bias, x.reshape(patients * rows, -1), weight).reshape(patients, rows, -1)

        def hidden(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            moved = z.mul_(1.0 + scale).add_(shift) if spare else z * (1.0 + scale) + shift
            return torch.nn.functional.silu(moved, inplace=spare)

        h1 = hidden(layer(inputs, self.w1, self.b1), scale1, shift1)
        h2 = hidden(layer(h1, self.w2, self.b2), scale2, shift2)
        return layer(h2, self.w3, self.b3).reshape(patients, rows, -1, state_dim)

    def basis(self, times: Tensor) -> Tensor:
        """phi_k(t): (..., T) hours -> (..., T, K)."""
        relaxing = -torch.expm1(-times.unsqueeze(-1) * torch.exp(-self.log_tau))
        return torch.cat([relaxing, times.unsqueeze(-1) / self.config.longest], -1)

    def __call__(self, field: BoundedField, x: Tensor, u: Tensor, times: Tensor, relaxation: Tensor) -> Tensor:
        """Curve at `times` (P, B, T), or (T,) the same for all: (P, B, T, D); `relaxation` (P, D) for the skeleton."""
        change = self.basis(times) @ self.amplitudes(self.inputs(field, x, u, relaxation), x.shape[-1])
        if torch.is_grad_enabled():
            return (x.unsqueeze(-2) + change).clamp(field.lower, field.upper)
        # A dense curve is large: no second piece of memory for it, and bounds in rows as long as a whole curve.
        count, state_dim = change.shape[-2:]
        curve = change.add_(x.unsqueeze(-2)).flatten(-2)
        return curve.clamp_(field.lower.repeat(count), field.upper.repeat(count)).unflatten(-1, (count, state_dim))
