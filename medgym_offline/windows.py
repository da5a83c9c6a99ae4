"""What a learner with a memory sees: the last n observations and what happened between them, as one row of numbers.

    w_t = [o_t | x_(t-1), o_(t-1) | x_(t-2), o_(t-2) | ... | x_(t-n+1), o_(t-n+1)]        newest first
    x_k = [a_k (A), interval (1), mark (1)]                                              between o_k and o_(k+1)

The action is the one that was played, clipped to [-1, 1]; the interval is the one that was played too, as the share of
the horizon by which the clock "remaining time" of the two observations differs; the mark is 1. Before an episode's
beginning actions, intervals and marks are 0 and observations repeat the first, so that what is missing is marked and
lies where the data lie. Training and acting build windows with the same two functions, so they cannot differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.errors import PolicyError

__all__ = [
    "LONGEST",
    "REMAINING",
    "begin_windows",
    "extend_windows",
    "observation_width",
    "split_windows",
    "window_width",
]

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
