"""A policy that takes over while an episode runs: the clinician treats until then, and what follows is scored."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from medgym_offline.config import check
from medgym_offline.envs.timing import decisions_before
from medgym_offline.errors import MedGymError, ProtocolError
from medgym_offline.evaluation.binding import BoundPolicy, resolve_policy
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.worlds import process_config
from medgym_offline.patients import NEW_PEOPLE, RecordSettings
from medgym_offline.people import IdentifyingPolicy, people_of
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Takeover", "asked_of", "identifying", "taking_over"]


@dataclass(frozen=True)
class Takeover:
    """One policy for the first decisions of every episode, then another.

    The later one is asked at every decision and told what was played instead (`took`): what it remembers at the
    takeover is the episode so far.

    Attributes:
        before, policy: Who treats until the takeover, and from then on.
        decisions: How many are those of `before`.
    """

    before: BoundPolicy
    policy: BoundPolicy
    decisions: int

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        """As :meth:`BoundPolicy.act_on`, for one run of episodes."""
        first, then = self.before.act_on(patients, seeds), self.policy.act_on(patients, seeds)
        number = itertools.count()

        def act(observations: Tensor) -> Tensor:
            own = then(observations)
            return first(observations) if next(number) < self.decisions else own

        act.took = getattr(then, "took", None)  # type: ignore[attr-defined]
        return act


def asked_of(policy: BoundPolicy) -> RecordSettings | None:
    """What `people_of` was asked for a policy of scope `clu` or `context`, if its file says so."""
    if policy.info["scope"] in NEW_PEOPLE:
        with contextlib.suppress(MedGymError):
            asked: RecordSettings = check(RecordSettings, policy.info["provenance"].get("record"), policy.name)
            return asked
    return None


def identifying(policy: BoundPolicy, bank: SimulatorBank, hours: float) -> BoundPolicy:
    """A policy whose file says that it knows people by the first `hours`: it finds out anew in every episode.

    Any other policy is returned as it is.

    Raises:
        ProtocolError: It knows them by other hours.
    """
    asked, unit = asked_of(policy), bank.disease.process.unit
    if asked is None or asked["hours"] is None or isinstance(policy.policy, IdentifyingPolicy):
        return policy
    if asked["hours"] != hours:
        known = f"knows people by their first {asked['hours']:g} {unit}"
        raise ProtocolError(f"policy {policy.name!r} {known}; takeover is {hours:g} {unit}, give {asked['hours']:g}")
    people = people_of(policy.info["scope"], bank, **asked)
    return replace(policy, policy=IdentifyingPolicy(policy.policy, people, bank, hours))


def taking_over(policy: BoundPolicy, bank: SimulatorBank, hours: float, protocol: Protocol) -> Takeover:
    """The policy after `hours` (in the disease's unit) of the disease's clinician, who sees what the policy sees.

    Raises:
        ProtocolError: The time is not on the grid on which metrics are read, not within the episode, or leaves the
            policy too few decisions.
        PolicyError: The bank has no clinician.
    """
    decisions = decisions_before(hours, process_config(protocol))
    steps = hours / protocol.grid
    if steps < 0.5 or abs(steps - round(steps)) > 1e-6:
        told = f"takeover is {hours:g} {bank.disease.process.unit}"
        raise ProtocolError(f"{told}; give a multiple of {protocol.grid:g}, the grid of metrics, above 0")
    clinician = resolve_policy("clinician", bank, policy.timing, policy.decisions, policy.decisions, policy.view)
    return Takeover(clinician, policy, decisions)
