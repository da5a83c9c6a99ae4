"""Rows under another view: the stored actions played again from the episodes' seeds, seen through other instruments."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.config import from_values
from medgym_offline.datasets.forms import MANIFEST, read_manifest
from medgym_offline.datasets.recipes import Recipe, stream_of
from medgym_offline.datasets.shards import SHARD
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.datasets.trust import GENERATOR
from medgym_offline.diseases.views import FULL
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path, cache_folder
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["REPLAY_TOLERANCE", "viewed"]

REPLAY_TOLERANCE = 5e-3
"""Largest difference allowed between a stored episode and its replay, over all columns: a replay computes one episode
where generation computed a thousand at once, and float32 sums differ in their last digits, for up to 20 decisions."""


def viewed(rows: Transitions, view: str, folder: Path, content_hash: str, progress: bool = True) -> Transitions:
    """The rows with the observations of another view; what was made before is read from the user's cache.

    Args:
        rows: All rows of the patients wanted, as they are stored.
        view: Name of the view.
        folder: Of the dataset, with its manifest.
        content_hash: Of the whole dataset.
        progress: Show progress on standard error.

    Raises:
        UnknownNameError: The disease has no such view.
        DatasetError: The bank is another than the rows were made with, or the rows do not come out again.
    """
    definition = rows.definition.view(view)
    named = f"{content_hash} {GENERATOR} {definition!r}"
    cache = cache_folder("views", hashlib.sha256(named.encode()).hexdigest()[:16], write=True)
    files = {patient: cache / f"{patient}.npy" for patient in rows.present.tolist()}
    missing = [patient for patient, file in files.items() if not file.is_file()]
    if missing:
        recipe, bank, stream = _made_by(folder, rows)
        with Progress(f"{rows.dataset_id} as {view!r} (patients)", len(missing), enabled=progress) as bar:
            for start in range(0, len(missing), SHARD):
                some = missing[start : start + SHARD]
                for patient, pair in zip(some, _replayed(rows, view, recipe, bank, stream, some)):
                    with atomic_path(files[patient]) as temporary, open(temporary, "wb") as handle:
                        np.save(handle, pair)
                bar.advance(len(some))
    before, after = np.concatenate([np.load(file) for file in files.values()], 1)
    return replace(rows, observations=before, next_observations=after, view=view)


def _made_by(folder: Path, rows: Transitions) -> tuple[Recipe, SimulatorBank, str]:
    """Recipe, bank in its world and purpose of the seeds of a dataset."""
    from medgym_offline.simulators.files import load_simulators

    manifest: dict[str, Any] = read_manifest(folder / MANIFEST)
    recipe = from_values(Recipe, manifest["recipe"] | {"id": rows.dataset_id}, str(folder / MANIFEST))
    bank = load_simulators(recipe.bank)
    if bank.content_hash != manifest["bank"]["content_hash"]:
        made = f"{rows.dataset_id}: made with another version of bank {recipe.bank!r}"
        raise DatasetError(f"{made}, so it cannot be played again; medgym-offline generate {rows.dataset_id}")
    return recipe, bank.world(recipe.world), stream_of(manifest["source"])


def _replayed(
    rows: Transitions, view: str, recipe: Recipe, bank: SimulatorBank, stream: str, patients: Sequence[int]
) -> list[np.ndarray]:
    """Observations and next observations (2, rows of the patient, d), float32, of each patient."""
    import torch

    from medgym_offline.datasets.behaviors import process_config
    from medgym_offline.envs.process import DecisionProcess
    from medgym_offline.envs.rollout import draw_noise, episode_seeds, observed, rollout
    from medgym_offline.envs.timing import interval_to_action

    own = rows.select(patients=patients)
    config = replace(process_config(recipe, rows.disease), view=view, path_costs=False)
    exact = bank.select(list(patients)).to(torch.float64)
    starts = own.episode_starts()
    if len(starts) != len(patients) * recipe.episodes:
        raise DatasetError(f"{rows.dataset_id}: episodes are missing; regenerate it, or load whole patients")
    episode = np.repeat(np.arange(len(starts)), own.episode_lengths())
    actions = torch.zeros(len(starts), config.decisions, own.action_dim, dtype=torch.float64)
    place = episode, np.arange(len(own)) - starts[episode]
    actions[place] = torch.from_numpy(own.actions.astype(np.float64))
    if config.timing == "adaptive":
        # The stored interval, not the stored action: rounded to float32 it may ask for the tick beside. A quarter of a
        # tick less, or its last digit could leave less than the shortest interval to the rest.
        wish = torch.from_numpy(own.dt.astype(np.float64)) - config.tick / 4
        actions[..., -1][place] = interval_to_action(wish, config)
    shape = len(patients), recipe.episodes
    actions = actions.view(*shape, config.decisions, own.action_dim)
    seeds = episode_seeds(recipe.seed, stream, exact.patients, recipe.episodes)
    number = count()
    noise = draw_noise(seeds, exact, config)
    rolled = rollout(DecisionProcess(exact, config), lambda _: actions[:, :, next(number)], noise)
    full = observed(DecisionProcess(exact, replace(config, view=FULL)), rolled)
    valid = rolled.valid
    pairs = [(rolled.rewards[valid], own.rewards), (rolled.dt[valid], own.dt)]
    pairs += [(full[:, :, :-1][valid], own.observations), (full[:, :, 1:][valid], own.next_observations)]
    alike = int(valid.sum()) == len(own)
    gap = max(float(np.abs(found.numpy() - stored).max()) for found, stored in pairs) if alike else float("inf")
    if not gap <= REPLAY_TOLERANCE:
        again = f"its episodes do not come out again from their seeds (largest difference {gap:.1e})"
        raise DatasetError(f"{rows.dataset_id}: {again}; medgym-offline generate {rows.dataset_id}")
    seen = torch.stack([rolled.observations[:, :, :-1][valid], rolled.observations[:, :, 1:][valid]]).float().numpy()
    cuts = np.searchsorted(own.patient, patients)[1:]
    return np.split(seen, cuts, axis=1)
