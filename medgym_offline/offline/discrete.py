"""The networks of P learners with discrete actions: one value per codeword.

A codebook has C actions that stand for those of a learner's data: k-means on the actions a_1..a_N of the learner's
data, all learners at once:

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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.errors import DatasetError
from medgym_offline.offline.data import Seeds, StackedData
from medgym_offline.offline.networks import each_member, follow
from medgym_offline.policies.actor import gated
from medgym_offline.seeds import generator
from medgym_offline.stack import StackedMLP

__all__ = ["DiscreteNetworks", "MAX_ROWS", "build_codebook", "nearest", "picked"]

MAX_ROWS = 20_000
"""Of a learner with more rows, this many drawn without replacement make its book. Not every n-th: an episode of K
decisions would then show the same few of them each time, those that n hits in a row of K."""

_ROUNDS = 25


def build_codebook(data: StackedData, count: int, seed: Seeds = 0) -> Tensor:
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


@dataclass(frozen=True)
class DiscreteNetworks:
    """f_phi(s, .) (critic) and its slowly moving copy fbar: networks from the state to a score of each codeword.

        c*(s)      = argmax_c f_phi(s, c)             the choice, on the members' mean
        Q_phi(s, c) = f_phi(s, c) + extra(s, c)       the value; Qbar likewise with fbar

    Attributes:
        critic, target: Stacks of P*E, the E members of a learner side by side.
        codebook: a_1 .. a_C, (P, C, A).
        extra: (P, B, d) -> (P, B, C); None is nothing: the score is the value in all but GCQL.
        members: E.
        gate: As in `StackedActor`; with it the networks have 2C outputs, values and logits, the choice is among the
            likely codewords, and it is the critic's in the target too.
    """

    critic: StackedMLP
    target: StackedMLP
    codebook: Tensor
    extra: Callable[[Tensor], Tensor] | None = None
    members: int = 1
    gate: float | None = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target

    def acting(self) -> StackedMLP:
        """The stack that decides, from the standardized state to f (mean over members); the critic itself if E = 1."""
        return self.critic if self.members == 1 else _mean_network(self.critic, self.members)

    def _values(self, scores: Tensor, state: Tensor) -> Tensor:
        """Q from f, (P, E, B, C)."""
        if self.gate is not None:
            return scores.chunk(2, -1)[0]
        return scores if self.extra is None else scores + self.extra(state)[:, None]

    def _choice(self, scores: Tensor) -> Tensor:
        """c* by the members' mean of f, the first of equals: (P, E, B, C) -> (P, B)."""
        mean = scores.mean(1)
        return (mean if self.gate is None else gated(mean, self.gate)).argmax(-1)

    def chosen(self, state: Tensor) -> Tensor:
        """c*(s): (P, B, d) -> (P, B)."""
        return self._choice(each_member(self.critic, state, self.members))

    def values_each(self, state: Tensor) -> Tensor:
        """Q(s, .) of each member: (P, B, d) -> (P, E, B, C)."""
        return self._values(each_member(self.critic, state, self.members), state)

    def target_value(self, state: Tensor) -> Tensor:
        """Qbar(s, c*), c* chosen on the members' mean, the smallest of their values: (P, B, d) -> (P, B)."""
        scores = each_member(self.target, state, self.members)
        chosen = self._choice(scores) if self.gate is None else self.chosen(state)
        return picked(self._values(scores, state), chosen).amin(1)

    def policy(self, state: Tensor) -> Tensor:
        """The chosen codeword: (P, B, d) -> (P, B, A)."""
        return self.codebook.gather(1, self.chosen(state)[..., None].expand(-1, -1, self.codebook.shape[-1]))

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q (mean over members) of the codeword nearest to an action: (P, B, d), (P, B, A) -> (P, B)."""
        values = self.values_each(state).mean(1)
        return values.gather(-1, nearest(self.codebook, action)[..., None]).squeeze(-1)

    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        follow(self.target, self.critic, tau)


def picked(values: Tensor, codes: Tensor) -> Tensor:
    """Of each member the values (P, E, B, C) of the codewords `codes` (P, B): (P, E, B)."""
    return values.gather(-1, codes[:, None, :, None].expand(-1, values.shape[1], -1, 1)).squeeze(-1)


def _mean_network(net: StackedMLP, members: int) -> StackedMLP:
    """P networks whose outputs are the means of E members': their hidden layers side by side."""
    patients, last = net.patients // members, len(net.sizes) - 2
    sizes = (net.sizes[0], *[members * width for width in net.sizes[1:-1]], net.sizes[-1])
    merged = StackedMLP(patients, sizes, net.activation, net.output, seeds=[0] * patients)
    state = {name: value.unflatten(0, (patients, members)) for name, value in net.state_dict().items()}
    for i in range(last + 1):
        weight, bias = state[f"layers.{i}.weight"], state[f"layers.{i}.bias"]
        state[f"layers.{i}.bias"] = bias.mean(1) if i == last else bias.reshape(patients, 1, -1)
        if i == last:
            merged_weight = (weight / members).flatten(1, 2) if i else weight.mean(1)
        elif i == 0:
            merged_weight = torch.cat(weight.unbind(1), -1)
        else:
            merged_weight = torch.stack([torch.block_diag(*some) for some in weight])
        state[f"layers.{i}.weight"] = merged_weight
    merged.load_state_dict(state)
    return merged.to(weight.device)
