"""Loading: the flat cache if it is there, else rebuilt from the HDF5 file, else the dataset is regenerated.

Rows under another view are the stored actions played again from the episodes' seeds, seen through other instruments.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.config import from_values
from medgym_offline.datasets.catalogue import DATA_FILE, dataset_folder, local_folder, read_manifest, read_metadata
from medgym_offline.datasets.hdf5 import read_episodes
from medgym_offline.datasets.recipes import Recipe, known_recipe, stream_of
from medgym_offline.datasets.shards import SHARD
from medgym_offline.datasets.transitions import (
    Transitions,
    content_hash,
    flat_name,
    read_flat,
    transitions_of,
    write_flat,
)
from medgym_offline.datasets.trust import GENERATOR, departures
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import atomic_path, cache_folder
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["REPLAY_TOLERANCE", "load_dataset", "read_rows", "viewed"]

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

    manifest = read_manifest(folder)
    recipe = from_values(Recipe, manifest["recipe"] | {"id": rows.dataset_id}, f"manifest of {rows.dataset_id}")
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


def read_rows(folder: Path, metadata: dict[str, Any]) -> tuple[Transitions, np.ndarray]:
    """All rows of a dataset from its HDF5 file, in memory (seconds for 10,000 episodes), and its episodes' seeds.

    Args:
        folder: Of the dataset.
        metadata: Minari's, of the same dataset.

    Raises:
        DatasetError: the file is missing, truncated or does not have the layout.
    """
    ours = metadata["medgym"]
    block = read_episodes(folder / DATA_FILE, disease(ours["disease"]), ours["timing"], ours.get("view", FULL))
    return transitions_of(block.columns, metadata), block.seeds


def _rebuild(folder: Path, metadata: dict[str, Any]) -> Transitions:
    """Rows from the HDF5 file, also written as a flat cache: beside it, or in the user's cache folder."""
    rows, _ = read_rows(folder, metadata)
    found = content_hash(rows)
    if found != metadata["medgym"]["content_hash"]:
        remedy = f"run `medgym-offline verify {metadata['dataset_id']}` or regenerate it"
        raise DatasetError(f"{folder}: rows do not have the content hash of its metadata; {remedy}")
    for home in _homes(folder):
        flat = home / flat_name(found)
        try:
            with atomic_path(flat) as temporary:
                write_flat(temporary, rows)
        except OSError:
            continue  # a read-only or full place: the next one, or memory
        return transitions_of(read_flat(flat), metadata)
    return rows


def _homes(folder: Path) -> Iterator[Path]:
    """Where the flat cache of a dataset may be: in its folder, else in the user's cache."""
    yield folder
    with contextlib.suppress(MedGymError):
        yield cache_folder("datasets")


def load_dataset(
    dataset: str,
    patients: int | str | Sequence[int | str] | None = None,
    *,
    split: str | None = None,
    root: str | Path | None = None,
    generate: bool = True,
    progress: bool = True,
    view: str = FULL,
) -> Transitions:
    """Rows of a dataset; see `Transitions` for what each means.

    Args:
        dataset: Dataset id, for example `medgym/sepsis-ind-v0`.
        patients: None (all), a number n (the first n of the dataset), an id, or a sequence of ids and bank indices.
        split: "train" or "test": the rows of the people on that side of the bank's split alone; `patients` is among
            them.
        root: Folder of Minari datasets; Minari's own by default.
        generate: Regenerate from the recipe what is not on this machine (seconds to a minute).
        progress: Show progress on standard error.
        view: What the observations show, a view of the disease: the same episodes, played again once from their seeds
            (seconds to minutes) and kept in the user's cache. Rows of records show what was charted.

    Returns:
        Arrays memory-mapped copy-on-write: writing to one changes it in memory, never the file.

    Raises:
        UnknownDatasetError: no such dataset, with the nearest ids.
        DatasetError: it is damaged, or not here and `generate` is False.
        UnknownNameError: no such patient, one without episodes, nobody, or somebody twice; no such split or view.
        BankError: its bank has no split.
    """
    if generate and not (dataset_folder(dataset, root) / "data").is_dir() and known_recipe(dataset):
        from medgym_offline.datasets.generation import generate as make

        if progress:
            print(f"{dataset} is not on this machine; generating it from its recipe", file=sys.stderr)
        make(dataset, root=root, progress=progress)
    folder = local_folder(dataset, root)
    metadata = read_metadata(folder)
    ours = metadata["medgym"]
    written = _written(folder, metadata)
    _warn_if_older(folder, dataset)
    transitions = None
    for home in _homes(folder):
        flat = home / flat_name(ours["content_hash"])
        try:
            # Of a file that was opened for writing since, or of other people, the rows are read and hashed again.
            if (flat / "rewards.npy").stat().st_mtime_ns >= written:
                found = read_flat(flat)
                if len(found["patient"]) and found["patient"][-1] < len(ours["patients"]):
                    transitions = transitions_of(found, metadata)
                    break
        except (DatasetError, OSError):
            continue  # a cache that is not there, or damaged, is rebuilt
    transitions = transitions or _rebuild(folder, metadata)
    if split is not None:
        from medgym_offline.simulators.files import load_simulators

        bank = load_simulators(read_manifest(folder)["recipe"]["bank"])
        people = [patient for patient in bank.people(split) if patient in transitions.present_ids]
        transitions = replace(transitions.select(patients=people), split=split)
    chosen = transitions if patients is None else transitions.select(patients=transitions.resolve(patients))
    if view in (FULL, chosen.view):
        return chosen
    if chosen.view != FULL:
        raise DatasetError(f"{dataset} is made from records, which show {chosen.view!r} alone; leave view out")
    return viewed(chosen, view, folder, ours["content_hash"], progress)


def _written(folder: Path, metadata: dict[str, Any]) -> int:
    """When the HDF5 file was last written (ns); another size is noticed although the flat cache could still be read."""
    path, wanted = folder / DATA_FILE, int(metadata["medgym"]["bytes"])
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file; regenerate the dataset")
    found = path.stat()
    if found.st_size != wanted:
        changed = f"{found.st_size} bytes, {wanted} were written; truncated, or changed afterwards, as by adding to it"
        remedy = "read it with minari.load_dataset, or regenerate the dataset"
        raise DatasetError(f"{path}: {changed} through Minari ({metadata['total_episodes']} episodes now): {remedy}")
    return found.st_mtime_ns


def _warn_if_older(folder: Path, dataset: str) -> None:
    """Warn where rows are not what this release would make, and say what made them instead."""
    with contextlib.suppress(DatasetError):
        if different := departures(read_manifest(folder), dataset):
            made = f"{dataset} on this machine is not the release's: {different[0]}"
            warnings.warn(f"{made}; medgym-offline generate {dataset}", stacklevel=3)
