"""Generation: recipe -> perturbed rollouts -> a Minari dataset, its flat cache and its manifest."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import Behavior, play, process_config, resolve_behavior
from medgym_offline.datasets.card import dataset_card
from medgym_offline.datasets.catalogue import dataset_folder, minari_root
from medgym_offline.datasets.flat import ContentHash, FlatWriter, flat_name, read_flat
from medgym_offline.datasets.hdf5 import EpisodeBlock, EpisodeWriter
from medgym_offline.datasets.manifest import build_manifest, build_metadata, write_namespace
from medgym_offline.datasets.recipes import Recipe, find_recipe
from medgym_offline.datasets.reference import reference_returns
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path, json_text, release_folder, write_json
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.envs.rollout import Rollout
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["GeneratedDataset", "choose_patients", "generate", "rollout_block"]

SHARD = 10
"""Patients rolled out together: the fastest on a CPU, and the batch is part of the last float32 digits."""


@dataclass(frozen=True)
class GeneratedDataset:
    """A dataset that was written.

    Attributes:
        id: As Minari loads it.
        path: Its folder.
        manifest: See `docs/datasets.md`.
    """

    id: str
    path: Path
    manifest: dict[str, Any]

    @property
    def episodes(self) -> int:
        return int(self.manifest["episodes"])

    @property
    def steps(self) -> int:
        return int(self.manifest["steps"])


def choose_patients(bank: SimulatorBank, patients: int | str | Sequence[int | str] | None) -> list[int]:
    """Bank indices of the patients asked for, in bank order.

    Args:
        bank: The whole bank.
        patients: None (all), a number n (the first n), an id, or a sequence of ids and bank indices.

    Raises:
        DatasetError: a number outside 1..P, or an empty selection.  UnknownNameError: no such patient.
    """
    if patients is None:
        return list(range(len(bank)))
    if isinstance(patients, (int, np.integer)):
        if not 1 <= patients <= len(bank):
            raise DatasetError(f"{patients} patients asked for; bank {bank.name!r} has 1..{len(bank)}")
        return list(range(int(patients)))
    wanted = [patients] if isinstance(patients, str) else list(patients)
    if not wanted:
        raise DatasetError("no patient asked for; name at least one, or None for all")
    return sorted({bank.index(p if isinstance(p, str) else int(p)) for p in wanted})


def rollout_block(
    bank: SimulatorBank, rolled: Rollout, seeds: np.ndarray, patients: Sequence[int], first: int
) -> EpisodeBlock:
    """Episodes of a rollout in Minari's layout, patient by patient.

    Args:
        bank: The P patients of the rollout.
        rolled: P x B episodes.
        seeds: (P, B).
        patients: Their indices in the whole bank.
        first: Number of the first episode.
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
    at_reset = {"sofa": disease.severity(physical, untreated), "lactate": physical[..., disease.monitored]}
    after = {name: getattr(rolled, name) for name in ("dt", "time", "sofa", "lactate")} | {"cost": rolled.costs}
    infos = {
        name: flat(torch.cat([at_reset.get(name, torch.zeros(count, batch))[..., None], values], -1).float())
        for name, values in after.items()
    }
    return EpisodeBlock(
        observations=flat(rolled.observations),
        actions=flat(rolled.actions),
        rewards=flat(rolled.rewards.float()),
        terminations=flat(rolled.terminated),
        truncations=np.zeros((count * batch, steps), bool),
        infos=infos,
        lengths=flat(rolled.valid.sum(-1)),
        seeds=seeds.reshape(-1),
        patient=np.repeat(np.asarray(patients, np.int32), batch),
        episode=np.arange(first, first + count * batch, dtype=np.int32),
    )


def _named(recipe: Recipe, bank: SimulatorBank, chosen: list[int], output: str | None) -> Recipe:
    """The recipe under the id to write; a part of a dataset may not carry the name of the whole."""
    partial = len(chosen) < len(bank)
    if output is None and partial:
        raise DatasetError(
            f"{recipe.id} has all {len(bank)} patients; give the part of it another name (output_id), for example "
            f"{recipe.id.rpartition('-v')[0]}-{len(chosen)}-v0"
        )
    return recipe if output is None else dataclasses.replace(recipe, id=output)


