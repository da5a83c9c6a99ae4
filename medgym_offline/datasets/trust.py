"""What a dataset is, and whether a copy of it may be believed.

Rows come out again to the last stored digit on almost every machine, and nowhere further than rounding, so their bytes
are no name for a dataset. What made them is: the recipe, the bank, the behavior, and the rules of generation.
Whether a copy really has those rows is another question, answered by its fingerprint (:mod:`.fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.config import check, read_json
from medgym_offline.datasets.fingerprint import Comparison, Fingerprint
from medgym_offline.datasets.forms import DATA_FILE, MANIFEST, Metadata, read_manifest
from medgym_offline.datasets.recipes import known_recipe, stream_of
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.files import release_folder, sha256_file

__all__ = [
    "GENERATOR",
    "check_metadata",
    "compare_rows",
    "damaged_files",
    "departures",
    "fetched_manifest",
    "identity_of",
    "made_differently",
    "metadata_differs",
    "recipe_seeds",
    "release_manifest",
    "require_release_rows",
]


GENERATOR = 3
"""Version of the rules by which a recipe becomes rows. Whoever changes what any recipe gives, beyond the tolerance of
the fingerprint, raises it. 1: integrated and sampled in float32; 2: in float64, stored as float32; 3: costs along the
path and the behavior's log-probabilities are columns."""

_LABELS = ("id", "description", "bank", "behavior", "records", "license")
"""Fields of a recipe that are names; what they name is in the identity by its hash."""


def _parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in manifest["recipe"].items() if name not in _LABELS}
    return {
        "generator": manifest["generator"],
        "random streams": manifest["source"],
        **{f"recipe field {name}": value for name, value in recipe.items()},
        "patients": list(manifest["patients"]),
        "bank": manifest["bank"]["content_hash"],
        "behavior": manifest["behavior"]["sha256"],
    }


def identity_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what made a dataset; the id it is stored under is not part of it.

    Args:
        manifest: With `generator`, `source` (the id that names the random streams), `recipe`, `patients` (indices in
            the bank), and the hashes of `bank` and `behavior`.
    """
    return hashlib.sha256(json.dumps(_parts(manifest), sort_keys=True).encode()).hexdigest()


def made_differently(manifest: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    """What differs in the making of two datasets, in words: `bank sepsis-v0 (3f2a.. here, 9c01.. there)`; may be empty.

    Args:
        manifest, release: Of the one here, and of the one it should be.
    """
    ours, theirs = _parts(manifest), _parts(release)
    lines = []
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        if one != other:
            label = f"{name} {manifest[name]['name']}" if name in ("bank", "behavior") else name
            lines.append(f"{label} ({_short(one)} here, {_short(other)} there)")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}.."


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


def metadata_differs(metadata: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Names of entries in which Minari's metadata, as :class:`.forms.Metadata`, are not those of the manifest."""
    same = {"dataset_id": "id", "total_episodes": "episodes", "total_steps": "steps"}
    same |= {name: name for name in ("env_spec", "eval_env_spec", "identity", "content_hash")}
    wanted = {name: manifest[stated] for name, stated in same.items()}
    wanted |= {"bytes": manifest["files"][DATA_FILE]["bytes"]}
    stated = {**metadata, **metadata["medgym"]}
    return [name for name, value in wanted.items() if stated[name] != value]


def check_metadata(path: Path, manifest: dict[str, Any], where: str) -> None:
    """Minari's metadata of a fetched dataset names the manifest's environment and counts; else a `DatasetError`.

    `recover_environment` imports what these specs name, so they are looked at before they can be used.
    """
    where = f"{where}: metadata.json"
    found = check(Metadata, read_json(path, DatasetError, where=where), where, DatasetError)
    if wrong := metadata_differs(found, manifest):
        raise DatasetError(f"{where} and the manifest disagree on {wrong[0]!r}")
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
