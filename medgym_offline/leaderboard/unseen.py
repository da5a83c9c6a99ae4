"""Entries on new people: whether a policy that was scored on the test people of a split has never seen them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.patients import people_hash

if TYPE_CHECKING:
    from medgym_offline.leaderboard.entry import Entry
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["doubts", "require_new_people", "side_of"]


def side_of(deviations: Mapping[str, Any]) -> Any:
    """The side of a split that was evaluated, as the deviations of an evaluation or an entry say; None: everybody."""
    split = deviations.get("split")
    return split.get("used") if isinstance(split, dict) else split


def _learned_from(policy: Any) -> dict[str, Any]:
    """What a policy says of whom it learned from; empty if nothing."""
    people = getattr(policy, "training", {}).get("people")
    return people if isinstance(people, dict) else {}


def doubts(entry: Entry) -> Iterator[str]:
    """One line for each reason why an entry on test people may not be on new ones."""
    if entry.split not in (None, "train", "test"):
        yield f"split is {entry.split!r}, not 'train' or 'test'"
    if entry.split != "test" or entry.scope == "baseline":
        return
    if entry.scope == "ind":
        yield "a policy of each test person's own has seen that person: it is an oracle, no entry on new people"
    for policy in entry.policies:
        if _learned_from(policy).get("split") != "train":
            name = getattr(policy, "file", policy.identity)
            yield f"{name} does not say that it learned from train people alone; train it with --split train"


def require_new_people(entry: Entry, bank: SimulatorBank) -> None:
    """The policies of an entry on new people learned from all train people of the bank; `SubmissionError` if not."""
    if entry.split != "test" or entry.scope == "baseline":
        return
    people = bank.people("train")
    for policy in entry.policies:
        if _learned_from(policy).get("sha256") != people_hash(people):
            raise SubmissionError(
                f"{policy.identity[:12]} learned from other people than the {len(people)} of the train split of bank "
                f"{bank.name!r}; train it with --split train on a dataset of this bank"
            )
