"""What a manifest from elsewhere must be before anything it names is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medgym_offline.datasets.catalogue import DATA_FILE, MANIFEST_FORMAT, read_manifest
from medgym_offline.datasets.fields import MANIFEST, check_fields
from medgym_offline.datasets.fingerprint import Comparison, Fingerprint
from medgym_offline.datasets.identity import GENERATOR, made_differently
from medgym_offline.datasets.recipes import known_recipe, stream_of
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import release_folder, sha256_file

__all__ = [
    "check_manifest",
    "check_metadata",
    "compare_rows",
    "damaged_files",
    "departures",
    "fetched_manifest",
    "not_the_releases",
    "recipe_seeds",
    "release_manifest",
    "require_release_rows",
    "same_bytes",
]

_FIXED = ("id", "identity", "episodes", "steps", "env_spec", "eval_env_spec")


def release_manifest(dataset: str) -> dict[str, Any] | None:
    """The manifest that this release ships for a dataset; None if it ships none."""
    recipe = known_recipe(dataset)
    if recipe is None:
        return None
    path = release_folder("datasets") / f"{recipe.name}.manifest.json"
    return read_manifest(path) if path.is_file() else None


def fetched_manifest(path: Path, dataset: str, where: str) -> dict[str, Any]:
    """A manifest that came from elsewhere, as `check_manifest` wants it; errors name `where`, not the file here."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: not readable as JSON ({error})") from None
    return check_manifest(manifest, dataset, where)


def check_manifest(manifest: Any, dataset: str, where: str) -> dict[str, Any]:
    """A manifest whose fields have the right types and that is of `dataset`; else a `DatasetError` naming the field.

    Args:
        manifest: JSON values from anywhere.
        dataset: Id it should have.
        where: Names the source in the error.
    """
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if found != MANIFEST_FORMAT:
        raise DatasetError(f"{where}: format is {found!r}, expected {MANIFEST_FORMAT!r}")
    check_fields(manifest, MANIFEST, where, "it cannot be used")
    if manifest["id"] != dataset:
        raise DatasetError(f"{where}: it is the manifest of {manifest['id']!r}")
    for name in manifest["files"]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != ("data",):
            raise DatasetError(f"{where}: files names {name!r}, which is not below data/")
    return manifest


def not_the_releases(manifest: dict[str, Any], dataset: str) -> list[str]:
    """What made a dataset otherwise than this release makes the one of that id, in words; empty if nothing did.

    Args:
        manifest: Of the dataset.
        dataset: Id; without a recipe in this release, nothing is compared.
    """
    recipe = known_recipe(dataset)
    if recipe is None:
        return []
    made = {"recipe": recipe.to_json(), "source": recipe.id, "generator": GENERATOR}
    return made_differently(manifest, {**(release_manifest(dataset) or manifest), **made})


def departures(manifest: dict[str, Any], release: dict[str, Any]) -> list[str]:
    """In what a dataset is not the one the release names, in words: what made it, or a field of the manifest.

    Versions of code and packages may differ, and with them the bytes of its files. Whether its rows are the release's
    is :func:`compare_rows`.
    """
    different = made_differently(manifest, release)
    return different or [f"{name} differs" for name in _FIXED if manifest[name] != release[name]]


def same_bytes(manifest: dict[str, Any], release: dict[str, Any]) -> bool:
    """Whether the rows are stored in the very bytes of the release's file."""
    return bool(manifest["files"][DATA_FILE] == release["files"][DATA_FILE])


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
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        found = {
            "dataset_id": metadata["dataset_id"],
            "total_episodes": metadata["total_episodes"],
            "total_steps": metadata["total_steps"],
            "env_spec": json.loads(metadata["env_spec"]),
            "eval_env_spec": json.loads(metadata["eval_env_spec"]),
            "identity": metadata["medgym"]["identity"],
            "content_hash": metadata["medgym"]["content_hash"],
            "bytes": metadata["medgym"]["bytes"],
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{where}: metadata.json is not one of this project's ({type(error).__name__}: {error})"
        ) from None
    wanted = {
        "dataset_id": manifest["id"],
        "total_episodes": manifest["episodes"],
        "total_steps": manifest["steps"],
        "env_spec": manifest["env_spec"],
        "eval_env_spec": manifest["eval_env_spec"],
        "identity": manifest["identity"],
        "content_hash": manifest["content_hash"],
        "bytes": manifest["files"][DATA_FILE]["bytes"],
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise DatasetError(f"{where}: metadata.json and the manifest disagree on {name!r}")
    for name in ("env_spec", "eval_env_spec"):
        for point in ("entry_point", "vector_entry_point"):
            entry = found[name].get(point)
            if not isinstance(entry, str) or not entry.startswith("medgym_offline.envs:"):
                raise DatasetError(f"{where}: {name} has the {point} {entry!r}, which is not of this package")


def damaged_files(folder: Path) -> list[str]:
    """Files of a local dataset that are missing or do not have the bytes its own manifest states."""
    try:
        manifest = read_manifest(folder / "data" / "manifest.json")
        entries = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except MedGymError:
        return ["data/manifest.json"]
    wrong = []
    for name, wanted in entries.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != wanted:
            wrong.append(name)
    return wrong
