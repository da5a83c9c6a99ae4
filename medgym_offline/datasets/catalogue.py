"""Which datasets exist: the release's recipes and manifests, what lies in the local Minari folder, and their table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgym_offline.config import from_values
from medgym_offline.datasets.forms import DATA_FILE, MANIFEST, read_manifest
from medgym_offline.datasets.recipes import Recipe, UnknownDatasetError, known_recipe, list_recipes, unknown_dataset
from medgym_offline.errors import DatasetError
from medgym_offline.files import release_folder

__all__ = [
    "LISTED",
    "DatasetInfo",
    "dataset_folder",
    "dataset_info",
    "list_datasets",
    "listing_row",
    "listing_table",
    "local_folder",
    "minari_root",
    "normalized_score",
    "released_datasets",
    "unknown_id",
]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without reading its rows.

    Attributes:
        id: As `minari.load_dataset` and `load_dataset` take it.
        description: One sentence.
        episodes, steps: Counts; None for a dataset that was never generated here and ships no manifest.
        sha256: Of `main_data.hdf5`; None likewise.
        reference_returns: Mean undiscounted returns of `random`, `zero`, `behavior` and `expert`; empty likewise.
        timing, decisions, reward, bank, behavior: See `Recipe`.
        patients: Number of patients with episodes; None where unknown.
        identity: Hash of what made the rows, see `identity_of`; None where unknown.
        size: Bytes of its files; None where unknown.
        path: Local folder; None if it is not on this machine.
        records, license: See `Recipe`; "" for a dataset that is not made from records.
    """

    id: str
    description: str
    episodes: int | None = None
    steps: int | None = None
    sha256: str | None = None
    reference_returns: dict[str, float] = field(default_factory=dict)
    timing: str = "adaptive"
    decisions: int = 20
    reward: str = "integral"
    bank: str = ""
    behavior: str = ""
    patients: int | None = None
    identity: str | None = None
    size: int | None = None
    path: Path | None = None
    records: str = ""
    license: str = ""


def minari_root(root: str | Path | None = None) -> Path:
    """Folder of local Minari datasets: `root`, or Minari's own (`$MINARI_DATASETS_PATH`, `~/.minari/datasets`)."""
    if root is not None:
        return Path(root)
    from minari.storage import get_dataset_path

    try:
        return Path(get_dataset_path())  # which makes it
    except OSError as error:
        wrong = f"{error.filename}: the folder of datasets cannot be made ({error.strerror})"
        raise DatasetError(f"{wrong}; set MINARI_DATASETS_PATH to one that can be written") from None


def dataset_folder(dataset: str, root: str | Path | None = None) -> Path:
    """Local folder of a dataset id (it need not exist); `DatasetError` for an id that is no text."""
    if not isinstance(dataset, str) or "\0" in dataset:
        raise DatasetError(f"dataset id {dataset!r} is not of the form namespace/name-vN")
    return minari_root(root) / dataset


def local_folder(dataset: str, root: str | Path | None = None) -> Path:
    """Folder of a dataset that is on this machine.

    Raises:
        UnknownDatasetError: no such dataset, with the nearest ids.
        DatasetError: it is not here; says how to make it.
    """
    folder = dataset_folder(dataset, root)
    if not (folder / "data").is_dir():
        if known_recipe(dataset) is None:
            raise unknown_id(dataset, root)
        raise DatasetError(f"{dataset} is not on this machine ({folder}); make it: medgym-offline generate {dataset}")
    return folder


def unknown_id(dataset: str, root: str | Path | None = None) -> UnknownDatasetError:
    """Error for an id of which there is neither a recipe nor a folder, with the nearest ids."""
    return unknown_dataset(dataset, {*list_recipes(), *local_ids(root)})


