"""The rollouts of a dataset, and its reference returns: what 0 and 100 of a normalized score mean.

Rollouts are cut into shards of patients and episodes that are kept as they finish. Workers, interruptions and the cut
leave no trace: rows are computed in float64 and stored in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import SCOPES, Behavior, action_log_prob, play, process_config, resolve_behavior
from medgym_offline.datasets.hdf5 import EpisodeBlock
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.transitions import COLUMNS
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import PolicyError
from medgym_offline.files import cache_folder, held_folder
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.envs.rollout import Rollout
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "REFERENCE_EPISODES", "SHARD", "SHARD_EPISODES", "play_shard", "played_episodes", "reference_returns",
    "rollout_block", "work_folder",
]  # fmt: skip

SHARD = 10
"""Patients rolled out together: the fastest on a CPU."""


SHARD_EPISODES = 100
"""Episodes of each rolled out together."""


def rollout_block(
    bank: SimulatorBank, rolled: Rollout, log_prob: Tensor, seeds: np.ndarray, patients: Sequence[int]
) -> EpisodeBlock:
    """Episodes of a rollout in Minari's layout, patient by patient.

    Args:
        bank: The P patients of the rollout.
        rolled: P x B episodes, with costs along the path.
        log_prob: Of its actions (P, B, K), from :func:`~medgym_offline.datasets.behaviors.action_log_prob`.
        seeds: (P, B).
        patients: Their indices in the whole bank.
    """
    import torch

    count, batch, _ = rolled.rewards.shape
    valid, disease = rolled.valid, bank.disease
    physical = bank.denormalize(rolled.states[:, :, 0])
    # As the environment's reset reports them: severity without treatment.
    untreated = bank.denormalize_treatment(torch.zeros(count, batch, len(disease.treatments)))
    reset = {"severity": disease.severity.score(physical, untreated), "monitored": physical[..., disease.monitored]}
    rows = {name: getattr(rolled, name) for name in COLUMNS if hasattr(rolled, name)}
    rows |= {"observations": rolled.observations[:, :, :-1], "next_observations": rolled.observations[:, :, 1:]}
    rows |= {"terminations": rolled.terminated, "truncations": torch.zeros_like(valid), "behavior_log_prob": log_prob}
    lengths = valid.sum(-1).flatten().cpu().numpy()
    columns = {name: values[valid].cpu().numpy().astype(COLUMNS[name]) for name, values in rows.items()}
    columns["patient"] = np.repeat(np.repeat(np.asarray(patients, np.int32), batch), lengths)
    columns["episode"] = np.repeat(np.arange(count * batch, dtype=np.int32), lengths)
    first = {name: values.flatten().float().cpu().numpy() for name, values in reset.items()}
    return EpisodeBlock(columns, first, seeds.reshape(-1))


def play_shard(
    bank: SimulatorBank, behavior: Behavior, recipe: Recipe, seeds: np.ndarray, patients: list[int]
) -> EpisodeBlock:
    """Episodes (P, B) of a recipe's behavior.

    Args:
        bank: P patients, in the recipe's world.
        behavior: Of these patients; of a mix, turned so that its first part plays the first column.
        recipe: Gives process and perturbation.
        seeds: (P, B).
        patients: Their indices in the whole bank.
    """
    rolled = play(bank, behavior, process_config(recipe, bank.disease.name), seeds, recipe.perturbation)
    return rollout_block(bank, rolled, action_log_prob(rolled, behavior, recipe.perturbation), seeds, patients)


def _shard(*arguments: Any) -> dict[str, Any]:
    """What a worker returns: the fields of the block of :func:`play_shard`."""
    return vars(play_shard(*arguments))


def _joined(blocks: list[EpisodeBlock]) -> EpisodeBlock:
    """Shards put together patient by patient, and numbered."""
    rows = {name: np.concatenate([block.columns[name] for block in blocks]) for name in COLUMNS}
    patients = np.concatenate([block.columns["patient"][block.starts] for block in blocks])
    lengths = np.concatenate([block.lengths for block in blocks])
    # Stable: the episodes of a patient stay in the order of the shards.
    episodes, order = (np.argsort(who, kind="stable") for who in (patients, rows["patient"]))
    rows = {name: values[order] for name, values in rows.items()}
    rows["episode"] = np.repeat(np.arange(len(episodes), dtype=np.int32), lengths[episodes])
    reset = {n: np.concatenate([block.reset[n] for block in blocks])[episodes] for n in blocks[0].reset}
    return EpisodeBlock(rows, reset, np.concatenate([block.seeds for block in blocks])[episodes])


def work_folder(target: Path) -> contextlib.AbstractContextManager[Path]:
    """Where the shards of the dataset at `target` are kept until it is complete: a :func:`.held_folder`."""
    digest = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:8]
    folder = cache_folder("generate", f"{target.name}-{digest}", write=True)
    return held_folder(folder, target, "generating")


def played_episodes(
    recipe: Recipe,
    bank: SimulatorBank,
    chosen: list[int],
    behavior: Behavior,
    stream: str,
    identity: str,
    folder: Path,
    workers: int = 1,
    progress: bool = True,
) -> EpisodeBlock:
    """All episodes of a recipe in dataset order.

    Args:
        recipe: With the episodes per patient to play.
        bank: The whole bank, in the recipe's world.
        chosen: Indices of the patients, in order.
        behavior: Who plays.
        stream: Purpose of the episodes' seeds.
        identity: Of the dataset; shards of another are not used.
        folder: Keeps finished shards; those of a run that was interrupted are not played again.
        workers: Processes.
        progress: Show progress on standard error.
    """
    from medgym_offline.engine import run
    from medgym_offline.envs.rollout import episode_seeds

    shards: dict[str, tuple[Any, ...]] = {}
    for place in range(0, len(chosen), SHARD):
        group = chosen[place : place + SHARD]
        part = bank.select(group)
        seeds = episode_seeds(recipe.seed, stream, part.patients, recipe.episodes)
        who = behavior.select(part.patients)
        for first in range(0, recipe.episodes, SHARD_EPISODES):
            own = seeds[:, first : first + SHARD_EPISODES]
            shards[f"p{group[0]:04d}-e{first:05d}"] = part, who.starting_at(first), recipe, own, group
    played = run(
        _shard,
        shards,
        engine="process" if workers > 1 else "local",
        workers=workers,
        folder=folder / identity[:16],  # shards of another dataset lie beside it
        key={"identity": identity, "shard": [SHARD, SHARD_EPISODES]},
        title=f"{recipe.id} (shards of {SHARD} patients)",
        progress=progress,
    )
    return _joined([EpisodeBlock(**part) for part in played.values()])


REFERENCE_EPISODES = 10
"""Episodes per patient and policy."""


_SCORED: dict[str, float] = {}
"""What this process has scored: the datasets of a bank share most of their references."""


def _candidates(recipe: Recipe, bank: SimulatorBank, behavior: Behavior) -> dict[str, tuple[Behavior, Recipe]]:
    """The policies to score: random, zero, the behavior, and every behavior shipped for the bank."""
    how = recipe.timing, recipe.decisions, recipe.view
    found = {name: (resolve_behavior(name, bank, *how), recipe) for name in ("random", "zero")}
    found["behavior"] = behavior, recipe
    for timing in ("adaptive", "fixed"):
        other = dataclasses.replace(recipe, timing=timing, view=FULL)  # what they were trained on
        for scope in SCOPES:
            try:
                shipped = resolve_behavior(scope, bank, timing, recipe.decisions)
            except PolicyError:
                continue  # not shipped for this bank
            if recipe.view != FULL or shipped.digest != behavior.digest:
                found[f"{scope}-{timing}"] = shipped, other
    return found


def reference_returns(
    recipe: Recipe, bank: SimulatorBank, chosen: Sequence[int], behavior: Behavior, progress: bool
) -> dict[str, Any]:
    """Mean undiscounted returns in the disease's default world, with residual and initial noise, actions unperturbed.

    `expert` is the best in that world of the policies shipped for the bank (either timing: with the "integral"
    reward returns do not depend on how time is cut) and the dataset's own. All policies meet the same noise. Where
    the data come from another world (the twin's truth) its returns stand beside: the expert is still chosen in the
    default one; where that is "own", the true one is not known at a bedside.

    Args:
        recipe: Of the dataset.
        bank: The whole bank, in the recipe's world.
        chosen: Indices of the dataset's patients.
        behavior: The dataset's behavior policy.
        progress: Show progress on standard error.

    Returns:
        `returns` {random, zero, behavior, expert}, `expert` (the name of the best), `candidates` (all scores),
        `episodes` (per patient), `patients`, `reward`, `world` (the default one), and, for data of another world,
        `data_world` {world, returns}.
    """
    from medgym_offline.envs.rollout import episode_seeds

    candidates = _candidates(recipe, bank, behavior)
    # The name, not the path: the same bank in another folder has the same references.
    ids = [bank.patients[i] for i in chosen]
    seeds = episode_seeds(recipe.seed, f"reference:{bank.name}", ids, REFERENCE_EPISODES)
    home = bank.disease.world if bank.disease.world in bank.worlds else "own"
    other = recipe.world != home
    with Progress("reference returns", len(candidates) + 4 * other, enabled=progress) as bar:

        def score(name: str, world: SimulatorBank) -> float:
            policy, how = candidates[name]
            settings = (how.timing, how.decisions, how.reward, how.seed, how.view, REFERENCE_EPISODES, list(chosen))
            key = json.dumps([world.content_hash, world.current_world, policy.digest, *settings])
            if key not in _SCORED or not policy.digest:  # without one, two policies could have one key
                totals = []
                for i in range(0, len(chosen), SHARD):
                    part, config = world.select(list(chosen[i : i + SHARD])), process_config(how, bank.disease.name)
                    rolled = play(part, policy, config, seeds[i : i + SHARD], 0.0)
                    totals.append(rolled.rewards.double().sum(-1).mean(-1).numpy())
                _SCORED[key] = round(float(np.concatenate(totals).mean()), 4)
            bar.advance(1, policy=name)
            return _SCORED[key]

        at_home = bank.world(home)
        scores = {name: score(name, at_home) for name in candidates}
        learned = [name for name in candidates if not candidates[name][0].digest.startswith("builtin:")]
        # A bank without any trained policy has no expert; the best of what there is keeps the score defined.
        expert = max(learned or scores, key=lambda name: scores[name])
        scored = {name: name for name in ("random", "zero", "behavior")} | {"expert": expert}
        found: dict[str, Any] = {"returns": {key: scores[name] for key, name in scored.items()}}
        if other:
            there = {key: score(name, bank) for key, name in scored.items()}
            found["data_world"] = {"world": recipe.world, "returns": there}
    return found | {
        "expert": f"{behavior.name}-{recipe.timing}" if expert == "behavior" else expert,
        "candidates": scores,
        "episodes": REFERENCE_EPISODES,
        "patients": len(chosen),
        "reward": recipe.reward,
        "world": home,
    }
