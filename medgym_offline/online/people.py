"""Whom a run of behavior training learns from, and who shares its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.online.actors import tensor_hash
from medgym_offline.online.recipe import PEOPLE
from medgym_offline.patients import people_hash

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["LearnedFrom"]


@dataclass(frozen=True)
class LearnedFrom:
    """The people of a run.

    Attributes:
        bank: Simulators of those who are learned from, and of nobody else.
        split: The side of the bank's people that they are; None: no side was chosen.
        sharing: Scope -> who shares a policy in it, for the scopes of new people.
    """

    bank: SimulatorBank
    split: str | None
    sharing: Mapping[str, Clusters | Contexts]

    def require(self, scope: str) -> None:
        """Refuse, before anything is trained, a scope that would look at others, or lacks what tells people apart.

        Raises:
            MedGymError: `pop` with a split; a scope of new people without train people, or with those of other people.
        """
        if scope == "pop" and self.split is not None:
            raise MedGymError(
                "scope 'pop' learns on the population simulator, which was fitted to the people of both sides of the "
                "split; take 'dr', one policy on the simulators of one side, or give no split"
            )
        if scope in PEOPLE:
            if self.split != "train":
                raise MedGymError(f"scope {scope!r} is for new people: it learns from train people; give split 'train'")
            if scope not in self.sharing:
                raise MedGymError(f"scope {scope!r} needs people_of({scope!r}, bank, ...) of medgym_offline.people")
            self.sharing[scope].groups(self.bank.patients)

    def groups(self, scope: str) -> dict[str, tuple[SimulatorBank, Tensor | None]]:
        """Simulators that one policy learns on, and what it is told of each person, by the end of the job's name.

        The name holds who they are: a run's folder can then hold jobs of several clusterings, or records.
        """
        if scope == "pop":
            return {"": (self.bank.population(), None)}
        if scope not in PEOPLE:
            return {"": (self.bank, None)}
        return {
            f"-{(people_hash(ids) if told is None else tensor_hash(told))[:12]}": (self.bank.select(ids), told)
            for ids, told in self.sharing[scope].groups(self.bank.patients)
        }

    def finish(self, scope: str, policy: StackedActor) -> StackedActor:
        """The policies of :meth:`groups` as those of each person."""
        return self.sharing[scope].finish(policy) if scope in PEOPLE else policy

    def facts(self, scope: str) -> dict[str, Any]:
        """What a policy's file says of them."""
        sides = {"people": {"split": self.split, "sha256": people_hash(self.bank.patients)}} if self.split else {}
        return {**sides, **(self.sharing[scope].facts() if scope in PEOPLE else {})}