def local_ids(root: str | Path | None = None) -> list[str]:
    """Ids of the datasets of this project's namespace in the local Minari folder, in alphabetical order."""
    base = minari_root(root)
    manifests = (base / "medgym").glob("*/data/manifest.json")
    return sorted(m.parent.parent.relative_to(base).as_posix() for m in manifests if m.parent.parent.name[0] != ".")


def _info(recipe: Recipe, manifest: dict[str, Any] | None, path: Path | None = None) -> DatasetInfo:
    names = ("id", "description", "timing", "decisions", "reward", "bank", "behavior", "license")
    known: dict[str, Any] = {name: getattr(recipe, name) for name in names} | {"records": ", ".join(recipe.records)}
    if manifest is not None:
        known |= {name: manifest[name] for name in ("episodes", "steps", "identity")}
        known |= {"patients": len(manifest["patients"]), "reference_returns": manifest["references"]["returns"]}
        known["sha256"] = manifest["files"][DATA_FILE]["sha256"]
        known["size"] = sum(file["bytes"] for file in manifest["files"].values())
    return DatasetInfo(**known, path=path)


def dataset_info(dataset: str, root: str | Path | None = None) -> DatasetInfo:
    """What is known of one dataset: from its local manifest, else the release's, else its recipe.

    Raises:
        UnknownDatasetError: no such id, with the nearest ones.
    """
    folder = dataset_folder(dataset, root)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder / MANIFEST)
        recipe = from_values(Recipe, manifest["recipe"] | {"id": dataset}, f"manifest of {dataset}")
        return _info(recipe, manifest, folder)
    if (known := known_recipe(dataset)) is None:
        raise unknown_id(dataset, root)
    return _released(known)


def _released(recipe: Recipe) -> DatasetInfo:
    manifest = release_folder("datasets") / f"{recipe.name}.manifest.json"
    return _info(recipe, read_manifest(manifest) if manifest.is_file() else None)


def list_datasets(root: str | Path | None = None) -> list[DatasetInfo]:
    """The release's datasets and the local ones of its namespace, in alphabetical order of their ids."""
    return [dataset_info(name, root) for name in sorted({*list_recipes(records=True), *local_ids(root)})]


def released_datasets() -> list[DatasetInfo]:
    """The release's datasets as its recipes and manifests say, whatever lies on this machine."""
    return [_released(recipe) for recipe in list_recipes().values()]


LISTED = ("id", "policy", "timing", "episodes", "decisions", "MB", "random", "behavior", "expert", "score")
"""Columns of a listing: returns are means per episode, `score` is the behavior's normalized score."""


def normalized_score(returns: dict[str, float], key: str) -> float | None:
    """100 (return - random) / (expert - random) of one of the reference returns; None where that is not defined."""
    if not {key, "random", "expert"} <= returns.keys() or returns["expert"] == returns["random"]:
        return None
    return 100.0 * (returns[key] - returns["random"]) / (returns["expert"] - returns["random"])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def listing_row(info: DatasetInfo) -> tuple[str, ...]:
    """Cells of one dataset, in the order of `LISTED`; empty where nothing is known."""
    returns = info.reference_returns
    parts = info.behavior.split(" + ")
    return (
        info.id,
        info.behavior if len(parts) == 1 else f"mix of {len(parts)}",
        info.timing,
        _number(info.episodes, ","),
        _number(info.steps, ","),
        _number(None if info.size is None else info.size / 1e6, ".1f"),
        *(_number(returns.get(key), ".1f") for key in ("random", "behavior", "expert")),
        _number(normalized_score(returns, "behavior"), ".0f"),
    )


def listing_table(infos: Iterable[DatasetInfo]) -> str:
    """A markdown table of the datasets that have a manifest, one line each."""
    lines = ["| " + " | ".join(LISTED) + " |", "|" + "-|" * 3 + "-:|" * (len(LISTED) - 3)]
    for info in infos:
        if info.episodes is not None:
            name, *cells = listing_row(info)
            lines.append("| " + " | ".join((f"`{name}`", *cells)) + " |")
    return "\n".join(lines)
