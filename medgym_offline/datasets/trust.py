"""What a manifest from elsewhere must be before anything it names is believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.config import check, read_json
from medgym_offline.datasets.fingerprint import Comparison, Fingerprint
from medgym_offline.datasets.forms import DATA_FILE, MANIFEST, Metadata, read_manifest
from medgym_offline.datasets.identity import GENERATOR, made_differently
from medgym_offline.datasets.recipes import known_recipe, stream_of
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.files import release_folder, sha256_file

__all__ = [
    "check_metadata",
    "compare_rows",
    "damaged_files",
    "departures",
    "fetched_manifest",
    "recipe_seeds",
    "release_manifest",
    "require_release_rows",
]


def release_manifest(dataset: str) -> dict[str, Any] | None:
    """The manifest that this release ships for a dataset; None if it ships none."""
    recipe = known_recipe(dataset)
    if recipe is None:
        return None
    path = release_folder("datasets") / f"{recipe.name}.manifest.json"
    return read_manifest(path) if path.is_file() else None


def fetched_manifest(path: Path, dataset: str, where: str) -> dict[str, Any]:
    """A manifest that came from elsewhere and is of `dataset`; errors name `where`, not the file here."""
    manifest = read_manifest(path, where, "it cannot be used")
    if manifest["id"] != dataset:
        raise DatasetError(f"{where}: it is the manifest of {manifest['id']!r}")
    return manifest


def departures(manifest: dict[str, Any], dataset: str) -> list[str]:
    """What made a dataset otherwise than this release makes the one of that id, in words; empty if nothing did.

    Versions of code and packages may differ, and with them the bytes of its files. Whether its rows are the release's
    is :func:`compare_rows`.

    Args:
        manifest: Of the dataset.
        dataset: Id; without a recipe in this release, nothing is compared.
    """
    recipe, release = known_recipe(dataset), release_manifest(dataset)
    if recipe is None:
        return []
    made = {"recipe": recipe.to_json(), "source": recipe.id, "generator": GENERATOR}
    different = made_differently(manifest, {**(release or manifest), **made})
    return different or made_differently(manifest, release or manifest)


def recipe_seeds(manifest: dict[str, Any], patients: Sequence[str]) -> np.ndarray:
    """(E,) seeds of all episodes of a dataset, as its recipe gives them.

    Args:
        manifest: Of the dataset.
        patients: Ids of its patients, in order.
    """
    from medgym_offline.envs.rollout import episode_seeds

    recipe = manifest["recipe"]
    return episode_seeds(recipe["seed"], stream_of(manifest["source"]), patients, recipe["episodes"]).reshape(-1)


def compare_rows(rows: Transitions, release: dict[str, Any]) -> Comparison:
    """Rows of a copy against the fingerprint of the release's manifest."""
    fingerprint = Fingerprint.from_text(release["fingerprint"], f"the release's manifest of {release['id']}")
    if (seeds := recipe_seeds(release, rows.present_ids)).shape != (len(rows.episode_starts()),):
        seeds = np.zeros(len(rows.episode_starts()), np.int64)  # another number of episodes: no seed fits
    return fingerprint.compare(rows, seeds)


def require_release_rows(rows: Transitions) -> None:
    """Refuse rows that are not the release's, where the release has a dataset of this id.

    Raises:
        DatasetError: with the first difference, and what to do.
    """
    release = release_manifest(rows.dataset_id)
    if release is None:
        return
    remedy = f"make it again: medgym-offline generate {rows.dataset_id}"
    if rows.identity != release["identity"]:
        raise DatasetError(f"{rows.dataset_id} on this machine was made by other means than the release's; {remedy}")
    if faults := compare_rows(rows, release).faults:
        raise DatasetError(f"{rows.dataset_id} on this machine has other rows than the release: {faults[0]}; {remedy}")


def check_metadata(path: Path, manifest: dict[str, Any], where: str) -> None:
    """Minari's metadata of a fetched dataset names the manifest's environment and counts; else a `DatasetError`.

    `recover_environment` imports what these specs name, so they are looked at before they can be used.
    """
    where = f"{where}: metadata.json"
    found = check(Metadata, read_json(path, DatasetError, where=where), where, DatasetError)
    same = {"dataset_id": "id", "total_episodes": "episodes", "total_steps": "steps"}
    same |= {name: name for name in ("env_spec", "eval_env_spec", "identity", "content_hash")}
    wanted = {name: manifest[stated] for name, stated in same.items()}
    for name, value in (wanted | {"bytes": manifest["files"][DATA_FILE]["bytes"]}).items():
        if {**found, **found["medgym"]}[name] != value:
            raise DatasetError(f"{where} and the manifest disagree on {name!r}")
    for name in ("env_spec", "eval_env_spec"):
        for point in ("entry_point", "vector_entry_point"):
            entry = found[name].get(point)
            if not isinstance(entry, str) or not entry.startswith("medgym_offline.envs:"):
                raise DatasetError(f"{where}: {name} has the {point} {entry!r}, which is not of this package")


def damaged_files(folder: Path) -> list[str]:
    """Files of a dataset's folder that are missing or do not have the bytes its own manifest states."""
    try:
        stated = read_manifest(folder / MANIFEST)["files"]
    except DatasetError:
        return [MANIFEST]
    files = {name: folder / name for name in stated}
    return [n for n, file in files.items() if not file.is_file() or sha256_file(file) != stated[n]["sha256"]]
