"""Which datasets exist: the release's recipes and manifests, what lies in the local Minari folder, and their table.

The JSON files of a dataset are checked before any of it is used: they may have been edited, cut short, or made by
somebody else. Entries that are not named here may stand beside those
that are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Json
from typing_extensions import NotRequired, TypedDict

from medgym_offline.config import CONFIG, check, from_values, read_json
from medgym_offline.datasets.recipes import Recipe, UnknownDatasetError, known_recipe, list_recipes, unknown_dataset
from medgym_offline.diseases.registry import list_diseases
from medgym_offline.errors import DatasetError, unknown_name
from medgym_offline.files import release_folder

__all__ = [
    "DATA_FILE", "DatasetInfo", "LISTED", "MANIFEST", "METADATA", "Manifest", "Metadata", "SCORED", "dataset_folder",
    "dataset_info", "list_datasets", "listing_row", "listing_table", "local_folder", "minari_root", "normalized_score",
    "read_manifest", "read_metadata", "release_manifest", "released_datasets", "unknown_id",
]  # fmt: skip

DATA_FILE, METADATA, MANIFEST = "data/main_data.hdf5", "data/metadata.json", "data/manifest.json"
"""Files of a dataset, below its folder: the rows, Minari's metadata, what we say of them."""
SCORED = ("random", "zero", "behavior", "expert")
"""Whose returns a manifest states."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
# Beyond 64 bits nothing here is a count, and NumPy would fail on it.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Below = Annotated[str, Field(pattern=r"^data/[^/\\]+\z")]


class _Open(TypedDict):
    """An object that may have more entries than are named."""

    __pydantic_config__ = ConfigDict(**CONFIG | {"extra": "allow"})  # type: ignore[misc]


class Checksum(_Open):
    sha256: Sha256
    bytes: Count


class References(_Open):
    returns: dict[str, float]
    expert: str
    episodes: Count


class Steps(_Open):
    min: Count
    mean: float
    max: Count


class Spread(_Open):
    mean: float
    std: float


class MadeOf(_Open):
    name: str
    content_hash: str
    source: str


class MadeBy(_Open):
    name: str
    sha256: str


class Manifest(_Open):
    """`data/manifest.json`: what made a dataset, what it is, and a checksum of every file."""

    format: Literal["medgym-dataset/1"]
    id: str
    disease: str
    recipe: dict[str, Any]
    generator: Count
    identity: Sha256
    source: str
    patients: list[Count]
    episodes: Count
    steps: Count
    episode_steps: Steps
    episode_returns: Spread
    content_hash: Sha256
    fingerprint: str
    columns: dict[str, dict[str, Any]]
    references: References
    env_spec: dict[str, Any]
    eval_env_spec: dict[str, Any]
    bank: MadeOf
    behavior: MadeBy
    code_version: str
    files: dict[Below, Checksum]


class Ours(_Open):
    """Our block of Minari's metadata."""

    patients: Annotated[list[str], Field(min_length=1)]
    disease: str
    timing: Literal["adaptive", "fixed"]
    decisions: Count
    identity: Sha256
    content_hash: Sha256
    bytes: Count
    view: NotRequired[str]


class Metadata(_Open):
    """What we read of Minari's `data/metadata.json`."""

    dataset_id: str
    total_episodes: Count
    total_steps: Count
    env_spec: Json[dict[str, Any]]
    eval_env_spec: Json[dict[str, Any]]
    medgym: Ours


def read_manifest(folder: Path, where: str = "", remedy: str = "regenerate the dataset") -> dict[str, Any]:
    """The manifest of a dataset as JSON values, each of its type; else a `DatasetError` with the file and the field.

    Args:
        folder: Of the dataset.
        where: Names the source in the error instead of the file.
        remedy: What to do, for the error.
    """
    return _manifest(folder / MANIFEST, where or str(folder / MANIFEST), remedy)


