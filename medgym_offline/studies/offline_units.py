"""Units of an offline study: one training at one seed, and its scores in every world.

A unit is kept as it finishes, so that a killed study goes on where it was, and is found again by name and key.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.datasets.catalogue import dataset_folder, read_manifest
from medgym_offline.datasets.identity import made_differently
from medgym_offline.datasets.manifest import expected_making
from medgym_offline.datasets.recipes import Recipe, known_recipe
from medgym_offline.engine import run
from medgym_offline.errors import DatasetError
from medgym_offline.evaluation.evaluator import evaluate
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.online.runs import EngineOptions, fingerprint
from medgym_offline.studies.entries import Entry
from medgym_offline.studies.recipe import spread
from medgym_offline.studies.scoring import Scored, units_folder
from medgym_offline.studies.training import shipped_behavior

if TYPE_CHECKING:
    from medgym_offline.datasets import Transitions
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["OfflineRow", "Source", "load_source", "require_current", "run_rows"]


@dataclass(frozen=True)
class Source:
    """A dataset, the bank whose worlds score what is learned from it, and the patients of the study in both.

    Attributes:
        transitions: The dataset.
        bank: The whole bank.
        patients: Ids of the study's patients.
        behavior: Scope of the behaviour that made the data.
        behaviors: Scope -> behaviour policy with the dataset's timing, where the study scores them too.
    """

    transitions: Transitions
    bank: SimulatorBank
    patients: tuple[str, ...]
    behavior: str = "ind"
    behaviors: Mapping[str, StackedActor] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the results of its units, as JSON."""
        return {
            "dataset": self.transitions.dataset_id,
            "identity": self.transitions.identity,
            "bank": self.bank.name,
            "bank_hash": self.bank.content_hash,
            "patients": list(self.patients),
        }


@dataclass(frozen=True)
class OfflineRow:
    """One row of a study: an algorithm with its settings on a dataset, trained at several seeds.

    Attributes:
        entry: What tables call it.
        algorithm: Name in `medgym_offline.offline.ALGORITHMS`.
        config: Settings.
        source: Data and bank.
        seeds: Of the trainings.
        policy: Scored as it is, with nothing to train, if it is given; then there is one seed.
    """

    entry: Entry
    algorithm: str
    config: OfflineConfig
    source: Source
    seeds: tuple[int, ...]
    policy: StackedActor | None = None


def load_source(dataset: str, patients: int, progress: bool = True, behaviors: Sequence[str] = ()) -> Source:
    """A dataset of the release (generated if it is not on this machine) with its bank.

    Args:
        dataset: Id.
        patients: How many of its patients, evenly spread; 0: all.
        progress: Show progress.
        behaviors: Scopes of shipped behaviour policies to load with it.

    Raises:
        DatasetError: If the dataset on this machine is not of this release's bank and behaviour.
        MedGymError: As `load_dataset`, `load_simulators` and `shipped_behavior`, or if the dataset has fewer patients.
    """
    from medgym_offline.datasets import load_dataset
    from medgym_offline.simulators import load_simulators

    transitions = load_dataset(dataset, progress=progress)
    recipe = known_recipe(dataset)
    if recipe is None:
        raise DatasetError(f"{dataset}: no recipe of the release says which bank it was made on")
    present = transitions.present_ids
    if patients > len(present):
        raise DatasetError(f"{dataset} has {len(present)} patients, the recipe asks for {patients}")
    bank = load_simulators(recipe.bank)
    require_current(dataset, recipe, bank)
    found = {scope: shipped_behavior(bank, scope, transitions.timing) for scope in behaviors}
    return Source(transitions, bank, spread(present, patients), recipe.behavior, found)


