"""Generation: recipe -> perturbed rollouts -> a Minari dataset, its flat cache and its manifest."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import recipe_behavior
from medgym_offline.datasets.card import write_card
from medgym_offline.datasets.catalogue import dataset_folder, minari_root
from medgym_offline.datasets.flat import ContentHash, FlatWriter, flat_name, read_flat
from medgym_offline.datasets.hdf5 import EpisodeBlock, EpisodeWriter
from medgym_offline.datasets.identity import identity_of
from medgym_offline.datasets.manifest import build_manifest, build_metadata, making, write_namespace
from medgym_offline.datasets.recipes import Recipe, find_recipe
from medgym_offline.datasets.reference import reference_returns
from medgym_offline.datasets.shards import played_blocks, work_folder
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path, json_text, release_folder, write_json
from medgym_offline.progress import Progress
from medgym_offline.reports import can_draw
from medgym_offline.threads import one_thread

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["GeneratedDataset", "choose_patients", "generate"]


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


@dataclass(frozen=True)
class _Origin:
    """Where the rows of a dataset come from.

    Attributes:
        patients: Ids that `patient` counts in.
        chosen: Positions of those who have episodes.
        example: Patient of the bank that the environment specs name.
        who: Name and hash of who acted, as the manifest has them.
        episodes: How many there are.
        blocks: Identity of the dataset, and a folder for what is half done -> the episodes.
        references: Mean return of the episodes -> what `reference_returns` gives.
        facts: Further entries of the manifest.
    """

    patients: tuple[str, ...]
    chosen: list[int]
    example: str
    who: dict[str, Any]
    episodes: int
    blocks: Callable[[str, Path], Iterable[EpisodeBlock]]
    references: Callable[[float], dict[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def choose_patients(bank: SimulatorBank, patients: int | str | Sequence[int | str] | None) -> list[int]:
    """Bank indices of the patients asked for, in bank order.

    Args:
        bank: The whole bank.
        patients: None (all), a number n (the first n), an id, or a sequence of ids and bank indices.

    Raises:
        UnknownNameError: no such patient, nobody, or somebody twice.
    """
    return sorted(bank.patient_index.resolve(patients))


def _named(recipe: Recipe, bank: SimulatorBank, chosen: list[int], output: str | None) -> Recipe:
    """The recipe under the id to write; a part of a dataset may not carry the name of the whole."""
    partial = len(chosen) < len(bank)
    if output is None and partial:
        raise DatasetError(
            f"{recipe.id} has all {len(bank)} patients; give the part of it another name (--as, in "
            f"Python output_id), for example {recipe.id.rpartition('-v')[0]}-{len(chosen)}-v0"
        )
    return recipe if output is None else dataclasses.replace(recipe, id=output)


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
    (with figures if matplotlib is installed) and the flat cache `<root>/<id>/flat-<hash>/`, all or nothing; a dataset
    of that id is replaced. Rows are the same whenever, wherever and with whatever other patients they are made, to the
    last digit that is stored (`docs/reproduce.md`). Shards of patients are kept in the cache folder as they finish: an
    interrupted run continues there, and ends with the same bytes.

    Args:
        dataset: A dataset id (of a recipe, or its `-large` form), the path of a recipe (`.toml`), or a `Recipe`.
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
    if source.records:
        if (patients, episodes, release) != (None, None, False):
            raise DatasetError(f"{source.id} is made from records: whole, and never shipped with a release")
        recipe, chosen = dataclasses.replace(source, id=output_id or source.id), []
    else:
        chosen = choose_patients(bank, patients)
        recipe = _named(source, bank, chosen, output_id)
    if episodes is not None:
        if output_id is None and episodes != source.episodes:
            raise DatasetError(f"{source.id} has {source.episodes} episodes per patient; name the part (output_id)")
        recipe = dataclasses.replace(recipe, episodes=episodes)
    if source.records:
        origin = _charted(recipe, bank, records)
    else:
        origin = _played(recipe, source, bank, chosen, workers, progress)
    base = minari_root(root)
    folder = dataset_folder(recipe.id, root)
    try:
        _require_writable(folder.parent)
        with work_folder(folder) as work, atomic_path(folder) as temporary:
            manifest = _write(temporary, recipe, source, bank, origin, work, progress)
        write_namespace(base, recipe.id.rpartition("/")[0])
    except OSError as error:
        raise _cannot_write(folder, error) from error
    except RuntimeError as error:
        # The HDF5 library reports a full disk as a RuntimeError where a file is closed.
        if "errno" not in str(error):
            raise
        raise _cannot_write(folder, error) from error
    if release:
        write_json(release_folder("datasets") / f"{recipe.name}.manifest.json", manifest)
    return GeneratedDataset(recipe.id, folder, manifest)


def _require_writable(parent: Path) -> None:
    """Notice a folder that cannot be written before minutes of work."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parent):
        pass


