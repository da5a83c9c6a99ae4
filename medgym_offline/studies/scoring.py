"""Scores every policy of a study in every world of the bank, a shard per policy, kept as they finish."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.engine import run
from medgym_offline.evaluation.evaluator import evaluate
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.online.runs import EngineOptions, fingerprint
from medgym_offline.policies.actor import StackedActor
from medgym_offline.studies.entries import Candidate, Entry

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Scored", "score_candidates", "units_folder"]


@dataclass(frozen=True)
class Scored:
    """An entry with its evaluations, one per training seed."""

    entry: Entry
    evaluations: tuple[Evaluation, ...]
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worlds(self) -> tuple[str, ...]:
        """Worlds it was scored in."""
        return tuple(self.evaluations[0].worlds)

    def values(self, world: str, metric: str, patients: Sequence[str] | None = None) -> np.ndarray:
        """(S, P) scores of `patients` (its own by default), in that order."""
        rows = []
        for evaluation in self.evaluations:
            table = evaluation.worlds[world].per_patient
            by_id = dict(zip((str(p) for p in table["patient"]), table[metric]))
            rows.append([by_id[p] for p in patients or self.entry.patients])
        return np.array(rows, dtype=float)


def units_folder(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where units of work that share a key are kept below `folder`; another key never reads them."""
    return folder / hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()[:12]


def _digest(policy: Any, patients: Sequence[str]) -> str:
    """What a policy does to whom, as hexadecimal digits."""
    digest = hashlib.sha256("\n".join(patients).encode())
    if isinstance(policy, StackedActor):
        digest.update(fingerprint(policy).encode())
    for name in ("treatment", "schedule"):
        if hasattr(policy, name):
            digest.update(getattr(policy, name).numpy().tobytes())
    return digest.hexdigest()[:12]


def _score(
    bank: SimulatorBank, policy: Any, entry: Entry, protocol: Protocol, episodes: int, worlds: Sequence[str]
) -> str:
    """One policy's evaluation as JSON; runs in a worker."""
    result = evaluate(
        policy,
        timing=entry.timing,
        decisions=entry.decisions,
        episodes=episodes,
        bank=bank,
        worlds=worlds,
        protocol=protocol,
        name=entry.label,
    )
    return result.to_json()


def score_candidates(
    bank: SimulatorBank,
    candidates: Sequence[Candidate],
    protocol: Protocol,
    episodes: int,
    folder: Path,
    options: EngineOptions,
    progress: bool = True,
) -> dict[str, Scored]:
    """Entry key -> scores, in order.

    Args:
        bank: The whole bank, with the backend that scores.
        candidates: Policies.
        protocol: Of the evaluation.
        episodes: Per patient and world.
        folder: Keeps results as they finish.
        options: Engine and workers.
        progress: Show progress on standard error.
    """
    worlds = tuple(w for w in protocol.worlds if w in bank.worlds)
    shards: dict[str, tuple[Any, ...]] = {}
    names: dict[str, list[str]] = {}
    for candidate in candidates:
        entry = candidate.entry
        selected = bank.select(entry.patients)
        for policy in candidate.policies:
            name = f"{entry.key}-{_digest(policy, entry.patients)}"
            names.setdefault(entry.key, []).append(name)
            shards[name] = (selected, policy, entry, protocol, episodes, worlds)
    key = {
        "bank": bank.content_hash,
        "backend": bank.backend,
        "protocol": protocol.hash,
        "episodes": episodes,
        "worlds": list(worlds),
    }
    found = run(
        _score,
        shards,
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        folder=units_folder(folder, key),
        key=key,
        title=f"score {len(shards)} policies",
        progress=progress,
    )
    return {
        c.entry.key: Scored(c.entry, tuple(Evaluation.from_json(found[n]) for n in names[c.entry.key]), c.training)
        for c in candidates
    }
