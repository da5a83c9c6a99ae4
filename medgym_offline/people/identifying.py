"""Policies that find out, in every episode, whom they treat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import CLOCKS
from medgym_offline.errors import MedGymError, PolicyError
from medgym_offline.people.records import Record
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.protocol import torch_or_numpy
from medgym_offline.windows import REMAINING

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["IdentifyingPolicy"]

_EPSILON = 1e-3
"""Clocks of observations are shares of the horizon in float32."""


class IdentifyingPolicy:
    """A policy of scope `clu` or `context` that knows a person by the episode's own first hours, and by nothing else.

    At its first decision from `hours` on it reads what was seen and given in this episode so far, whoever gave it, and
    acts with the network for such a person from there. Until then it treats everybody alike: as the cluster of most
    people, or with the mean embedding. One memory per patient and episode; call `reset` before episodes.

    Args:
        policy: What was learned, with networks for the people of `people`.
        people: It was learned with, best of `people_of(..., hours=hours)`, whose records are of this form.
        bank: Simulators of the medoids; names the disease.
        hours: When people are identified, in the disease's unit.

    Raises:
        MedGymError: The policy is of another scope than `people`; clusters of a disease with events, which a policy is
            not told and forecasts need.
    """

    patients = None

    def __init__(
        self, policy: StackedActor | HistoryPolicy, people: Clusters | Contexts, bank: SimulatorBank, hours: float
    ) -> None:
        actor = policy.inner if isinstance(policy, HistoryPolicy) else policy
        if not isinstance(actor, StackedActor) or actor.scope != people.scope:
            raise MedGymError(f"people are of scope {people.scope!r}; give a policy that was learned with them")
        if people.scope == "clu" and bank.disease.exogenous is not None:
            raise MedGymError(
                f"{bank.disease.name}: forecasts need the events of an episode, which a policy is not told; identify "
                "people by a record of sessions"
            )
        self._actor, self._people, self._bank, self._hours = actor, people, bank, hours
        self._history = policy.history if isinstance(policy, HistoryPolicy) else 1
        self.observation_dim, self.action_dim, self.timing = policy.observation_dim, policy.action_dim, policy.timing
        self.decisions, self.disease, self.view = policy.decisions, actor.disease, actor.view
        self.scope, self.provenance = people.scope, dict(actor.provenance)
        self._seen: list[Tensor] = []

    def reset(self, seeds: np.ndarray) -> None:
        """Forget; the next observations are the first of their episodes. `seeds` (P, B) are not used."""
        self._seen = []

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A) in [-1, 1], given what this and earlier calls since `reset` saw.

        Raises:
            PolicyError: If patients or episodes are others than before, or an episode begins without a `reset`.
        """
        seen = observations.to(torch.float32).flatten(0, 1)[:, None]  # every episode is a person of its own
        if not self._seen:
            self._identities = torch.cat([self._people.default_identity()] * len(seen))
            self._known = torch.zeros(len(seen), dtype=torch.bool)
            self._played: list[Tensor] = []
            self._policy = self._network(len(seen))
        elif seen.shape != self._seen[-1].shape or bool((seen > self._seen[-1])[..., REMAINING].any()):
            raise PolicyError("other patients or episodes than before; call reset(seeds) first")
        self._seen.append(seen)
        due = ~self._known & (self._times()[:, 0, -1] > self._hours - _EPSILON)
        if len(self._seen) > 1 and bool(due.any()):
            self._identities[due] = self._people.identify(self._bank, self._record(due))
            self._known |= due
            self._policy = self._network(len(seen))
        actions = self._policy.act(seen)
        self._played.append(actions)
        return actions.view(*observations.shape[:2], -1).to(observations.dtype)

    def took(self, actions: Tensor) -> None:
        """Remember (P, B, A) as the last action: what was played, where that is not what `act` answered."""
        self._played[-1] = actions.to(torch.float32).flatten(0, 1)[:, None].clamp(-1.0, 1.0)
        if isinstance(self._policy, HistoryPolicy):
            self._policy.took(self._played[-1])

    def _times(self) -> Tensor:
        """(N, 1, L + 1) of what was seen, since each of N episodes began."""
        left = torch.stack([seen[..., REMAINING] for seen in self._seen], -1)
        return (1.0 - left) * self._bank.disease.process.horizon

    def _record(self, which: Tensor) -> Record:
        """What `which` (N,) of the episodes have shown until now."""
        count = len(self._bank.disease.treatments)
        seen, played = torch.stack(self._seen, 2)[which], torch.stack(self._played, 2)[which]
        names = tuple(map(str, which.nonzero()[:, 0].tolist()))
        treatments = (played[..., :count] + 1.0) / 2.0
        return Record(names, self._times()[which], seen[..., : -len(CLOCKS)], treatments)

    def _network(self, count: int) -> StackedActor | HistoryPolicy:
        """The networks of `count` episodes, with the memory of them that they have."""
        stack = self._people.policy_for(self._actor, self._identities, tuple(map(str, range(count))))
        if self._history == 1:
            return stack
        policy = HistoryPolicy(stack, self._history)
        for seen, played in zip(self._seen, self._played):
            policy.act(seen)
            policy.took(played)
        return policy