def _manifest(path: Path, where: str, remedy: str = "regenerate the dataset") -> dict[str, Any]:
    manifest: dict[str, Any] = check(
        Manifest, read_json(path, DatasetError, remedy, where), where, DatasetError, remedy
    )
    # Of records nobody knows any return but the behavior's.
    policies = ("behavior",) if manifest["recipe"].get("records") else SCORED
    missing = [f"references.returns.{name}" for name in policies if name not in manifest["references"]["returns"]]
    missing += [f"files.{name}" for name in (DATA_FILE, METADATA) if name not in manifest["files"]]
    if missing:
        raise DatasetError(f"{where}: {missing[0]!r} is missing; {remedy}")
    return manifest


def release_manifest(dataset: str) -> dict[str, Any] | None:
    """The manifest that this release ships for a dataset; None if it ships none."""
    path = release_folder("datasets") / f"{dataset.rpartition('/')[2]}.manifest.json"
    manifest = _manifest(path, str(path)) if path.is_file() else None
    return manifest if manifest and manifest["id"] == dataset else None


def read_metadata(folder: Path, where: str = "", remedy: str = "regenerate the dataset") -> dict[str, Any]:
    """Minari's metadata of a dataset folder of ours, the environments' specs as objects; errors as `read_manifest`."""
    where = where or str(folder / METADATA)
    metadata = read_json(folder / METADATA, DatasetError, remedy, where)
    if not isinstance(metadata, dict) or "medgym" not in metadata:
        raise DatasetError(f"{where}: no 'medgym' block, so not a dataset of ours; read it with minari.load_dataset")
    found: dict[str, Any] = check(Metadata, metadata, where, DatasetError, remedy)
    if (named := found["medgym"]["disease"]) not in list_diseases():
        raise DatasetError(f"{where}: {unknown_name('disease', named, list_diseases())}; install its package")
    return found


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
        manifest = read_manifest(folder)
        recipe = from_values(Recipe, manifest["recipe"] | {"id": dataset}, f"manifest of {dataset}")
        return _info(recipe, manifest, folder)
    if (known := known_recipe(dataset)) is None:
        raise unknown_id(dataset, root)
    return _info(known, release_manifest(dataset))


def list_datasets(root: str | Path | None = None) -> list[DatasetInfo]:
    """The release's datasets and the local ones of its namespace, in alphabetical order of their ids."""
    return [dataset_info(name, root) for name in sorted({*list_recipes(records=True), *local_ids(root)})]


def released_datasets() -> list[DatasetInfo]:
    """The release's datasets as its recipes and manifests say, whatever lies on this machine."""
    return [_info(recipe, release_manifest(name)) for name, recipe in list_recipes().items()]


LISTED = ("id", "policy", "timing", "episodes", "decisions", "MB", "random", "behavior", "expert", "score")
"""Columns of a listing: returns are means per episode, `score` is the behavior's normalized score."""


def normalized_score(returns: dict[str, float], key: str) -> float | None:
    """100 (return - random) / (expert - random) of one of the reference returns; None where that is not defined."""
    if not {key, "random", "expert"} <= returns.keys() or returns["expert"] == returns["random"]:
        return None
    return 100.0 * (returns[key] - returns["random"]) / (returns["expert"] - returns["random"])


def listing_row(info: DatasetInfo) -> tuple[str, ...]:
    """Cells of one dataset, in the order of `LISTED`; empty where nothing is known."""
    returns, parts = info.reference_returns, info.behavior.split(" + ")
    numbers = [(info.episodes, ","), (info.steps, ","), (None if info.size is None else info.size / 1e6, ".1f")]
    numbers += [(returns.get(key), ".1f") for key in ("random", "behavior", "expert")]
    numbers.append((normalized_score(returns, "behavior"), ".0f"))
    shown = ["" if value is None else format(value, form) for value, form in numbers]
    return info.id, info.behavior if len(parts) == 1 else f"mix of {len(parts)}", info.timing, *shown


def listing_table(infos: Iterable[DatasetInfo]) -> str:
    """A markdown table of the datasets that have a manifest, one line each."""
    lines = ["| " + " | ".join(LISTED) + " |", "|" + "-|" * 3 + "-:|" * (len(LISTED) - 3)]
    for info in infos:
        if info.episodes is not None:
            name, *cells = listing_row(info)
            lines.append("| " + " | ".join((f"`{name}`", *cells)) + " |")
    return "\n".join(lines)