def generate(
    dataset: str | Path | Recipe,
    *,
    root: str | Path | None = None,
    patients: int | str | Sequence[int | str] | None = None,
    episodes: int | None = None,
    output_id: str | None = None,
    progress: bool = True,
    release: bool = False,
) -> GeneratedDataset:
    """Make a dataset from its recipe and write it where Minari finds it.

    Writes `<root>/<id>/data/{main_data.hdf5, metadata.json, manifest.json}`, the card `<root>/<id>/README.md` and the
    flat cache `<root>/<id>/flat-<hash>/`, all or nothing; a dataset of that id is replaced. Rows are the same
    whenever and with whatever other patients they are made (to float32 rounding).

    Args:
        dataset: A dataset id, the path of a recipe (`.toml`), or a `Recipe`.
        root: Folder of Minari datasets; Minari's own by default (`$MINARI_DATASETS_PATH`).
        patients: A part of the bank: the first n, or ids or indices. Needs `output_id`.
        episodes: Per patient, instead of the recipe's. Needs `output_id`.
        output_id: Id to write under; its seeds stay those of the recipe.
        progress: Show progress on standard error.
        release: Also write the manifest beside the release's recipes.

    Raises:
        UnknownDatasetError: no such recipe.
        DatasetError: a wrong recipe field or selection, or a folder that cannot be written.
        BankError, PolicyError: what the recipe names is not there.
    """
    from medgym_offline.simulators import load_simulators

    source = find_recipe(dataset)
    bank = load_simulators(source.bank)
    chosen = choose_patients(bank, patients)
    recipe = _named(source, bank, chosen, output_id)
    if episodes is not None:
        if output_id is None and episodes != source.episodes:
            raise DatasetError(f"{source.id} has {source.episodes} episodes per patient; name the part (output_id)")
        recipe = dataclasses.replace(recipe, episodes=episodes)
    behavior = resolve_behavior(recipe.behavior, bank, recipe.timing, recipe.decisions)
    base = minari_root(root)
    folder = dataset_folder(recipe.id, root)
    try:
        with atomic_path(folder) as temporary:
            manifest = _write(temporary, recipe, source, bank, chosen, behavior, progress)
        write_namespace(base, recipe.id.rpartition("/")[0])
    except OSError as error:
        text = error.strerror or " ".join(str(error).split())
        remedy = "free some space or set MINARI_DATASETS_PATH to another folder"
        raise DatasetError(f"{folder}: cannot write the dataset ({text}); {remedy}") from error
    if release:
        write_json(release_folder("datasets") / f"{recipe.name}.manifest.json", manifest)
    return GeneratedDataset(recipe.id, folder, manifest)


def _write(
    folder: Path,
    recipe: Recipe,
    source: Recipe,
    bank: SimulatorBank,
    chosen: list[int],
    behavior: Behavior,
    progress: bool,
) -> dict[str, Any]:
    """Write everything into a new folder and return the manifest."""
    from medgym_offline.envs.rollout import episode_seeds

    data, flat = folder / "data", folder / "flat"
    data.mkdir(parents=True)
    config = process_config(recipe)
    digest = ContentHash()
    writer = EpisodeWriter(data / "main_data.hdf5", bank.patients)
    total = len(chosen) * recipe.episodes
    with writer, FlatWriter(flat) as rows, Progress(f"{recipe.id} (episodes)", total, enabled=progress) as bar:
        for i in range(0, len(chosen), SHARD):
            part = chosen[i : i + SHARD]
            shard = bank.select(part)
            seeds = episode_seeds(source.seed, source.stream, shard.patients, recipe.episodes)
            rolled = play(shard, behavior, config, seeds, recipe.perturbation)
            block = rollout_block(shard, rolled, seeds, part, writer.episodes)
            columns = block.columns()
            writer.write(block)
            rows.write(columns)
            digest.update(columns)
            bar.advance(len(block), mean_return=float(rolled.rewards.sum(-1).mean()))
    content = digest.hexdigest(patients=list(bank.patients), timing=recipe.timing, decisions=recipe.decisions)
    shutil.move(flat, folder / flat_name(content))
    references = reference_returns(recipe, bank.select(chosen), bank, behavior, progress=progress)
    counts = (writer.episodes, writer.steps)
    first = bank.patients[chosen[0]]
    metadata = build_metadata(
        recipe, source, bank.patients, first, counts, content, data / "main_data.hdf5", references
    )
    # Minari rewrites this file in place when asked to update it; ours is complete from the start.
    (data / "metadata.json").write_text(json_text(metadata), encoding="utf-8")
    transitions = Transitions(
        **read_flat(folder / flat_name(content)),
        patients=bank.patients,
        timing=recipe.timing,
        decisions=recipe.decisions,
        dataset_id=recipe.id,
        content_hash=content,
    ).validate()
    made = {"name": bank.name, "content_hash": bank.content_hash, "source": str(bank.metadata.get("source", ""))}
    who = {"name": behavior.name, "sha256": behavior.digest}
    manifest = build_manifest(recipe, source, transitions, folder, references, made, who)
    (data / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
    (folder / "README.md").write_text(dataset_card(manifest), encoding="utf-8")
    return manifest
