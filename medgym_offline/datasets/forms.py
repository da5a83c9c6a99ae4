"""What the JSON files of a dataset must look like, checked before any of it is used.

They may have been edited, cut short, or made by somebody else. Entries that are not named here may stand beside those
that are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Json
from typing_extensions import NotRequired, TypedDict

from medgym_offline.config import CONFIG, check, read_json
from medgym_offline.errors import DatasetError

__all__ = ["DATA_FILE", "MANIFEST", "MANIFEST_FORMAT", "METADATA", "Manifest", "Metadata", "read_manifest"]

DATA_FILE, METADATA, MANIFEST = "data/main_data.hdf5", "data/metadata.json", "data/manifest.json"
"""Files of a dataset, below its folder: the rows, Minari's metadata, what we say of them."""
MANIFEST_FORMAT = "medgym-dataset/1"

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


class Returns(_Open):
    random: NotRequired[float]  # of records nobody knows any but the behavior's
    zero: NotRequired[float]
    behavior: float
    expert: NotRequired[float]


class References(_Open):
    returns: Returns
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


def read_manifest(path: str | Path, where: str = "", remedy: str = "regenerate the dataset") -> dict[str, Any]:
    """A manifest as JSON values, each of its type; else a `DatasetError` that names the file and the field.

    Args:
        path: The file.
        where: Names the source in the error instead of the file.
        remedy: What to do, for the error.
    """
    where = where or str(path)
    manifest = read_json(path, DatasetError, remedy, where)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != MANIFEST_FORMAT:
        raise DatasetError(f"{where}: format is {found!r}, expected {MANIFEST_FORMAT!r}; {remedy}")
    check(Manifest, manifest, where, DatasetError, remedy)
    for name in () if manifest["recipe"].get("records") else ("random", "zero", "expert"):
        if name not in manifest["references"]["returns"]:
            raise DatasetError(f"{where}: {f'references.returns.{name}'!r} is missing; {remedy}")
    for name in (DATA_FILE, METADATA):
        if name not in manifest["files"]:
            raise DatasetError(f"{where}: {f'files.{name}'!r} is missing; {remedy}")
    return manifest
