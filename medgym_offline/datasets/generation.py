"""Generation: recipe -> perturbed rollouts -> a Minari dataset, its flat cache, and what is written beside the rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.compute import one_thread
from medgym_offline.datasets.behaviors import recipe_behavior
from medgym_offline.datasets.card import dataset_card
from medgym_offline.datasets.catalogue import DATA_FILE, MANIFEST, METADATA, dataset_folder, minari_root
from medgym_offline.datasets.hdf5 import EpisodeBlock, unwritten, write_episodes
from medgym_offline.datasets.recipes import Recipe, find_recipe
from medgym_offline.datasets.shards import played_episodes, reference_returns, work_folder
from medgym_offline.datasets.transitions import (
    COLUMNS,
    Transitions,
    content_hash,
    flat_name,
    transitions_of,
    write_flat,
)
from medgym_offline.datasets.trust import GENERATOR, Fingerprint, identity_of
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path, code_version, json_text, release_folder, sha256_file, write_json

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["GeneratedDataset", "NAMESPACE_DESCRIPTION", "facts", "facts_differ", "generate", "write_namespace"]

AUTHOR = "The MedGym Offline developers"
NAMESPACE_DESCRIPTION = "Offline reinforcement learning for treatment, on one simulator per patient."
"""What Minari shows of the namespace."""


def env_specs(recipe: Recipe, disease: str, patient: str) -> tuple[str, str]:
    """Gymnasium specs (JSON) of the environment that made the data and of the one to evaluate in.

    The entry point is a string, so `recover_environment()` works without importing this package first. Minari's
    users get the named patient; `recover_environment(patient=...)` gives another. `max_episode_steps` is K + 1:
    d3rlpy wants a positive number, and an episode ends by itself after at most K decisions, so it never truncates.
    """
    from gymnasium.envs.registration import EnvSpec

    kwargs = {"patient": patient, "timing": recipe.timing, "decisions": recipe.decisions, "bank": recipe.bank}
    kwargs |= {"world": recipe.world, "disease": disease} | ({"view": recipe.view} if recipe.records else {})

    def spec(reward: str) -> str:
        made = EnvSpec(
            id=f"medgym/{disease.capitalize()}-v0",
            entry_point="medgym_offline.envs:TreatmentEnv",
            vector_entry_point="medgym_offline.envs:TreatmentVectorEnv",
            max_episode_steps=recipe.decisions + 1,
            kwargs=kwargs | {"reward": reward, "noise": True},
        )
        return str(made.to_json())

    return spec(recipe.played_reward), spec("integral")


def build_metadata(
    recipe: Recipe, bank: SimulatorBank, made: dict[str, Any], rows: Transitions, ours: dict[str, Any]
) -> dict[str, Any]:
    """Minari's `metadata.json`: plain JSON values only, for any other value makes Minari destroy the file.

    Args:
        recipe: With the id of the dataset as it is written.
        bank: The whole bank.
        made: What made it, and the `references` of a normalized score; specs name the first of its patients.
        rows: All of the dataset.
        ours: Our own block: what :func:`.transitions_of` needs, `content_hash`, and `bytes` of the HDF5 file.
    """
    import minari
    from minari.serialization import serialize_space

    from medgym_offline import __version__
    from medgym_offline.envs import TreatmentEnv

    spec, eval_spec = env_specs(recipe, bank.disease.name, bank.patients[made["patients"][0]])
    env = TreatmentEnv(**json.loads(spec)["kwargs"])
    references = made["references"]
    return {
        "dataset_id": recipe.id,
        "total_episodes": len(rows.episode_starts()),
        "total_steps": len(rows),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
        "env_spec": spec,
        "eval_env_spec": eval_spec,
        "minari_version": minari.__version__,
        "dataset_size": round(ours["bytes"] / 1e6, 1),
        "algorithm_name": recipe.behavior,
        "code_permalink": f"medgym-offline {code_version()}",
        "description": recipe.description,
        "requirements": [f"medgym-offline>={__version__}"],
        "ref_min_score": references["returns"].get("random"),
        "ref_max_score": references["returns"].get("expert"),
        "num_episodes_average_score": references["episodes"],
        "author": [AUTHOR],
        # Our own block: what the flat loader needs without the manifest.
        "medgym": ours,
    }


def facts(rows: Transitions) -> dict[str, Any]:
    """What a manifest says of the rows alone: patients, counts, lengths, returns and, of columns, their statistics.

    Minimum, maximum, mean and standard deviation; lists for columns of vectors.
    """
    starts, lengths = rows.episode_starts(), rows.episode_lengths()
    returns = np.add.reduceat(rows.rewards.astype(np.float64), starts)
    columns = {}
    for name in COLUMNS:
        array = getattr(rows, name)
        if name in ("patient", "episode") or np.isnan(array).any():
            continue  # NaN: probabilities of a behavior without noise
        numbers = {"min": array.min(0), "max": array.max(0)}
        numbers |= {"mean": array.mean(0, dtype=np.float64), "std": array.std(0, dtype=np.float64)}
        columns[name] = {k: np.round(np.asarray(v, np.float64), 6).tolist() for k, v in numbers.items()}
    return {
        "patients": rows.present.tolist(),
        "episodes": len(starts),
        "steps": len(rows),
        "episode_steps": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "episode_returns": {"mean": float(returns.mean()), "std": float(returns.std())},
        "columns": columns,
    }


def facts_differ(found: Any, stated: Any, name: str = "") -> str | None:
    """Name of the first entry in which stated facts are not those found, to 1e-5; None if all agree."""
    if isinstance(found, dict):
        if not isinstance(stated, dict) or found.keys() - stated.keys():
            return name
        differ = (facts_differ(found[key], stated[key], f"{name}.{key}" if name else key) for key in found)
        return next((entry for entry in differ if entry is not None), None)
    try:
        numbers = np.asarray(stated, np.float64)
    except (TypeError, ValueError):
        return name
    same = np.shape(numbers) == np.shape(found) and np.allclose(numbers, found, rtol=1e-5, atol=1e-5)
    return None if same else name


def write_namespace(root: str | Path | None, dataset: str) -> None:
    """Create Minari's `namespace_metadata.json` of a dataset's namespaces where it is missing."""
    for namespace in list(Path(dataset).parents)[:-1]:
        path = minari_root(root) / namespace / "namespace_metadata.json"
        if not path.exists():
            write_json(path, {"description": NAMESPACE_DESCRIPTION})


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
        who = behavior.to_json()
    elif (patients, episodes, release) == (None, None, False):
        from medgym_offline.datasets.charts import charted_episodes, read_charts

        recipe = dataclasses.replace(source, id=output_id or source.id)
        cohort = read_charts(recipe, bank.disease.name, records)
        charts = charted_episodes(recipe, cohort, bank)
        ids, chosen = charts.persons, list(range(len(charts.persons)))
        who = {"name": recipe.behavior, "sha256": cohort.content_hash}
    else:
        raise DatasetError(f"{source.id} is made from records: whole, and never shipped with a release")
    made: dict[str, Any] = {"generator": GENERATOR, "recipe": recipe.to_json(), "source": source.id}
    made |= {"patients": chosen, "behavior": who}
    source_of_bank = str(bank.metadata.get("source", ""))
    made["bank"] = {"name": bank.name, "content_hash": bank.content_hash, "source": source_of_bank}
    folder = dataset_folder(recipe.id, root)
    try:
        # A folder that cannot be written is noticed here, before minutes of work.
        with work_folder(folder) as work, atomic_path(folder) as temporary:
            if source.records:
                block = charts.block
                # Nobody's return is known but that of those who acted.
                mean = float(block.columns["rewards"].sum(dtype=np.float64)) / len(block.seeds)
                references: dict[str, Any] = {"returns": {"behavior": round(mean, 4)}, "expert": "", "episodes": 0}
                made["records"] = charts.facts
            else:
                identity = identity_of(made)
                block = played_episodes(
                    recipe, bank, chosen, behavior, source.stream, identity, work, workers, progress
                )
                references = reference_returns(recipe, bank, chosen, behavior, progress)
            manifest = _write(temporary, recipe, bank, made | {"references": references}, ids, block)
        write_namespace(root, recipe.id)
    except (OSError, RuntimeError) as error:
        # The HDF5 library reports a full disk as a RuntimeError where a file is closed.
        if not isinstance(error, OSError) and "errno" not in str(error):
            raise
        raise unwritten(folder, error) from error
    if release:
        write_json(release_folder("datasets") / f"{recipe.id.rpartition('/')[2]}.manifest.json", manifest)
    return GeneratedDataset(recipe.id, folder, manifest)


def _write(
    folder: Path, recipe: Recipe, bank: SimulatorBank, made: dict[str, Any], ids: tuple[str, ...], block: EpisodeBlock
) -> dict[str, Any]:
    """Write everything into a new folder and return the manifest.

    Args:
        folder: Not there yet.
        recipe: With the id and the number of episodes as written.
        bank: The whole bank.
        made: What made it, of which the identity is; `references` of a normalized score, and further facts.
        ids: That `patient` of the rows counts in.
        block: All episodes.
    """
    (folder / DATA_FILE).parent.mkdir(parents=True)
    write_episodes(folder / DATA_FILE, block, ids, bank.disease)
    ours = {name: getattr(recipe, name) for name in ("timing", "decisions", "reward")}
    ours |= {"patients": list(ids), "identity": identity_of(made), "disease": bank.disease.name}
    if recipe.records:
        ours |= {"view": recipe.view, "behavior_log_prob_estimated": True}
    rows = transitions_of(block.columns, {"dataset_id": recipe.id, "medgym": ours}).validate()
    content = content_hash(rows)
    # After the HDF5 file: a flat cache that is older is not trusted.
    write_flat(folder / flat_name(content), rows)
    ours |= {"content_hash": content, "bytes": (folder / DATA_FILE).stat().st_size}
    metadata = build_metadata(recipe, bank, made, rows, ours)
    # Minari rewrites this file in place when asked to update it; ours is complete from the start.
    (folder / METADATA).write_text(json_text(metadata), encoding="utf-8")
    manifest = {
        "format": "medgym-dataset/1",
        "id": rows.dataset_id,
        "disease": rows.disease,
        "identity": rows.identity,
        **made,
        **facts(rows),
        "content_hash": content,
        # Of records nothing goes where a manifest may go: a fingerprint keeps some episodes whole.
        "fingerprint": "" if recipe.records else Fingerprint.of(rows, block.seeds).to_text(),
        "env_spec": json.loads(metadata["env_spec"]),
        "eval_env_spec": json.loads(metadata["eval_env_spec"]),
        "code_version": code_version(),
        "files": {
            name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
            for name in (DATA_FILE, METADATA)
        },
    }
    (folder / MANIFEST).write_text(json_text(manifest), encoding="utf-8")
    (folder / "README.md").write_text(dataset_card(manifest), encoding="utf-8")
    return manifest