def require_current(dataset: str, recipe: Recipe, bank: SimulatorBank) -> None:
    """Refuse a dataset on this machine that was made on another bank, or by another behaviour, than those here.

    Raises:
        DatasetError: With the command that makes it again.
    """
    manifest = read_manifest(dataset_folder(dataset) / "data" / "manifest.json")
    # A part of a dataset, of fewer patients or episodes, is made like the whole.
    wanted = expected_making(replace(recipe, episodes=manifest["recipe"]["episodes"]), bank)
    if different := made_differently(manifest, wanted | {"patients": manifest["patients"]}):
        raise DatasetError(
            f"{dataset} on this machine is not made as this release makes it: {'; '.join(different)}; make it again "
            f"with: medgym-offline generate {dataset}"
        )


def _unit(row: OfflineRow, seed: int, protocol: Protocol, episodes: int, device: str) -> dict[str, Any]:
    """Train and score; runs in a worker."""
    source, entry = row.source, row.entry
    started = time.monotonic()
    policy = row.policy
    facts: dict[str, Any] = {"log": {}, "stopped": {}}
    if policy is None:
        found = train(
            row.algorithm,
            source.transitions,
            entry.scope,
            seed,
            row.config,
            patients=source.patients,
            progress=False,
            device=device,
        )
        policy, facts = found.policy, {"log": found.log[-1], "stopped": found.stopped}
    trained = time.monotonic()
    result = evaluate(
        policy,
        episodes=episodes,
        bank=source.bank.select(source.patients),
        dataset=source.transitions,
        protocol=protocol,
        name=entry.label,
    )
    return {
        "evaluation": result.to_json(),
        **facts,
        "seconds": [round(trained - started, 1), round(time.monotonic() - trained, 1)],
    }


def _digest(row: OfflineRow, device: str) -> str:
    """What decides the result of a row's units, as hexadecimal digits."""
    decides = {
        "source": row.source.facts,
        "algorithm": row.algorithm,
        "scope": row.entry.scope,
        "config": row.config.to_dict(),
        "device": device,
    }
    if row.policy is not None:
        decides["policy"] = fingerprint(row.policy)
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def run_rows(
    rows: Sequence[OfflineRow],
    protocol: Protocol,
    episodes: int,
    folder: Path,
    options: EngineOptions,
    progress: bool = True,
    fresh: bool = False,
) -> dict[str, Scored]:
    """Entry key -> scores, in order; `training` holds the cost of one training and the learners that were stopped.

    Args:
        rows: What to train.
        protocol: Of the evaluation.
        episodes: Per patient and world.
        folder: Keeps units as they finish.
        options: Engine and workers.
        progress: Show progress on standard error.
        fresh: Forget what `folder` holds.
    """
    names = {row.entry.key: [f"{row.entry.key}-{s}-{_digest(row, options.device)}" for s in row.seeds] for row in rows}
    shards: dict[str, tuple[Any, ...]] = {}
    # Seed by seed, so that what a killed study has is as even as can be.
    for place in range(max(len(row.seeds) for row in rows)):
        for row in rows:
            if place < len(row.seeds):
                shards[names[row.entry.key][place]] = (row, row.seeds[place], protocol, episodes, options.device)
    key = {"protocol": protocol.hash, "episodes": episodes}
    found = run(
        _unit,
        shards,
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        folder=units_folder(folder, key),
        key=key,
        fresh=fresh,
        title=f"train and score {len(shards)} units",
        progress=progress,
    )
    return {row.entry.key: _scored(row, [found[name] for name in names[row.entry.key]]) for row in rows}


def _scored(row: OfflineRow, units: Sequence[Mapping[str, Any]]) -> Scored:
    facts = {
        "updates": row.config.updates,
        "config": row.config.to_dict(),
        "seeds": list(row.seeds),
        "stopped": {str(seed): unit["stopped"] for seed, unit in zip(row.seeds, units) if unit["stopped"]},
        "seconds": [unit["seconds"] for unit in units],
    }
    return Scored(row.entry, tuple(Evaluation.from_json(unit["evaluation"]) for unit in units), facts)
