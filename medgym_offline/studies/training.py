"""Trains the rows of a study, or finds them finished.

One :class:`~medgym_offline.online.runs.BehaviorRun` per (algorithm, K, seed) trains all its scopes and timings. Each
has a folder named by the hash of everything that decides its results, so a killed study goes on and a changed recipe
starts anew beside what it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.errors import PolicyError
from medgym_offline.online.behavior import load_behavior
from medgym_offline.online.runs import BehaviorRun, EngineOptions
from medgym_offline.policies.files import load_policy, save_policy
from medgym_offline.studies.entries import Candidate, Entry, training_facts
from medgym_offline.studies.recipe import StudyRecipe

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["shipped_behavior", "train_entries"]


def train_entries(
    bank: SimulatorBank,
    recipe: StudyRecipe,
    entries: Sequence[Entry],
    folder: Path,
    options: EngineOptions,
    progress: bool = True,
) -> list[Candidate]:
    """A candidate per entry, in order.

    Args:
        bank: The whole bank.
        recipe: Settings.
        entries: Trained rows of :func:`medgym_offline.studies.entries.wanted_entries`.
        folder: Keeps finished policies and checkpoints.
        options: Engine and workers.
        progress: Show progress on standard error.

    Raises:
        PolicyError: If the bank ships no behaviours and the recipe wants them.
    """
    found: dict[str, list[StackedActor]] = {entry.key: [] for entry in entries}
    shipped = [e for e in entries if e.group == "release" and recipe.behaviors == "shipped"]
    for entry in shipped:
        found[entry.key].append(shipped_behavior(bank, entry.scope, entry.timing))
    groups: dict[tuple[str, int, bool], list[Entry]] = {}
    for entry in entries:
        if entry not in shipped:
            groups.setdefault((entry.algorithm, entry.decisions, entry.group == "release"), []).append(entry)
    for (algorithm, decisions, _), members in groups.items():
        for number in range(1 if members[0].group == "release" else recipe.seeds):
            made = _train(bank, recipe, members, algorithm, decisions, number, folder, options, progress)
            for entry, actor in zip(members, made):
                found[entry.key].append(actor)
    candidates = []
    for entry in entries:
        first = found[entry.key][0]
        simulators = len(bank) if entry in shipped else len(entry.patients)
        facts = training_facts(first.provenance, entry.algorithm, entry.scope, simulators)
        candidates.append(Candidate(entry, found[entry.key], facts))
    return candidates


def shipped_behavior(bank: SimulatorBank, scope: str, timing: str) -> StackedActor:
    """The behaviour policy that ships with a bank.

    Raises:
        PolicyError: If there is none, or it was trained on a bank of other content.
    """
    actor = load_behavior(bank.name, scope, timing)
    made_on = actor.provenance.get("bank_hash")
    if made_on != bank.content_hash:
        raise PolicyError(
            f"the behaviour shipped as {bank.name}-{scope}-{timing} was trained on bank {str(made_on)[:12]}, not on "
            f"this one ({bank.content_hash[:12]}); train it again with: medgym-offline behavior train-all, or set "
            'behaviors = "trained" in the recipe of an online study'
        )
    return actor


def _train(
    bank: SimulatorBank,
    recipe: StudyRecipe,
    members: Sequence[Entry],
    algorithm: str,
    decisions: int,
    number: int,
    folder: Path,
    options: EngineOptions,
    progress: bool,
) -> list[StackedActor]:
    settings = recipe.training(algorithm, decisions, number)
    patients = members[0].patients
    decides = {"recipe": settings.to_dict(), "bank": bank.content_hash, "patients": patients, "device": options.device}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    home = folder / f"{algorithm}-k{decisions}-seed{settings.seed}-{digest}"
    paths = [home / "policies" / f"{entry.scope}-{entry.timing}.safetensors" for entry in members]
    missing = [(e.scope, e.timing) for e, path in zip(members, paths) if not path.exists()]
    if missing:
        run = BehaviorRun(bank.select(patients), settings, home / "parts", options, progress=progress)
        run.train(missing)
        for entry, path in zip(members, paths):
            if (entry.scope, entry.timing) in missing:
                save_policy(run.results[entry.scope, entry.timing].actor, path)
    actors = [load_policy(path) for path in paths]
    return actors  # type: ignore[return-value]
