"""`HistoryPolicy`: a function of the last n observations, with the memory that it needs while it acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import FULL
from medgym_offline.errors import PolicyError
from medgym_offline.policies.protocol import Policy, disease_of_policy, reset_policy, torch_or_numpy
from medgym_offline.sequences import REMAINING, begin_windows, extend_windows, observation_width

__all__ = ["HistoryPolicy"]


class HistoryPolicy:
    """Acts on windows of the past (:mod:`medgym_offline.sequences`), one memory per patient and episode.

    Call `reset` before episodes; the batch keeps its shape until then. An observation with more time left than the one
    before it begins an episode by itself, so loops over an environment that resets itself need no call.

    Args:
        inner: A function of windows (P, B, W) as float32 tensors to actions, with the attributes of a `Policy`; its
            `observation_dim` is W.
        history: n, the observations in a window.

    Raises:
        PolicyError: If W does not hold n observations.
    """

    def __init__(self, inner: Policy, history: int):
        self.observation_dim = observation_width(inner.observation_dim, inner.action_dim, history)
        self.inner, self.history, self.action_dim = inner, history, inner.action_dim
        self.timing, self.decisions, self.patients = inner.timing, inner.decisions, inner.patients
        self.disease, self.view = disease_of_policy(inner), getattr(inner, "view", FULL)
        self.scope = "pop" if inner.patients is None else "ind"
        self.provenance: dict[str, Any] = dict(getattr(inner, "provenance", None) or {})
        self._window: Tensor | None = None
        self._action = torch.empty(0)

    def reset(self, seeds: np.ndarray) -> None:
        """Forget; the next observations are the first of their episodes. `seeds` (P, B)."""
        self._window = None
        reset_policy(self.inner, seeds)

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A) in [-1, 1], given what this and earlier calls since `reset` saw.

        Raises:
            PolicyError: If patients or episodes are others than before.
        """
        seen = observations.to(torch.float32)
        window = begin_windows(seen, self.action_dim, self.history)
        if self._window is not None:
            if window.shape != self._window.shape:
                asked, held = tuple(window.shape[:2]), tuple(self._window.shape[:2])
                raise PolicyError(
                    f"asked for {asked} patients and episodes, this policy remembers {held}; call reset(seeds) first"
                )
            longer = extend_windows(self._window, self._action, seen)
            again = seen[..., REMAINING, None] > self._window[..., self.observation_dim + REMAINING, None]
            window = torch.where(again, window, longer)
        self._window = window
        self.took(self.inner.act(window))
        return self._action.to(observations.dtype)

    def took(self, actions: Tensor) -> None:
        """Remember (P, B, A) as the last action: what was played, where that is not what `act` answered."""
        self._action = actions.detach().to(torch.float32).clamp(-1.0, 1.0)

    def select(self, patients: Sequence[str]) -> HistoryPolicy:
        """The same policy for these patients, in that order, with no memory yet."""
        select = getattr(self.inner, "select", None)
        return HistoryPolicy(self.inner if select is None else select(patients), self.history)
