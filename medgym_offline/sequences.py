"""Stacked networks over windows of the past: a recurrent one, and a Decision Transformer in continuous time.

Both read `split_windows` and are otherwise as `StackedMLP`: P networks side by side, x (P, B, in) to
(P, B, out), a stack of one for all patients alike, layers named `layers.<i>`.

A window is the last n observations and what happened between them, as one row of numbers:

    w_t = [o_t | x_(t-1), o_(t-1) | x_(t-2), o_(t-2) | ... | x_(t-n+1), o_(t-n+1)]        newest first
    x_k = [a_k (A), interval (1), mark (1)]                                              between o_k and o_(k+1)

The action is the one that was played, clipped to [-1, 1]; the interval is the one that was played too, as the share of
the horizon by which the clock "remaining time" of the two observations differs; the mark is 1. Before an episode's
beginning actions, intervals and marks are 0 and observations repeat the first, so that what is missing is marked and
lies where the data lie. Training and acting build windows with the same two functions, so they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medgym_offline.errors import PolicyError
from medgym_offline.stack import WHOLE, StackedMLP, Steps, activated

__all__ = [
    "LONGEST", "NETWORKS", "REMAINING", "StackedGRU", "StackedTransformer", "begin_windows", "extend_windows",
    "observation_width", "split_windows", "window_width",
]  # fmt: skip

LONGEST = 256
"""Largest history; chosen: beyond it are more decisions than an episode of ours has."""
REMAINING = -2
"""Column of an observation with the share of the horizon that remains; the clocks are its last two."""


def window_width(observation: int, action: int, history: int) -> int:
    """Columns of a window of `history` observations of width d with actions of width A."""
    return history * observation + (history - 1) * (action + 2)


def observation_width(window: int, action: int, history: int) -> int:
    """Inverse of `window_width`: d; `PolicyError` if no observation has windows of this width."""
    d, rest = divmod(window - (history - 1) * (action + 2), history)
    if rest or d < 2:
        raise PolicyError(
            f"{window} columns are no window of history={history} with actions of width {action}; give the history "
            "that it was trained with"
        )
    return d


def begin_windows(observations: Tensor, action: int, history: int) -> Tensor:
    """Windows (..., W) of first observations (..., d) of episodes."""
    nothing = observations.new_zeros(*observations.shape[:-1], action + 2)
    row = torch.cat([observations, nothing], -1)
    return row.repeat(*[1] * (row.dim() - 1), history)[..., : window_width(observations.shape[-1], action, history)]


def extend_windows(windows: Tensor, actions: Tensor, observations: Tensor) -> Tensor:
    """Windows (..., W) one decision later: after `actions` (..., A) led from `windows` to `observations` (..., d)."""
    before = windows[..., observations.shape[-1] + REMAINING, None]
    interval = before - observations[..., REMAINING, None]
    parts = [observations, actions, interval, torch.ones_like(interval), windows]
    return torch.cat(parts, -1)[..., : windows.shape[-1]]


def split_windows(windows: Tensor, action: int, history: int) -> tuple[Tensor, Tensor]:
    """Windows (..., W) as steps, newest first.

    Returns:
        Steps (..., n, d + A + 2), each an observation and the x before it (zeros before the oldest); and which
        observations are of the episode (..., n), bool.
    """
    nothing = windows.new_zeros(*windows.shape[:-1], action + 2)
    steps = torch.cat([windows, nothing], -1).reshape(*windows.shape[:-1], history, -1)
    marks = steps[..., :-1, -1] > 0.5
    return steps, torch.cat([torch.ones_like(marks[..., :1]), marks], -1)


_HEADS = 2  # chosen: 32 numbers each at the default width
_OCTAVES = 5  # chosen: periods from 2 horizons to 1/8 of one, below two intervals of the usual budget of 20


class StackedGRU(StackedMLP):
    """A gated recurrent unit over the window, oldest first, and a perceptron on its last state and on `steps.extra`.

        r, z = sigmoid(W x + U h),   c = tanh(W_c x + r*U_c h),   h <- z*h + (1 - z)*c      (0 before the episode)

    `layers`: x -> (r, z, c); h -> (r, z, c); then the perceptron. `sizes`: (window + extra, H, ..., out), H the width
    of h and of the hidden layers. Source: Cho et al. 2014, in the form of `torch.nn.GRU`.
    """

    kind = "gru"

    @staticmethod
    def widths(sizes: Sequence[int], steps: Steps = WHOLE) -> list[tuple[int, int]]:
        """See `StackedMLP.widths`."""
        hidden = sizes[1]
        step = observation_width(sizes[0] - steps.extra, steps.action, steps.history) + steps.action + 2
        head = [hidden + steps.extra, *sizes[2:]]
        return [(step, 3 * hidden), (hidden, 3 * hidden), *zip(head[:-1], head[1:])]

    @property
    def state_inputs(self) -> int:
        """See `StackedMLP.state_inputs`: one step of the window."""
        return self.widths(self.sizes, self.steps)[0][0]

    def forward(self, x: Tensor) -> Tensor:
        """(P, B, window + extra) -> (P, B, out)."""
        window, extra = x.split([x.shape[-1] - self.steps.extra, self.steps.extra], -1)
        steps, present = split_windows(window, self.steps.action, self.steps.history)
        given = _each(self.layers[0], steps)
        h = x.new_zeros(*x.shape[:2], self.sizes[1])
        for k in reversed(range(self.steps.history)):
            r, z, c = given[:, :, k].chunk(3, -1)
            r_h, z_h, c_h = self.layers[1](h).chunk(3, -1)
            c = torch.tanh(c + torch.sigmoid(r + r_h) * c_h)
            h = torch.where(present[:, :, k, None], c + torch.sigmoid(z + z_h) * (h - c), h)
        return self.behind(2, torch.cat([h, extra], -1))


class StackedTransformer(StackedMLP):
    """A causal transformer over return, observation and action of every decision in the window.

    Three tokens a decision; each is a linear map of its numbers and of the clock,

        G*tau,     o,     a          with  sin and cos of pi*2^i*tau, i = 0, ..., 4,

    tau the share of the horizon that remains at the decision and G the wanted return (`target`, a buffer (P, 1, 1), or
    given): time enters as a real number, since decisions lie irregularly, and there is no index of the step. For the
    elapsed share 1 - tau these functions are the same up to sign. Blocks have two heads and the normalization in front;
    their hidden layer is four times as wide. The tanh of a decision's answer, read at its observation, is its action.

    `layers`: observation, return, action; per block attention in and out, hidden in and out; answer.
    `sizes`: (window, H, ..., H, A), a block for each H.
    """

    kind = "transformer"
    numbers = ("target",)
    target: Tensor

    @staticmethod
    def widths(sizes: Sequence[int], steps: Steps = WHOLE) -> list[tuple[int, int]]:
        """See `StackedMLP.widths`."""
        d, hidden, clock = observation_width(sizes[0], steps.action, steps.history), sizes[1], 2 * _OCTAVES
        if hidden % _HEADS or set(sizes[1:-1]) != {hidden}:
            raise PolicyError(f"hidden widths of a transformer are equal and divisible by {_HEADS}, not {sizes[1:-1]}")
        block = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)]
        tokens = [(width + clock, hidden) for width in (d, 1, steps.action)]
        return [*tokens, *block * (len(sizes) - 2), (hidden, sizes[-1])]

    @property
    def state_inputs(self) -> int:
        """See `StackedMLP.state_inputs`: one observation."""
        return self.widths(self.sizes, self.steps)[0][0] - 2 * _OCTAVES

    def forward(self, x: Tensor) -> Tensor:
        """The newest decision's answer: (P, B, window) -> (P, B, out)."""
        return self.answers(x)[:, :, -1]

    def answers(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Of every decision, oldest first: windows (P, B, W) and returns (P, B), the target if None -> (P, B, n, A)."""
        newest, present = split_windows(x, self.steps.action, self.steps.history)
        steps, present = newest.flip(2), present.flip(2)
        d = steps.shape[-1] - self.steps.action - 2
        observations, tau = steps[..., :d], steps[..., d + REMAINING, None]
        actions = nn.functional.pad(steps[:, :, 1:, d : d + self.steps.action], (0, 0, 0, 1))  # the newest's is asked
        returns = tau * (self.target if wanted is None else wanted[..., None])[..., None]
        turns = math.pi * tau * 2.0 ** torch.arange(_OCTAVES, dtype=tau.dtype, device=tau.device)
        clock = torch.cat([torch.sin(turns), torch.cos(turns)], -1)
        found = [
            _each(self.layers[i], torch.cat([v, clock], -1)) for i, v in enumerate((observations, returns, actions))
        ]
        tokens = torch.stack([found[1], found[0], found[2]], 3).flatten(2, 3)[:, :, :-1]
        seen = _visible(present.repeat_interleave(3, 2)[:, :, :-1])
        for at in range(3, len(self.layers) - 1, 4):
            tokens = self._block(tokens, seen, at)
        return _each(self.layers[-1], self._normalized(tokens[:, :, 1::3]))

    def _block(self, x: Tensor, seen: Tensor, at: int) -> Tensor:
        """Tokens (P, B, L, H) after the block whose layers begin at `at`."""
        shape = x.shape
        asked = _each(self.layers[at], self._normalized(x)).flatten(0, 1).chunk(3, -1)
        query, key, value = (part.reshape(*part.shape[:2], _HEADS, -1).transpose(1, 2) for part in asked)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, seen)
        x = x + _each(self.layers[at + 1], mixed.transpose(1, 2).reshape(shape))
        wide = activated(self.activation, _each(self.layers[at + 2], self._normalized(x)))
        return x + _each(self.layers[at + 3], wide)

    def _normalized(self, x: Tensor) -> Tensor:
        """Layer normalization; gain and shift would be absorbed by the layer behind it."""
        return nn.functional.layer_norm(x, self.sizes[1:2])  # not the size of x: an ONNX model takes a number there


def _visible(present: Tensor) -> Tensor:
    """Who sees whom, (P, B, L) -> (P*B, 1, L, L): the past, where it is of the episode, and oneself."""
    length = present.shape[-1]
    place = torch.arange(length, device=present.device)
    itself, past = place[:, None] == place, place[:, None] >= place
    return (itself | (past & present.flatten(0, 1)[:, None])).unsqueeze(1)


def _each(layer: nn.Module, x: Tensor) -> Tensor:
    """A stacked layer on (P, B, L, in)."""
    found: Tensor = layer(x.flatten(1, 2))
    return found.reshape(*x.shape[:3], found.shape[-1])  # `unflatten` would fix the sizes in an ONNX model


NETWORKS: dict[str, type[StackedMLP]] = {net.kind: net for net in (StackedMLP, StackedGRU, StackedTransformer)}
"""Kinds of stacked networks by the name that files have for them."""
