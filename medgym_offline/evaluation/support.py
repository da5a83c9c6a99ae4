"""Support distance: how far the state-action pairs of a policy lie from the behavior data (paper, eq. 16).

    d(z) = min over z' in D_ref of || (z - mu)/s - (z' - mu)/s ||_2

z = (observation, action as executed); mu and s per coordinate. The dataset is split by episodes: the reference half
is searched, the query half gives the behavior's own curve, which therefore has no zero distances. Per patient
throughout: a policy's rollout on patient i is compared with patient i's episodes, scaled by patient i's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError

__all__ = ["PARTS", "SupportReference", "calibrated", "split_halves", "support_distance"]

Array = NDArray[np.float64]

PARTS = ("all", "states", "actions")
"""Readings of the distance: of z whole, of its observation alone, of its action alone."""


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
        reference: (n, d) state-action vectors of the behavior data, n at least 1.
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
    from scipy.spatial import cKDTree

    mean, deviation = coordinate_scale(near) if scale is None else (np.asarray(s, dtype=np.float64) for s in scale)
    distances: Array = cKDTree((near - mean) / deviation).query((far - mean) / deviation, k=1)[0]
    return distances


def calibrated(distances: Array, own: Array) -> Array:
    """Percentile (m,), 0..100, of each distance among the behavior's own `own` (n,), ties one half.

    A policy that keeps to the data as the behavior does has percentiles uniform on 0..100, mean 50. NaN if `own` is
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
        observation_dim: Columns of z that are the observation; the action follows.
        reference: Patient -> (n, d) rows of the even-numbered episodes.
        scale: Patient -> mean and SD per coordinate, over all its rows (both halves; eq. 16).
        behavior: Part -> patient -> distances of the query half to the reference half (m,), the behavior's own curve;
            empty for a patient with a single episode.
    """

    observation_dim: int
    reference: dict[str, Array]
    scale: dict[str, tuple[Array, Array]]
    behavior: dict[str, dict[str, Array]]

    @classmethod
    def from_transitions(cls, transitions: Transitions, patients: Sequence[str] | None = None) -> SupportReference:
        """Prepare the episodes of `patients` (ids; all by default) in `transitions`.

        Raises:
            DatasetError: If the dataset has no episode of one of the patients, naming it.
        """
        present = transitions.present_ids
        wanted = tuple(present if patients is None else patients)
        if missing := [p for p in wanted if p not in present]:
            lacks = f"no episode of patient {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
            remedy = "evaluate only its patients, or name another dataset"
            raise DatasetError(f"dataset {transitions.dataset_id or '(unnamed)'} has {lacks}; {remedy}")
        is_reference, _ = split_halves(transitions.patient, transitions.episode)
        made = cls(transitions.observation_dim, {}, {}, {part: {} for part in PARTS})
        for name in wanted:
            rows = np.flatnonzero(transitions.patient == transitions.patients.index(name))
            observations, actions, first = transitions.observations[rows], transitions.actions[rows], is_reference[rows]
            z = np.concatenate([observations, actions], axis=1).astype(np.float64)
            made.reference[name], made.scale[name] = z[first], coordinate_scale(z)
            for part, values in made.part_distances(name, observations[~first], actions[~first]).items():
                made.behavior[part][name] = values
        return made

    @classmethod
    def of_everyone(cls, transitions: Transitions, patients: Sequence[str]) -> SupportReference:
        """All episodes of `transitions` as those of each of `patients`, who are not in it: rows of clinical records."""
        made = cls.from_transitions(transitions.pooled())
        (reference,), (scale,) = made.reference.values(), made.scale.values()
        behavior = {part: dict.fromkeys(patients, *found.values()) for part, found in made.behavior.items()}
        return cls(made.observation_dim, dict.fromkeys(patients, reference), dict.fromkeys(patients, scale), behavior)

    def part_distances(self, patient: str, observations: ArrayLike, actions: ArrayLike) -> dict[str, Array]:
        """Support distances (m,) of one patient's observations (m, d) and executed actions (m, A), by :data:`PARTS`."""
        query = np.concatenate([np.asarray(observations, np.float64), np.asarray(actions, np.float64)], axis=1)
        near, (mean, deviation), cut = self.reference[patient], self.scale[patient], self.observation_dim
        columns = {"all": slice(None), "states": slice(cut), "actions": slice(cut, None)}
        return {part: support_distance(near[:, c], query[:, c], (mean[c], deviation[c])) for part, c in columns.items()}

    def own(self, part: str, patient: str) -> Array:
        """The behavior's own distances (m,), of its other half, of one patient for one of :data:`PARTS`."""
        return self.behavior[part][patient]
