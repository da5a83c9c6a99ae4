"""Records that identify a person: what was written down before anything is scored.

A record has sessions: earlier days, earlier operations, or the first hours of a stay. In each the disease's clinician
treats the person, imperfectly, and looks more often than a policy may. What is recorded is what was seen, with the
errors of the instruments, what was given and when, and the events that were noticed; never the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.base import CLOCKS
from medgym_offline.diseases.views import FULL
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import decisions_before
from medgym_offline.errors import MedGymError
from medgym_offline.patients import PatientIndex
from medgym_offline.policies.builtin import builtin_policy
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["HUMAN_ERROR", "Record", "blinded", "record", "true_world"]

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
