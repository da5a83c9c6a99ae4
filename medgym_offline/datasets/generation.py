"""Generation: recipe -> perturbed rollouts -> a Minari dataset, its flat cache and its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.compute import one_thread
from medgym_offline.datasets.behaviors import recipe_behavior
from medgym_offline.datasets.card import dataset_card
from medgym_offline.datasets.catalogue import DATA_FILE, MANIFEST, METADATA, dataset_folder
from medgym_offline.datasets.hdf5 import EpisodeBlock, unwritten, write_episodes
from medgym_offline.datasets.manifest import build_manifest, build_metadata, write_namespace
from medgym_offline.datasets.recipes import Recipe, find_recipe
from medgym_offline.datasets.shards import played_episodes, reference_returns, work_folder
from medgym_offline.datasets.transitions import Transitions, content_hash, flat_name, write_flat
from medgym_offline.datasets.trust import GENERATOR, identity_of
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path, json_text, release_folder, write_json

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["GeneratedDataset", "generate"]


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


def _named(source: Recipe, bank: SimulatorBank, chosen: list[int], episodes: int, output: str | None) -> Recipe:
    """The recipe as it is written; a part of a dataset may not carry the name of the whole."""
    if output is None and (len(chosen), episodes) != (len(bank), source.episodes):
        example = f"{source.id.rpartition('-v')[0]}-{len(chosen)}-v0"
        whole = f"{source.id} has all {len(bank)} patients and {source.episodes} episodes of each"
        raise DatasetError(f"{whole}; give a part another name (--as, in Python output_id), for example {example}")
    return dataclasses.replace(source, id=output or source.id, episodes=episodes)


@one_thread()  # also where a program has not asked for it: load_dataset makes what is not there
def generate(
    dataset: str | Path | Recipe,
    *,
    root: str | Path | None = None,
    patients: int | str | Sequence[int | str] | None = None,
    episodes: int | None = None,
    output_id: str | None = None,
    progress: bool = True,
    release: bool = False,
    workers: int = 1,
    records: str | Path | None = None,
) -> GeneratedDataset:
    """Make a dataset from its recipe and write it where Minari finds it.

    Writes `<root>/<id>/data/{main_data.hdf5, metadata.json, manifest.json}`, the card `<root>/<id>/README.md`
    and the flat cache `<root>/<id>/flat-<hash>/`, all or nothing; a dataset
    of that id is replaced. Rows are the same whenever, wherever and with whatever other patients they are made, to the
    last digit that is stored (`docs/reproduce.md`). Shards of patients are kept in the cache folder as they finish: an
    interrupted run continues there, and ends with the same bytes.

    Args:
        dataset: A dataset id, the path of a recipe (`.toml`), or a `Recipe`.
        root: Folder of Minari datasets; Minari's own by default (`$MINARI_DATASETS_PATH`).
        patients: A part of the bank: the first n, or ids or indices. Needs `output_id`.
        episodes: Per patient, instead of the recipe's. Needs `output_id`.
        output_id: Id to write under; its seeds stay those of the recipe.
        progress: Show progress on standard error.
        release: Also write the manifest beside the release's recipes.
        workers: Processes that play episodes; the result is the same.
        records: Folder that holds the clinical records of a recipe made from such; `$MEDGYM_CLINICAL_DATA` if None.

    Raises:
        UnknownDatasetError: no such recipe.
        DatasetError: a wrong recipe field or selection, a folder that cannot be written, a dataset that another
            process is generating.
        BankError, PolicyError, CohortError: what the recipe names is not there, or cannot be read.
    """
    from medgym_offline.simulators import load_simulators

    source = find_recipe(dataset)
    bank = load_simulators(source.bank).world(source.world)
    if not source.records:
        ids, chosen = bank.patients, sorted(bank.patient_index.resolve(patients))
        recipe = _named(source, bank, chosen, source.episodes if episodes is None else episodes, output_id)
        behavior = recipe_behavior(recipe, bank)
        made = _making(recipe, source, bank, chosen, behavior.to_json())
    elif (patients, episodes, release) == (None, None, False):
        from medgym_offline.datasets.charts import charted_episodes, read_charts

        recipe = dataclasses.replace(source, id=output_id or source.id)
        cohort = read_charts(recipe, bank.disease.name, records)
        charts = charted_episodes(recipe, cohort, bank)
        ids, chosen = charts.persons, list(range(len(charts.persons)))
        made = _making(recipe, source, bank, chosen, {"name": recipe.behavior, "sha256": cohort.content_hash})
        made["records"] = charts.facts
    else:
        raise DatasetError(f"{source.id} is made from records: whole, and never shipped with a release")
    folder = dataset_folder(recipe.id, root)
    try:
        # A folder that cannot be written is noticed here, before minutes of work.
        with work_folder(folder) as work, atomic_path(folder) as temporary:
            if source.records:
                block = charts.block
                # Nobody's return is known but that of those who acted.
                mean = float(block.columns["rewards"].sum(dtype=np.float64)) / len(block)
                made["references"] = {"returns": {"behavior": round(mean, 4)}, "expert": "", "episodes": 0}
            else:
                identity = identity_of(made)
                block = played_episodes(
                    recipe, bank, chosen, behavior, source.stream, identity, work, workers, progress
                )
                made["references"] = reference_returns(recipe, bank, chosen, behavior, progress)
            manifest = _write(temporary, recipe, bank, made, ids, block)
        write_namespace(root, recipe.id)
    except (OSError, RuntimeError) as error:
        # The HDF5 library reports a full disk as a RuntimeError where a file is closed.
        if not isinstance(error, OSError) and "errno" not in str(error):
            raise
        raise unwritten(folder, error) from error
    if release:
        write_json(release_folder("datasets") / f"{recipe.name}.manifest.json", manifest)
    return GeneratedDataset(recipe.id, folder, manifest)


def _making(
    recipe: Recipe, source: Recipe, bank: SimulatorBank, patients: list[int], behavior: dict[str, Any]
) -> dict[str, Any]:
    """The part of a manifest that its identity is of.

    Args:
        recipe: With the id and the number of episodes as written.
        source: The recipe it was made from; its id names the random streams.
        bank: The whole bank.
        patients: Positions of those who have episodes.
        behavior: Name and hash of who acted.
    """
    made_of = {"name": bank.name, "content_hash": bank.content_hash, "source": str(bank.metadata.get("source", ""))}
    made = {"generator": GENERATOR, "recipe": recipe.to_json(), "source": source.id, "patients": patients}
    return {**made, "bank": made_of, "behavior": behavior}


def _write(
    folder: Path, recipe: Recipe, bank: SimulatorBank, made: dict[str, Any], ids: tuple[str, ...], block: EpisodeBlock
) -> dict[str, Any]:
    """Write everything into a new folder and return the manifest."""
    (folder / DATA_FILE).parent.mkdir(parents=True)
    write_episodes(folder / DATA_FILE, block, ids, bank.disease)
    rows = Transitions(
        **block.columns,
        patients=ids,
        timing=recipe.timing,
        decisions=recipe.decisions,
        disease=bank.disease.name,
        dataset_id=recipe.id,
        identity=identity_of(made),
        view=recipe.view if recipe.records else FULL,
    ).validate()
    content = content_hash(rows)
    # After the HDF5 file: a flat cache that is older is not trusted.
    write_flat(folder / flat_name(content), rows)
    ours = {"content_hash": content, "bytes": (folder / DATA_FILE).stat().st_size}
    metadata = build_metadata(recipe, bank, made, rows, ours)
    # Minari rewrites this file in place when asked to update it; ours is complete from the start.
    (folder / METADATA).write_text(json_text(metadata), encoding="utf-8")
    manifest = build_manifest(made, metadata, rows, block.seeds, folder)
    (folder / MANIFEST).write_text(json_text(manifest), encoding="utf-8")
    (folder / "README.md").write_text(dataset_card(manifest), encoding="utf-8")
    return manifest
