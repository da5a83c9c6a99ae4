"""A dataset as a grid of episodes: (patients, episodes, decisions)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError

__all__ = ["Logged", "episode_grid"]


@dataclass(frozen=True)
class Logged:
    """P x E episodes of at most K decisions; rows after the end of an episode are 0 and not valid.

    Attributes:
        patients: P ids.
        observations, next_observations: (P, E, K, d), float32.
        actions: As executed (P, E, K, A), float32.
        rewards, dt, behavior_log_prob: (P, E, K), float64; dt in the disease's unit of time.
        valid: (P, E, K), bool.
    """

    patients: tuple[str, ...]
    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    rewards: Tensor
    dt: Tensor
    behavior_log_prob: Tensor
    valid: Tensor

    @property
    def start(self) -> Tensor:
        """Time at which each decision was taken (P, E, K)."""
        return self.dt.cumsum(-1) - self.dt


def episode_grid(transitions: Transitions, patients: Sequence[str] | None = None) -> Logged:
    """The grid of a dataset, episodes of a patient in the order of their numbers.

    Args:
        transitions: The dataset.
        patients: Ids; None takes those that have episodes.

    Raises:
        DatasetError: Patients with different numbers of episodes.
        UnknownNameError: No such patient, or one without episodes.
    """
    transitions.validate()
    name = transitions.dataset_id or "transitions"
    positions = transitions.resolve(patients)
    ids = tuple(transitions.patients[p] for p in positions)
    starts = transitions.episode_starts()
    lengths = np.diff(np.r_[starts, len(transitions)])
    owner = transitions.patient[starts]
    groups = [np.flatnonzero(owner == p) for p in positions]
    for patient, group in zip(ids, groups):
        if len(group) != len(groups[0]):
            counts = f"patient {patient} has {len(group)} episodes, {ids[0]} has {len(groups[0])}"
            needs = "off-policy evaluation needs as many for everyone: choose other --patients"
            raise DatasetError(f"{name}: {counts}; {needs}, or generate the dataset again")
    if not groups:
        raise DatasetError(f"{name}: no episodes; generate the dataset again")
    chosen = np.stack(groups)
    offset = np.arange(int(lengths[chosen].max()))
    valid = offset < lengths[chosen][..., None]
    rows = np.where(valid, starts[chosen][..., None] + offset, 0)

    def grid(values: np.ndarray) -> Tensor:
        found = values[rows]
        found[~valid] = 0
        return torch.from_numpy(found)

    return Logged(
        ids,
        grid(transitions.observations),
        grid(transitions.next_observations),
        grid(transitions.actions),
        grid(transitions.rewards).double(),
        grid(transitions.dt).double(),
        grid(transitions.behavior_log_prob).double(),
        torch.from_numpy(valid),
    )
