"""Support distance: how far the state-action pairs of a policy lie from the behaviour data (paper, eq. 16).

    d(z) = min over z' in D_ref of || (z - mu)/s - (z' - mu)/s ||_2

z = (observation, action as executed); mu and s per coordinate. The dataset is split by episodes: the reference half
is searched, the query half gives the behaviour's own curve, which therefore has no zero distances. Per patient
throughout: a policy's rollout on patient i is compared with patient i's episodes, scaled by patient i's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medgym_offline.errors import DatasetError

if TYPE_CHECKING:
    from medgym_offline.datasets.transitions import Transitions

__all__ = ["PARTS", "SupportReference", "calibrated", "coordinate_scale", "split_halves", "support_distance"]

Array = NDArray[np.float64]

# Measured on 13 coordinates: below this many references a blocked brute force is as fast as a tree for near queries and
# twice as fast for far ones; above it, near queries (the usual case) are 2.5 times faster in a tree.
_TREE_FROM = 4_000
_BLOCK = 4_000_000  # distances held at once, 32 MB

PARTS = ("all", "states", "actions")
"""Readings of the distance: of z whole, of its observation alone, of its action alone."""

_STATE_WIDTH = 9  # columns of z that are the observation; the action follows

HISTOGRAM_EDGES: Array = np.concatenate([np.linspace(0.0, 20.0, 201), [np.inf]])
"""Bin edges of the stored distributions: 0.1 SD wide up to 20 SD, then one open bin."""


def coordinate_scale(data: ArrayLike) -> tuple[Array, Array]:
    """Mean and standard deviation (population form) of every coordinate of `data` (n, d), each (d,).

    A coordinate that is constant in `data` gets SD 1: it then counts in its own unit, instead of being infinite for
    every z that differs from it at all.
    """
    values = np.asarray(data, dtype=np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    constant = np.ptp(values, axis=0) == 0.0
    return mean, np.where(constant, 1.0, deviation)


def support_distance(
    reference: ArrayLike, query: ArrayLike, scale: tuple[ArrayLike, ArrayLike] | None = None
) -> NDArray[np.float64]:
    """Distance of every query to its nearest reference, in standard deviations (paper, eq. 16). Exact.

    Args:
        reference: (n, d) state-action vectors of the behaviour data, n at least 1.
        query: (m, d).
        scale: Mean and SD per coordinate, each (d,); by default those of `reference`, where a constant coordinate
            has SD 1.

    Returns:
        (m,) float64.

    Raises:
        DatasetError: If the shapes do not fit, `reference` is empty, or a number is not finite.
    """
    near, far = np.asarray(reference, dtype=np.float64), np.asarray(query, dtype=np.float64)
    if near.ndim != 2 or far.ndim != 2 or near.shape[1] != far.shape[1]:
        raise DatasetError(f"support distance needs (n, d) and (m, d), got shapes {near.shape} and {far.shape}")
    if not len(near):
        raise DatasetError("support distance needs at least one reference row")
    for name, values in (("reference", near), ("query", far)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise DatasetError(f"support distance: {name} row {row} is not finite")
    mean, deviation = coordinate_scale(near) if scale is None else (np.asarray(s, dtype=np.float64) for s in scale)
    near, far = (near - mean) / deviation, (far - mean) / deviation
    return _by_tree(near, far) if len(near) > _TREE_FROM else _by_force(near, far)


def _by_tree(reference: Array, query: Array) -> Array:
    from scipy.spatial import cKDTree

    distances: Array = cKDTree(reference).query(query, k=1)[0]
    return distances


def _by_force(reference: Array, query: Array) -> Array:
    from scipy.spatial.distance import cdist

    block = max(1, _BLOCK // len(reference))
    parts = [cdist(query[i : i + block], reference, "sqeuclidean").min(axis=1) for i in range(0, len(query), block)]
    return np.sqrt(np.concatenate(parts)) if parts else np.zeros(0)


def _part_distances(reference: Array, query: Array) -> dict[str, Array]:
    """Nearest distance (m,) for each of :data:`PARTS`; each part has its own nearest neighbour. Scaled rows in."""
    cut = _STATE_WIDTH
    if len(reference) > _TREE_FROM:
        return {
            "all": _by_tree(reference, query),
            "states": _by_tree(reference[:, :cut], query[:, :cut]),
            "actions": _by_tree(reference[:, cut:], query[:, cut:]),
        }
    from scipy.spatial.distance import cdist

    found = {part: np.zeros(len(query)) for part in PARTS}
    block = max(1, _BLOCK // (2 * len(reference)))
    for i in range(0, len(query), block):
        rows = slice(i, i + block)
        # Squared distances add over coordinates: two tables serve all three readings.
        states = cdist(query[rows, :cut], reference[:, :cut], "sqeuclidean")
        actions = cdist(query[rows, cut:], reference[:, cut:], "sqeuclidean")
        found["states"][rows], found["actions"][rows] = states.min(axis=1), actions.min(axis=1)
        states += actions
        found["all"][rows] = states.min(axis=1)
    return {part: np.sqrt(values) for part, values in found.items()}


def calibrated(distances: Array, own: Array) -> Array:
    """Percentile (m,), 0..100, of each distance among the behaviour's own held-out ones `own` (n,), ties one half.

    A policy that keeps to the data as the behaviour does has percentiles uniform on 0..100, mean 50. NaN if `own` is
    empty.
    """
    if not len(own):
        return np.full(len(distances), np.nan)
    ordered = np.sort(own)
    below, upto = np.searchsorted(ordered, distances, "left"), np.searchsorted(ordered, distances, "right")
    return 50.0 * (below + upto) / len(ordered)


def split_halves(patient: NDArray[Any], episode: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (N,) of the reference and the query half: even- and odd-numbered episodes of each patient.

    Episodes are counted within the patient, in the order of their numbers, so the split of one patient does not depend
    on how many episodes the others have. Whole episodes go to one half: rows of one episode are alike.

    Args:
        patient, episode: (N,) integers, as in `Transitions`.
    """
    pairs, row_pair = np.unique(np.stack([patient, episode], axis=1), axis=0, return_inverse=True)
    starts = np.flatnonzero(np.r_[True, np.diff(pairs[:, 0]) != 0]) if len(pairs) else np.zeros(0, dtype=int)
    counted = np.arange(len(pairs)) - np.repeat(starts, np.diff(np.r_[starts, len(pairs)]))
    even = counted % 2 == 0
    reference = even[row_pair.reshape(-1)]
    return reference, ~reference


