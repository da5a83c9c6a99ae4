"""Our transitions as d3rlpy's replay buffer, with what its `MDPDataset` has no place for.

`medgym_offline.datasets.to_d3rlpy` is the plain form and says how rows line up. Here rewards are scaled, decisions take
different times, and actions may be numbers of codewords.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import BasicTransitionPicker, Episode, InfiniteBuffer, ReplayBuffer, Transition

from medgym_offline.datasets.adapters import require_whole_episodes
from medgym_offline.datasets.transitions import Transitions

__all__ = ["replay_buffer"]


@dataclass(frozen=True)
class TimedEpisode(Episode):  # type: ignore[misc,unused-ignore]
    """An episode whose decisions take different times.

    Attributes:
        intervals: (T,) by which power of gamma the value after a decision is discounted.
    """

    intervals: np.ndarray


class TimedPicker(BasicTransitionPicker):  # type: ignore[misc,unused-ignore]
    """d3rlpy's picker, with the decision's own interval; its algorithms discount by gamma**interval."""

    def __call__(self, episode: TimedEpisode, index: int) -> Transition:
        return replace(super().__call__(episode, index), interval=float(episode.intervals[index]))


def replay_buffer(
    transitions: Transitions,
    rewards: np.ndarray,
    intervals: np.ndarray,
    codes: np.ndarray | None = None,
    count: int = 0,
) -> ReplayBuffer:
    """The rows of a dataset as a replay buffer.

    Args:
        transitions: The dataset; observations and continuous actions are taken from it as they are.
        rewards: (N,) scaled.
        intervals: (N,) see `TimedEpisode`.
        codes: (N,) numbers of codewords, for discrete actions; None takes the actions.
        count: How many codewords there are (d3rlpy would guess it from those that occur).

    Raises:
        DatasetError: Rows that do not follow one another to the end of their episode.
    """
    require_whole_episodes(transitions)
    starts = transitions.episode_starts()
    ends = np.r_[starts[1:], len(transitions)]
    actions = transitions.actions if codes is None else codes.astype(np.int64)[:, None]
    rewards = rewards.astype(np.float32)[:, None]
    episodes = [
        TimedEpisode(transitions.observations[a:b], actions[a:b], rewards[a:b], True, intervals[a:b])
        for a, b in zip(starts, ends)
    ]
    return ReplayBuffer(
        InfiniteBuffer(),
        transition_picker=TimedPicker(),
        episodes=episodes,
        action_space=ActionSpace.CONTINUOUS if codes is None else ActionSpace.DISCRETE,
        action_size=transitions.action_dim if codes is None else count,
    )
