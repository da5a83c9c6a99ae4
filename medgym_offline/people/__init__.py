"""People whom nobody trained on: records that identify them, and the scopes `clu` and `context` that use them."""

from __future__ import annotations

import dataclasses
from typing import Any

from medgym_offline.diseases.base import FULL
from medgym_offline.errors import unknown_name
from medgym_offline.patients import NEW_PEOPLE, RecordSettings
from medgym_offline.people.clusters import Clusters, assign, find_clusters
from medgym_offline.people.context import ContextConfig, Contexts, learn_encoder
from medgym_offline.people.records import IdentifyingPolicy, record, true_world
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Clusters", "ContextConfig", "Contexts", "IdentifyingPolicy", "people_of"]


def people_of(
    scope: str,
    bank: SimulatorBank,
    sessions: int = 1,
    hours: float | None = None,
    seed: int = 0,
    config: ContextConfig | None = None,
    view: str = FULL,
) -> Clusters | Contexts:
    """Who shares a policy: everybody of a bank, clusters or encoder being those of its train people alone.

    Args:
        scope: "clu" or "context".
        bank: With a split.
        sessions: Length of the record that tells who a person is: days, operations, stays.
        hours: Of each session only the first so many (in the disease's unit), as a takeover leaves them; None: all of
            it, with more looks than decisions.
        seed: Root of the streams.
        config: How the embedding of "context" is learned; its seed is `seed`.
        view: What the record shows.

    Raises:
        UnknownNameError: No such scope, or view.
        BankError: The bank has no split.
        MedGymError: A record that is too short.
    """
    if scope not in NEW_PEOPLE:
        raise unknown_name("scope that shares policies", scope, NEW_PEOPLE)
    train = bank.select(list(bank.people("train")))
    asked: Any = RecordSettings(sessions=sessions, hours=hours, seed=seed, view=view)
    written = record(true_world(bank), sessions, seed, hours=hours, view=view)
    if scope == "clu":
        joined = assign(find_clusters(train, seed), bank, written.select(bank.people("test")))
        return dataclasses.replace(joined, asked=asked)
    encoder = learn_encoder(train, dataclasses.replace(config or ContextConfig(), seed=seed), hours, view)
    return Contexts(bank.patients, encoder.embed(written), {} if config else asked, encoder)
