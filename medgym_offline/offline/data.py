"""Transitions as stacked slices: one learner per patient, or one for all, and the batches they draw."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError, unknown_name
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.states import state_scale, states_of
from medgym_offline.seeds import generator

__all__ = [
    "Batch", "BatchSampler", "POPULATION", "SCOPES", "Seeds", "StackedData", "discount_powers", "stack_transitions",
]  # fmt: skip

SCOPES = ("ind", "clu", "pop", "context")
POPULATION = "population"
"""Key of the random streams of the learner that all patients share."""
Seeds = int | Sequence[int]
"""A root seed, or one per learner."""
_TENSORS = ("rows", "mean", "scale", "reward_scale", "more")


@dataclass(frozen=True)
class StackedData:
    """The transitions of P learners, padded to a common length.

    Attributes:
        keys: P names: patient ids (scope "ind"), or `("population",)`.
        rows: (P, N, 2d + A + 2) columns: state, action, reward, discount, next state. The state is the
            standardized observation, or a window of several (`OfflineConfig.history`); the reward is divided by a
            standard deviation (`state_scaling`, `reward_scaling`), and the discount is 0 at a terminal row.
        counts: (P,) rows that are data; the rest is padding.
        mean, scale: (P, 1, d): state = (observation - mean) / scale.
        reward_scale: (P,).
        state_dim, action_dim: d and A.
        more: (P, N, A + 4) columns that only some algorithms use: the next decision's action (at an episode's end its
            own), cost, 1 at an episode's first decision, and the share of its patient's episodes with a higher return,
            and with a lower cost (of equals the earlier ones).
        episodes: (P, 4): smallest return, mean cost and smallest cost of the episodes, and by what costs are divided;
            returns and costs are divided by their scales.
    """

    keys: tuple[str, ...]
    rows: Tensor
    counts: np.ndarray
    mean: Tensor
    scale: Tensor
    reward_scale: Tensor
    state_dim: int
    action_dim: int
    more: Tensor
    episodes: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def present(self) -> Tensor:
        """(P, N) bool: which rows are data."""
        return torch.arange(self.rows.shape[1]) < torch.as_tensor(self.counts)[:, None]

    def to(self, device: str) -> StackedData:
        """A copy whose tensors lie on `device`."""
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def select(self, learners: Sequence[int]) -> StackedData:
        """The slices of these learners, in that order (repeats allowed)."""
        index = list(learners)
        chosen = {name: getattr(self, name)[index] for name in (*_TENSORS, "counts", "episodes")}
        longest = int(chosen["counts"].max())
        chosen |= {name: chosen[name][:, :longest] for name in ("rows", "more")}
        return dataclasses.replace(self, keys=tuple(self.keys[i] for i in index), **chosen)

    def keep(self, mask: Tensor) -> StackedData:
        """The rows where `mask` (P, N) is true, in their order; everything else stays as it is."""
        mask = mask & self.present.to(mask.device)
        counts = mask.sum(1)
        order = torch.argsort((~mask).byte(), dim=1, stable=True)[:, : int(counts.max()), None]
        rows, more = (t.gather(1, order.expand(-1, -1, t.shape[-1])) for t in (self.rows, self.more))
        return dataclasses.replace(self, rows=rows, more=more, counts=counts.cpu().numpy())

    def seeds(self, seed: Seeds) -> list[int]:
        """One root seed per learner."""
        return list(seed) if isinstance(seed, Sequence) else [seed] * len(self)


def stack_transitions(
    transitions: Transitions,
    scope: str,
    config: OfflineConfig,
    patients: Sequence[str] | None = None,
    members: Mapping[str, Sequence[str]] | None = None,
) -> StackedData:
    """Slice a dataset by learner.

    Args:
        transitions: The dataset.
        scope: "ind": one learner per patient on its own episodes; "clu": one for the rows of several; "pop", "context":
            one learner on all rows.
        config: Discount and scaling settings.
        patients: Whom to learn for, as `load_dataset`; None takes those that have episodes.
        members: Of scope "clu": name of a learner -> whose rows it learns from.

    Raises:
        UnknownNameError: If the scope or a patient does not exist, or has no episodes.
        DatasetError: If the dataset is malformed or empty, or has no whole episodes where the learners see a history.
    """
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    transitions.validate()
    name = transitions.dataset_id or "transitions"
    positions = transitions.resolve(patients)
    ids = tuple(transitions.patients[p] for p in positions)
    groups = [np.flatnonzero(transitions.patient == p) for p in positions]
    if not groups:
        raise DatasetError(f"{name}: no transitions to learn from; generate the dataset again")
    if scope == "clu":
        of = dict(zip(ids, groups))
        known = {name: [of[p] for p in people if p in of] for name, people in (members or {}).items()}
        ids, groups = tuple(known), [np.sort(np.concatenate(rows)) for rows in known.values() if rows]
        if not groups or len(groups) < len(ids):
            raise DatasetError(
                f"{name}: a cluster has nobody to learn from; give the clusters, and rows of their people"
            )
    elif scope != "ind":
        ids, groups = (POPULATION,), [np.sort(np.concatenate(groups))]

    seen, following = states_of(transitions, config.history)
    d, actions = seen.shape[1], transitions.action_dim
    counts = np.array([len(g) for g in groups])
    rows = np.zeros((len(ids), int(counts.max()), 2 * d + actions + 2), dtype=np.float32)
    mean, scale = np.zeros((len(ids), 1, d)), np.ones((len(ids), 1, d))
    reward_scale = np.ones(len(ids))
    found = _more_columns(transitions, config, name)
    more, episodes = np.zeros((*rows.shape[:2], actions + 4), dtype=np.float32), np.ones((len(ids), 4))
    reference = transitions.definition.process.reference_interval
    if config.state_scaling == "dataset":
        mean[:, 0], scale[:, 0] = state_scale(transitions.observations, transitions, config.history)
    if config.reward_scaling == "dataset":
        reward_scale[:] = _spread(transitions.rewards)
    for p, group in enumerate(groups):
        if config.state_scaling == "learner":
            mean[p, 0], scale[p, 0] = state_scale(
                transitions.observations[group].astype(np.float64), transitions, config.history
            )
        rewards = transitions.rewards[group].astype(np.float64)
        if config.reward_scaling == "learner":
            reward_scale[p] = _spread(rewards)
        powers = discount_powers(transitions.dt[group], config, reference)
        discount = np.where(transitions.terminations[group], 0.0, config.gamma**powers)
        own = rows[p, : len(group)]
        own[:, :d] = (seen[group].astype(np.float64) - mean[p]) / scale[p]
        own[:, d : d + actions] = transitions.actions[group]
        own[:, d + actions] = rewards / reward_scale[p]
        own[:, d + actions + 1] = discount
        own[:, d + actions + 2 :] = (following[group] - mean[p]) / scale[p]
        more[p, : len(group)] = found[group]
        episodes[p] = _outcomes(rewards / reward_scale[p], found[group, actions], transitions.episode[group])
        more[p, :, actions] /= episodes[p, 3]
    mean32, scale32, reward32 = (torch.as_tensor(a.astype(np.float32)) for a in (mean, scale, reward_scale))
    tensor, extra = torch.from_numpy(rows), torch.from_numpy(more)
    return StackedData(ids, tensor, counts, mean32, scale32, reward32, d, actions, extra, episodes)


def _more_columns(transitions: Transitions, config: OfflineConfig, name: str) -> np.ndarray:
    """`StackedData.more` of every row, the cost not yet scaled."""
    if config.cost == "path" and not transitions.costs_path.shape[1]:
        raise DatasetError(f"{name}: costs_path has no columns; set cost=end, or generate the dataset again")
    cost = transitions.costs_path[:, 0] if config.cost == "path" else transitions.costs
    starts = transitions.episode_starts()
    first = np.zeros(len(cost), dtype=bool)
    first[starts] = True
    last = np.r_[first[1:], True]
    following = np.where(last[:, None], transitions.actions, np.roll(transitions.actions, -1, 0))
    shares = []
    for column in (-transitions.rewards, cost):
        totals, patient = np.add.reduceat(column.astype(np.float64), starts), transitions.patient[starts]
        place = np.empty(len(starts))
        order = np.lexsort((totals, patient))
        _, begins, counts = np.unique(patient[order], return_index=True, return_counts=True)
        place[order] = (np.arange(len(starts)) - np.repeat(begins, counts)) / np.repeat(counts, counts)
        shares.append(place[np.cumsum(first) - 1])
    return np.column_stack([following, cost, first, *shares]).astype(np.float32)


def _outcomes(rewards: np.ndarray, costs: np.ndarray, episode: np.ndarray) -> tuple[float, float, float, float]:
    """A row of `StackedData.episodes`."""
    starts = np.flatnonzero(np.r_[True, np.diff(episode) != 0])
    spread = _spread(costs)
    total = np.add.reduceat(costs.astype(np.float64), starts) / spread
    return float(np.add.reduceat(rewards, starts).min()), float(total.mean()), float(total.min()), spread


def discount_powers(dt: np.ndarray, config: OfflineConfig, reference: float) -> np.ndarray:
    """By which power of gamma the value after a decision of length `dt` is discounted, (N,) -> (N,)."""
    return dt / reference if config.discount == "elapsed" else np.ones(len(dt))


def _spread(rewards: np.ndarray) -> float:
    """Standard deviation of rewards, 1 where they do not vary."""
    spread = float(rewards.std(dtype=np.float64))
    return spread if spread > 1e-6 else 1.0


_NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Batch:
    """B transitions of each of P learners, and the random numbers of one update.

    Attributes:
        state, next_state: (P, B, d) standardized.  action: (P, B, A).
        reward: (P, B) scaled.  discount: (P, B), 0 at terminal rows.
        normal: (P, C, B, A) standard normal.  uniform: (P, C', B, A) in [-1, 1]. For candidate actions.
        next_action: (P, B, A).  cost, first, better: (P, B). Of `StackedData.more`; `better` is the share of the
            patient's episodes with a higher return. Empty unless the objective asks.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_state: Tensor
    normal: Tensor
    uniform: Tensor
    next_action: Tensor = _NOTHING
    cost: Tensor = _NOTHING
    first: Tensor = _NOTHING
    better: Tensor = _NOTHING


class BatchSampler:
    """Draws batches with replacement, each learner from its own streams.

    Args:
        data: The slices.
        seed: Root seed, or one per learner; the streams are (seed, purpose, learner key).
        batch: Rows per learner, B.
        normals, uniforms: Candidate noises per row, C and C'.
        more: Whether batches have `StackedData.more`.
    """

    def __init__(
        self, data: StackedData, seed: Seeds, batch: int, normals: int = 0, uniforms: int = 0, more: bool = False
    ):
        self._data, self._batch = data, batch
        self._rows = data.rows.flatten(0, 1)
        self._more = data.more.flatten(0, 1) if more else None
        self._offsets = np.arange(len(data))[:, None] * data.rows.shape[1]
        named = list(zip(data.seeds(seed), data.keys))
        self._picks = [generator(s, "offline-batches", key) for s, key in named]
        self._noises = [generator(s, "offline-candidates", key) for s, key in named]
        shape = (batch, data.action_dim)
        self._normal = np.zeros((len(data), normals, *shape), dtype=np.float32)
        self._uniform = np.zeros((len(data), uniforms, *shape), dtype=np.float32)

    def draw(self) -> Batch:
        """The next batch. Its noise arrays are reused by the following call."""
        u = np.stack([g.random(self._batch) for g in self._picks])
        index = (u * self._data.counts[:, None]).astype(np.int64) + self._offsets
        for p, g in enumerate(self._noises):
            if self._normal.shape[1]:
                g.standard_normal(out=self._normal[p], dtype=np.float32)
            if self._uniform.shape[1]:
                g.random(out=self._uniform[p], dtype=np.float32)
        device = self._rows.device
        places = torch.from_numpy(index).to(device)
        d, a = self._data.state_dim, self._data.action_dim
        state, action, scalars, next_state = self._rows[places].tensor_split((d, d + a, d + a + 2), -1)
        normal, uniform = torch.from_numpy(self._normal), 2.0 * torch.from_numpy(self._uniform) - 1.0
        extra: tuple[Tensor, ...] = ()
        if self._more is not None:
            next_action, more = self._more[places].split([a, 4], -1)
            extra = next_action, *more.unbind(-1)[:3]
        reward, discount = scalars.unbind(-1)
        return Batch(state, action, reward, discount, next_state, normal.to(device), uniform.to(device), *extra)

    def state(self) -> str:
        """Position of every stream, as JSON."""
        return json.dumps([[g.bit_generator.state for g in streams] for streams in (self._picks, self._noises)])

    def restore(self, state: str) -> None:
        """Continue from a position that `state` returned."""
        for streams, saved in zip((self._picks, self._noises), json.loads(state)):
            for g, position in zip(streams, saved):
                g.bit_generator.state = position
