"""States of learners: observations as they are, or windows of several, and what they are standardized with."""

from __future__ import annotations

import numpy as np
import torch

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.sequences import begin_windows, extend_windows

__all__ = ["state_scale", "states_of"]

# A column that hardly varies in the data is not blown up: outside the data it would swamp the rest.
_SMALLEST_SCALE = 0.1


def states_of(transitions: Transitions, history: int) -> tuple[np.ndarray, np.ndarray]:
    """What a learner sees before and after every decision, (N, d) each: observations, or windows of `history` of them.

    Windows are built decision by decision, all episodes side by side.

    Raises:
        DatasetError: If windows are wanted, and rows of an episode are missing.
    """
    if history == 1:
        return transitions.observations, transitions.next_observations
    starts = transitions.episode_starts()
    lengths = np.diff(np.r_[starts, len(transitions)])
    goes_on = np.flatnonzero(np.diff(transitions.episode) == 0)
    if not np.array_equal(transitions.next_observations[goes_on], transitions.observations[goes_on + 1]):
        raise DatasetError(
            f"{transitions.dataset_id or 'transitions'}: next_observations do not lead to the next row; "
            f"history={history} needs whole episodes in order: select patients rather than rows, or set history=1"
        )
    columns = (transitions.observations, transitions.actions, transitions.next_observations)
    observed, actions, reached = (torch.from_numpy(np.ascontiguousarray(column)) for column in columns)
    windows = begin_windows(observed, actions.shape[1], history)
    for k in range(1, int(lengths.max())):
        rows = torch.from_numpy(starts[lengths > k] + k)
        windows[rows] = extend_windows(windows[rows - 1], actions[rows - 1], observed[rows])
    return windows.numpy(), extend_windows(windows, actions, reached).numpy()


def state_scale(observations: np.ndarray, about: Transitions, history: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of states, from observations (N, d) of the dataset `about`."""
    mean = observations.mean(0, dtype=np.float64)
    scale = np.maximum(observations.std(0, dtype=np.float64), _SMALLEST_SCALE)
    if history == 1:
        return mean, scale
    # The clocks are shares already, and networks over windows read the time from them. An interval is in units of the
    # disease's reference interval; actions and marks have a size of about one.
    process, width = about.definition.process, about.action_dim + 2
    mean[-2:], scale[-2:] = 0.0, 1.0
    units = np.ones(width)
    units[-2] = process.reference_interval / process.horizon
    return np.tile(np.r_[mean, 0.0 * units], history)[:-width], np.tile(np.r_[scale, units], history)[:-width]
