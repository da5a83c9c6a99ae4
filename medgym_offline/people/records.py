"""Records that identify a person: what was written down before anything is scored.

A record has sessions: earlier days, earlier operations, or the first hours of a stay. In each the disease's clinician
treats the person, imperfectly, and looks more often than a policy may. What is recorded is what was seen, with the
errors of the instruments, what was given and when, and the events that were noticed; never the state.

:class:`IdentifyingPolicy` finds out, in every episode, whom it treats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import CLOCKS, FULL
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import decisions_before
from medgym_offline.errors import MedGymError, PolicyError
from medgym_offline.patients import PatientIndex
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.builtin import builtin_policy
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.protocol import torch_or_numpy
from medgym_offline.sequences import REMAINING
from medgym_offline.simulators.bank import SimulatorBank

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts

__all__ = ["HUMAN_ERROR", "IdentifyingPolicy", "Record", "blinded", "record", "true_world"]

HUMAN_ERROR = 0.2
"""SD of what is given about what the clinician would, on actions in [-1, 1] (chosen: that of the datasets that are
strongly perturbed; a bolus is then off by about a third, as where people count carbohydrate)."""
_LOOKS = 4
"""Looks for each decision that a policy has (chosen: readings are more frequent than decisions)."""


@dataclass(frozen=True)
class Record:
    """S sessions of P people, L intervals each.

    Attributes:
        patients: Ids.
        times: (P, S, L + 1) of the looks, since the session's start, in the disease's unit.
        observed: (P, S, L + 1, d) what was seen then: the columns of the observation that describe the patient, of
            which the first V are readings of the observed components, normalized.
        treatments: (P, S, L, T) given from each look to the next, in [0, 1]; a bolus at its start.
        exogenous: (P, S, F) events as they happened, without the errors of instruments; None where there are none.
    """

    patients: tuple[str, ...]
    times: Tensor
    observed: Tensor
    treatments: Tensor
    exogenous: Tensor | None = None

    @property
    def dt(self) -> Tensor:
        """(P, S, L) length of each interval."""
        return self.times.diff(dim=-1)

    def select(self, patients: Sequence[str]) -> Record:
        """The records of these people, in that order."""
        index = PatientIndex(self.patients, "this record").resolve(patients)
        times, observed, treatments = (part[index] for part in (self.times, self.observed, self.treatments))
        exogenous = None if self.exogenous is None else self.exogenous[index]
        return Record(tuple(patients), times, observed, treatments, exogenous)


def true_world(bank: SimulatorBank) -> SimulatorBank:
    """The bank in the world that its people live in: the true one, where there is one, else `own`."""
    return bank.world("true" if "true" in bank.worlds else "own")


def blinded(bank: SimulatorBank, events: Tensor | None) -> Tensor | None:
    """Events (..., F) of episodes as somebody noticed them: 0 for what nobody sees."""
    if events is None or bank.disease.exogenous is None:
        return None
    seen = [name not in bank.disease.exogenous.unseen for name in bank.disease.exogenous.names]
    return events * torch.tensor(seen).to(events)


@own_defaults()
def record(
    bank: SimulatorBank,
    sessions: int = 1,
    seed: int = 0,
    behavior: str = "clinician",
    hours: float | None = None,
    view: str = FULL,
) -> Record:
    """Sessions of every person of `bank`, in the world it is in.

    A session depends on the seed, the person and its number alone; more sessions begin with the same ones.

    Args:
        bank: P people.
        sessions: S, each as long as an episode.
        seed: Root of the streams.
        behavior: Who treats: a built-in policy without learning.
        hours: The first so many of each session (in the disease's unit), as an episode has them in which a policy takes
            over then: with its decisions and no other looks, and exactly what the clinician would give.
        view: What is seen of the state.

    Raises:
        MedGymError: Fewer than one session, no hours, or hours at which nobody can take over.
    """
    if sessions < 1 or (hours is not None and not hours > 0):
        raise MedGymError(f"a record of {sessions} sessions, hours {hours}; give at least 1, and hours above 0")
    disease, looks = bank.disease, _LOOKS if hours is None else 1
    decisions = looks * disease.process.decisions
    config = ProcessConfig(timing="fixed", decisions=decisions, reward="paper", disease=disease.name, view=view)
    kept = decisions if hours is None else decisions_before(hours, config)
    seeds = episode_seeds(seed, f"record {behavior}", bank.patients, sessions)
    policy = builtin_policy(behavior, bank, "fixed", decisions, view=view)
    if hasattr(policy, "reset"):
        policy.reset(seeds)
    process, error = DecisionProcess(bank, config, hours or 0.0), HUMAN_ERROR if hours is None else 0.0
    played = rollout(process, policy.act, draw_noise(seeds, bank, config), error)
    times = torch.cat([torch.zeros_like(played.time[..., :1]), played.time[..., :kept]], -1)
    seen = played.observations[:, :, : kept + 1, : -len(CLOCKS)]
    return Record(bank.patients, times, seen, played.treatments[:, :, :kept], blinded(bank, played.exogenous))


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