def _cannot_write(folder: Path, error: OSError | RuntimeError) -> DatasetError:
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    # HDF5's own report is a paragraph around the message of the operating system.
    if inner := re.search(r"error message = '([^']+)'", text):
        text = inner[1]
    place = getattr(error, "filename", None)
    where = f"{folder}: cannot write the dataset ({text}{f': {place}' if place else ''})"
    remedy = "free some space, or set MINARI_DATASETS_PATH (datasets) and MEDGYM_CACHE (work) to other folders"
    return DatasetError(f"{where}; {remedy}")


def _played(
    recipe: Recipe, source: Recipe, bank: SimulatorBank, chosen: list[int], workers: int, progress: bool
) -> _Origin:
    """Episodes played in the bank's simulators."""
    behavior = recipe_behavior(recipe, bank)

    def blocks(identity: str, work: Path) -> Iterable[EpisodeBlock]:
        return played_blocks(recipe, bank, chosen, behavior, source.stream, identity, work, workers, progress)

    def references(_: float) -> dict[str, Any]:
        return reference_returns(recipe, bank, chosen, behavior, progress=progress)

    example, total = bank.patients[chosen[0]], len(chosen) * recipe.episodes
    return _Origin(bank.patients, chosen, example, behavior.to_json(), total, blocks, references)


def _charted(recipe: Recipe, bank: SimulatorBank, records: str | Path | None) -> _Origin:
    """Episodes of clinical records; nobody's return in them is known but that of those who acted."""
    from medgym_offline.datasets.charts import charted_episodes, read_charts

    cohort = read_charts(recipe, bank.disease.name, records)
    charts = charted_episodes(recipe, cohort, bank)
    return _Origin(
        charts.persons,
        list(range(len(charts.persons))),
        bank.patients[0],
        {"name": recipe.behavior, "sha256": cohort.content_hash},
        len(charts.block),
        lambda *_: [charts.block],
        lambda mean: {"returns": {"behavior": round(mean, 4)}, "expert": "", "episodes": 0},
        {"records": charts.facts},
    )


def _write(
    folder: Path, recipe: Recipe, source: Recipe, bank: SimulatorBank, origin: _Origin, work: Path, progress: bool
) -> dict[str, Any]:
    """Write everything into a new folder and return the manifest."""
    data, flat = folder / "data", folder / "flat"
    data.mkdir(parents=True)
    digest = ContentHash()
    seeds, total = [], 0.0
    writer = EpisodeWriter(data / "main_data.hdf5", origin.patients, bank.disease)
    made = {"name": bank.name, "content_hash": bank.content_hash, "source": str(bank.metadata.get("source", ""))}
    identity = identity_of(making(recipe, source, origin.chosen, made, origin.who))
    title = f"writing {recipe.id} (episodes)"
    # The flat cache is closed last: one that is older than the HDF5 file is not trusted.
    with FlatWriter(flat) as rows, writer, Progress(title, origin.episodes, enabled=progress) as bar:
        for block in origin.blocks(identity, work):
            columns = block.columns()
            writer.write(block)
            rows.write(columns)
            digest.update(columns)
            seeds.append(block.seeds)
            total += float(columns["rewards"].sum(dtype=np.float64))
            bar.advance(len(block))
    content = digest.hexdigest(patients=list(origin.patients), timing=recipe.timing, decisions=recipe.decisions)
    shutil.move(flat, folder / flat_name(content))
    references = origin.references(total / writer.episodes)
    counts = (writer.episodes, writer.steps)
    names = (origin.patients, origin.example)
    metadata = build_metadata(recipe, bank, names, counts, identity, content, data / "main_data.hdf5", references)
    # Minari rewrites this file in place when asked to update it; ours is complete from the start.
    (data / "metadata.json").write_text(json_text(metadata), encoding="utf-8")
    transitions = Transitions(
        **read_flat(folder / flat_name(content)),
        patients=origin.patients,
        timing=recipe.timing,
        decisions=recipe.decisions,
        disease=bank.disease.name,
        dataset_id=recipe.id,
        identity=identity,
        view=recipe.stored_view,
        split="",
        embedded=0,
    ).validate()
    manifest = build_manifest(
        recipe, source, transitions, np.concatenate(seeds), content, folder, references, made, origin.who,
        origin.example,
    ) | dict(origin.facts)  # fmt: skip
    (data / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
    write_card(folder, manifest, transitions, figures=can_draw() and not recipe.records)
    return manifest
