"""People whom nobody trained on: records that identify them, and the scopes `clu` and `context` that use them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import unknown_name

if TYPE_CHECKING:
    from medgym_offline.people.clusters import Clusters
    from medgym_offline.people.context import ContextConfig, Contexts
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Clusters", "ContextConfig", "Contexts", "people_of"]


def people_of(
    scope: str,
    bank: SimulatorBank,
    sessions: int = 1,
    hours: float | None = None,
    seed: int = 0,
    config: ContextConfig | None = None,
) -> Clusters | Contexts:
    """Who shares a policy: everybody of a bank, clusters or encoder being those of its train people alone.

    Args:
        scope: "clu" or "context".
        bank: With a split.
        sessions: Length of the record that tells who a person is: days, operations, stays.
        hours: Of each session only the first so many (in the disease's unit); None: all.
        seed: Root of the streams.
        config: How the embedding of "context" is learned; its seed is `seed`.

    Raises:
        UnknownNameError: No such scope.
        BankError: The bank has no split.
        MedGymError: A record that is too short.
    """
    if scope not in ("clu", "context"):
        raise unknown_name("scope that shares policies", scope, ("clu", "context"))
    from medgym_offline.people import clusters, context
    from medgym_offline.people.records import record, true_world

    train = bank.select(list(bank.people("train")))
    written = record(true_world(bank), sessions, seed)
    written = written if hours is None else written.until(hours)
    if scope == "clu":
        found = clusters.find_clusters(train, seed)
        return clusters.assign(found, bank, written.select(bank.people("test")))
    config = dataclasses.replace(config or context.ContextConfig(), seed=seed)
    encoder = context.learn_encoder(train, config, hours)
    return context.Contexts(bank.patients, encoder.embed(written))


def __getattr__(name: str) -> Any:
    # torch is imported with the first name asked for, not with the package.
    import importlib

    homes = {"Clusters": "clusters", "ContextConfig": "context", "Contexts": "context"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
