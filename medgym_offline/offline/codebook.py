"""Codebooks: C actions that stand for the actions of a dataset, one book per learner.

k-means on the actions a_1..a_N of the learner's data, all learners at once:

    start     k-means++: the first codeword is drawn uniformly, each further one with probability proportional to the
              squared distance from the nearest codeword so far
    repeat    assign each action to its nearest codeword; move each codeword to the mean of its actions

Under adaptive timing the interval is a column of the action like any other, so a codeword says what to give and for
how long. Codewords are means of the data's actions, so they lie in their convex hull.

Float64 NumPy; distances are summed column by column and means by `bincount`, in row order, so that a learner's book
does not depend, in any bit, on how many others are built beside it.

Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medgym_offline.errors import DatasetError
from medgym_offline.offline.data import StackedData
from medgym_offline.seeds import generator

__all__ = ["MAX_ROWS", "build_codebook", "nearest"]

MAX_ROWS = 20_000
"""Of a learner with more rows, this many drawn without replacement make its book. Not every n-th: an episode of K
decisions would then show the same few of them each time, those that n hits in a row of K."""

_ROUNDS = 25


def build_codebook(data: StackedData, count: int, seed: int | Sequence[int] = 0) -> Tensor:
    """The codebooks of P learners.

    Args:
        data: Their slices.
        count: Codewords per learner, C.
        seed: Root seed, or one per learner; its random numbers follow from (seed, its key).

    Returns:
        (P, C, A) float32 on the device of the data.

    Raises:
        DatasetError: If a learner's data have fewer than C distinct actions; it names the learner.
    """
    streams = [generator(s, "offline-codebook", key) for s, key in zip(data.seeds(seed), data.keys)]
    draws = np.stack([stream.random(count) for stream in streams])
    actions, present = _thinned(data, streams)
    words = _start(actions, present, draws, data.keys)
    for _ in range(_ROUNDS):
        words = _moved(actions, present, words)
    book = torch.from_numpy(words.clip(-1.0, 1.0).astype(np.float32))
    return book.to(data.rows.device)


def nearest(codebook: Tensor, actions: Tensor) -> Tensor:
    """Number of the nearest codeword: (P, C, A), (P, B, A) -> (P, B); the first of equals."""
    distance = (codebook[:, None, :, 0] - actions[:, :, None, 0]).square()
    for column in range(1, actions.shape[-1]):
        distance = distance + (codebook[:, None, :, column] - actions[:, :, None, column]).square()
    return distance.argmin(-1)


def _thinned(data: StackedData, streams: list[np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
    """Actions (P, N', A) in float64, at most `MAX_ROWS` each, in row order; and which of them are data (P, N')."""
    kept = np.minimum(data.counts, MAX_ROWS)
    index = np.tile(np.arange(int(kept.max())), (len(data), 1))
    present = index < kept[:, None]
    for p in np.flatnonzero(data.counts > MAX_ROWS):
        index[p] = np.sort(streams[p].choice(data.counts[p], MAX_ROWS, replace=False))
    first = data.state_dim
    columns = data.rows[..., first : first + data.action_dim].cpu().numpy()
    return np.take_along_axis(columns, index[..., None], 1).astype(np.float64), present


def _squared(actions: np.ndarray, word: np.ndarray) -> np.ndarray:
    """(P, N, A), (P, A) -> (P, N) squared distances, summed column by column."""
    total = np.square(actions[..., 0] - word[:, None, 0])
    for column in range(1, actions.shape[-1]):
        total += np.square(actions[..., column] - word[:, None, column])
    return total


def _start(actions: np.ndarray, present: np.ndarray, draws: np.ndarray, keys: tuple[str, ...]) -> np.ndarray:
    """k-means++: (P, C, A)."""
    learners, count = draws.shape
    words = np.empty((learners, count, actions.shape[-1]))
    weight = present.astype(np.float64)  # the first draw is uniform
    distance = np.where(present, np.inf, 0.0)
    for c in range(count):
        total = np.cumsum(weight, 1)
        if not (total[:, -1] > 0).all():
            # A codeword has weight 0 from then on, so c distinct actions have been found and there is no other.
            p = int(np.argmin(total[:, -1] > 0))
            raise DatasetError(
                f"{keys[p]} has only {c} distinct actions, too few for {count} codewords; set codewords to {c} or fewer"
            )
        chosen = (total <= draws[:, c, None] * total[:, -1:]).sum(1)
        # A product that rounds up to the total would point past the last row that has weight.
        last = total.shape[1] - 1 - np.argmax((weight > 0)[:, ::-1], 1)
        words[:, c] = actions[np.arange(learners), np.minimum(chosen, last)]
        distance = np.minimum(distance, _squared(actions, words[:, c]))
        weight = np.where(present, distance, 0.0)
    return words


def _moved(actions: np.ndarray, present: np.ndarray, words: np.ndarray) -> np.ndarray:
    """One round of Lloyd: (P, C, A). A codeword without actions stays."""
    learners, count, width = words.shape
    best = np.full(present.shape, np.inf)
    owner = np.zeros(present.shape, dtype=np.int64)
    for c in range(count):
        distance = _squared(actions, words[:, c])
        closer = distance < best
        owner[closer] = c
        best = np.minimum(best, distance)
    cell = (owner + np.arange(learners)[:, None] * count)[present]
    size = np.bincount(cell, minlength=learners * count)
    moved = words.reshape(-1, width).copy()
    for column in range(width):
        sums = np.bincount(cell, weights=actions[..., column][present], minlength=learners * count)
        moved[:, column] = np.where(size > 0, sums / np.maximum(size, 1), moved[:, column])
    return moved.reshape(words.shape)