@dataclass(frozen=True)
class SupportReference:
    """One dataset prepared for support distances of several policies: per patient the reference half and its scale.

    Attributes:
        dataset_id, identity: Of the dataset.
        action_dim: Of its actions.
        patients: Ids that have episodes.
        reference: Per patient (n, d) rows of the even-numbered episodes.
        scale: Per patient mean and SD per coordinate, over all its rows (both halves; eq. 16).
        behavior: Per patient distances of the query half to the reference half (m,), the behaviour's own curve; empty
            for a patient with a single episode.
        behavior_parts: The same for states and actions alone: part -> patient -> (m,).
    """

    dataset_id: str
    identity: str
    action_dim: int
    patients: tuple[str, ...]
    reference: dict[str, Array]
    scale: dict[str, tuple[Array, Array]]
    behavior: dict[str, Array]
    behavior_parts: dict[str, dict[str, Array]]

    @classmethod
    def from_transitions(cls, transitions: Transitions, patients: Sequence[str] | None = None) -> SupportReference:
        """Prepare the episodes of `patients` (ids; all by default) in `transitions`.

        Raises:
            DatasetError: If the dataset has no episode of one of the patients, naming it.
        """
        present = transitions.present_ids
        wanted = tuple(present if patients is None else patients)
        if missing := [p for p in wanted if p not in present]:
            raise DatasetError(
                f"dataset {transitions.dataset_id or '(unnamed)'} has no episode of patient {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}; evaluate only its patients, or name another dataset"
            )
        is_reference, _ = split_halves(transitions.patient, transitions.episode)
        z = np.concatenate([transitions.observations, transitions.actions], axis=1)
        reference, scale = {}, {}
        own: dict[str, dict[str, Array]] = {part: {} for part in PARTS}
        for name in wanted:
            rows = np.flatnonzero(transitions.patient == transitions.index_of(name))
            all_rows, first = z[rows].astype(np.float64), is_reference[rows]
            reference[name], scale[name] = all_rows[first], coordinate_scale(all_rows)
            query = all_rows[~first]
            mean, deviation = scale[name]
            found = _part_distances((all_rows[first] - mean) / deviation, (query - mean) / deviation)
            for part in PARTS:
                own[part][name] = found[part]
        return cls(
            transitions.dataset_id,
            transitions.identity,
            transitions.action_dim,
            wanted,
            reference,
            scale,
            own["all"],
            {part: own[part] for part in PARTS[1:]},
        )

    def distances(self, patient: str, observations: ArrayLike, actions: ArrayLike) -> Array:
        """Support distances (m,) of observations (m, 9) and executed actions (m, A) of one patient."""
        query = np.concatenate([np.asarray(observations, np.float64), np.asarray(actions, np.float64)], axis=1)
        return support_distance(self.reference[patient], query, self.scale[patient])

    def part_distances(self, patient: str, observations: ArrayLike, actions: ArrayLike) -> dict[str, Array]:
        """:meth:`distances` of one patient for each of :data:`PARTS`, each (m,)."""
        z = np.concatenate([np.asarray(observations, np.float64), np.asarray(actions, np.float64)], axis=1)
        if not np.isfinite(z).all():
            row = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
            raise DatasetError(f"support distance: row {row} of patient {patient} is not finite")
        mean, deviation = self.scale[patient]
        return _part_distances((self.reference[patient] - mean) / deviation, (z - mean) / deviation)

    def own(self, part: str, patient: str) -> Array:
        """The behaviour's own held-out distances (m,) of one patient for one of :data:`PARTS`."""
        return self.behavior[patient] if part == "all" else self.behavior_parts[part][patient]
