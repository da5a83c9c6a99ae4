"""The rollouts of a dataset, cut into shards of patients and episodes that are kept as they finish.

Workers, interruptions and the cut leave no trace: rows are computed in float64 and stored in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import Behavior, action_log_prob, play, process_config
from medgym_offline.datasets.hdf5 import INFOS, EpisodeBlock
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.errors import DatasetError
from medgym_offline.files import cache_folder

if TYPE_CHECKING:
    import torch

    from medgym_offline.envs.rollout import Rollout
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["SHARD", "SHARD_EPISODES", "play_shard", "played_blocks", "rollout_block", "work_folder"]

SHARD = 10
"""Patients rolled out together: the fastest on a CPU."""
SHARD_EPISODES = 100
"""Episodes of each rolled out together."""


def rollout_block(
    bank: SimulatorBank, rolled: Rollout, log_prob: torch.Tensor, seeds: np.ndarray, patients: Sequence[int]
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

    count, batch, steps = rolled.rewards.shape

    def flat(tensor: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(tensor.reshape(count * batch, *tensor.shape[2:]).cpu().numpy())

    start = rolled.states[:, :, 0]
    disease = bank.disease
    physical = bank.denormalize(start)
    # As the environment's reset reports them: severity without treatment, nothing else yet.
    untreated = bank.denormalize_treatment(torch.zeros(count, batch, len(disease.treatments)))
    at_reset = {
        "severity": disease.severity.score(physical, untreated),
        "monitored": physical[..., disease.monitored],
    }
    after = {"cost": rolled.costs, "behavior_log_prob": log_prob}
    after |= {name: getattr(rolled, name) for name in INFOS if name not in after}
    infos = {
        name: flat(torch.cat([at_reset.get(name, torch.zeros_like(values[:, :, 0]))[:, :, None], values], 2).float())
        for name, values in after.items()
    }
    return EpisodeBlock(
        observations=flat(rolled.observations.float()),
        actions=flat(rolled.actions.float()),
        rewards=flat(rolled.rewards.float()),
        terminations=flat(rolled.terminated),
        truncations=np.zeros((count * batch, steps), bool),
        infos=infos,
        lengths=flat(rolled.valid.sum(-1)),
        seeds=seeds.reshape(-1),
        patient=np.repeat(np.asarray(patients, np.int32), batch),
        episode=np.arange(count * batch, dtype=np.int32),
    )


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


def _joined(parts: list[dict[str, Any]], patients: int, first: int) -> EpisodeBlock:
    """Shards of the same patients, put together patient by patient."""

    def join(arrays: list[np.ndarray]) -> np.ndarray:
        grouped = [array.reshape(patients, -1, *array.shape[1:]) for array in arrays]
        whole = np.concatenate(grouped, axis=1)
        return whole.reshape(-1, *whole.shape[2:])

    infos = {name: join([part["infos"][name] for part in parts]) for name in parts[0]["infos"]}
    names = [field.name for field in dataclasses.fields(EpisodeBlock) if field.name not in ("infos", "episode")]
    columns = {name: join([part[name] for part in parts]) for name in names}
    numbers = np.arange(first, first + len(columns["lengths"]), dtype=np.int32)
    return EpisodeBlock(**columns, infos=infos, episode=numbers)


@contextlib.contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Where the shards of the dataset at `target` are kept until it is complete; deleted when the block succeeds.

    Raises:
        DatasetError: Another process is generating the same dataset.
    """
    from filelock import FileLock, Timeout

    digest = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:8]
    folder = cache_folder("generate", f"{target.name}-{digest}", write=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DatasetError(
            f"{target}: another process is generating this dataset; wait for it (lock {lock.lock_file})"
        ) from None
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def played_blocks(
    recipe: Recipe,
    bank: SimulatorBank,
    chosen: list[int],
    behavior: Behavior,
    stream: str,
    identity: str,
    folder: Path,
    workers: int = 1,
    progress: bool = True,
) -> Iterator[EpisodeBlock]:
    """All episodes of a recipe in dataset order, a shard of patients at a time.

    Args:
        recipe: With the episodes per patient to play.
        bank: The whole bank, in the recipe's world.
        chosen: Indices of the patients.
        behavior: Who plays.
        stream: Purpose of the episodes' seeds.
        identity: Of the dataset; shards of another are not used.
        folder: Keeps finished shards; those of a run that was interrupted are not played again.
        workers: Processes.
        progress: Show progress on standard error.
    """
    from medgym_offline.engine import run
    from medgym_offline.envs.rollout import episode_seeds

    groups = [chosen[i : i + SHARD] for i in range(0, len(chosen), SHARD)]
    cuts = [range(e, min(e + SHARD_EPISODES, recipe.episodes)) for e in range(0, recipe.episodes, SHARD_EPISODES)]
    shards: dict[str, tuple[Any, ...]] = {}
    names: list[list[str]] = []
    for group in groups:
        part = bank.select(group)
        seeds = episode_seeds(recipe.seed, stream, part.patients, recipe.episodes)
        who = behavior.select(part.patients)
        names.append([f"p{group[0]:04d}-e{cut.start:05d}" for cut in cuts])
        for name, cut in zip(names[-1], cuts):
            shards[name] = part, who.starting_at(cut.start), recipe, seeds[:, cut.start : cut.stop], group
    kept = folder / identity[:16]  # shards of another dataset lie beside it
    if (before := len(list(kept.glob("*.safetensors")))) and progress:
        print(f"{recipe.id}: going on after {before} of {len(shards)} shards", file=sys.stderr, flush=True)
    played = run(
        _shard,
        shards,
        engine="process" if workers > 1 else "local",
        workers=workers if workers > 1 else None,
        folder=kept,
        key={"identity": identity, "shard": [SHARD, SHARD_EPISODES]},
        title=f"{recipe.id} (shards of {SHARD} patients)",
        progress=progress,
    )
    first = 0
    for group, parts in zip(groups, names):
        block = _joined([played.pop(name) for name in parts], len(group), first)
        first += len(block)
        yield block
