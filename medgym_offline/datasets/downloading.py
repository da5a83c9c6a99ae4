"""Download: a published dataset, checked against what this release says it is before it is put in place.

Files come into a hidden folder beside the dataset. It stays when a download is interrupted, so that the next one goes
on after the files that are complete, and is moved into place in one step when all are there and right.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgym_offline.datasets.catalogue import dataset_folder, local_ids, minari_root
from medgym_offline.datasets.forms import DATA_FILE, MANIFEST, METADATA, read_manifest
from medgym_offline.datasets.load import read_columns, transitions_of
from medgym_offline.datasets.manifest import write_namespace
from medgym_offline.datasets.recipes import UnknownDatasetError, is_id, known_recipe, list_recipes, unknown_dataset
from medgym_offline.datasets.remotes import Remote, RemoteError, parse_remote, remotes_of, split_id
from medgym_offline.datasets.trust import (
    check_metadata,
    compare_rows,
    damaged_files,
    departures,
    fetched_manifest,
    release_manifest,
)
from medgym_offline.errors import DatasetError
from medgym_offline.files import atomic_path

__all__ = ["Download", "download"]


@dataclass(frozen=True)
class Download:
    """What `download` did.

    Attributes:
        id: Dataset.
        path: Its folder.
        source: The remote it came from; `local` if it was here, `recipe` if it was regenerated.
        message: One line for a person.
    """

    id: str
    path: Path
    source: str
    message: str


def download(
    dataset: str,
    *,
    remotes: Sequence[str] | None = None,
    root: str | Path | None = None,
    force: bool = False,
    regenerate: bool = False,
    progress: bool = True,
) -> Download:
    """Bring a dataset to this machine, where Minari finds it.

    Args:
        dataset: Its id.
        remotes: `hf://ORG`, tried in order; default: `remotes_of()`.
        root: Folder of Minari datasets; Minari's own by default.
        force: Fetch it again although it is here and undamaged.
        regenerate: Make it from its recipe when no remote gives it.
        progress: Show progress on standard error.

    Raises:
        UnknownDatasetError: no such dataset, with the nearest ids.
        DatasetError: a remote that is no `hf://ORG`, no remote that gives the dataset (the line says why each did not,
            and offers to regenerate it), or a folder that cannot be written.
    """
    places = [parse_remote(place) for place in remotes_of(remotes)]
    folder, recipe = dataset_folder(dataset, root), known_recipe(dataset)
    here = (folder / "data").is_dir()
    unknown = unknown_dataset(dataset, sorted({*list_recipes(), *local_ids(root)}))
    asked = is_id(dataset) and (remotes or os.environ.get("MINARI_REMOTE"))
    if recipe is None and not here and not asked:
        raise unknown
    damaged = damaged_files(folder) if here else []
    if here and not damaged and not force:
        return Download(dataset, folder, "local", _already_here(dataset, folder))
    reasons: list[str] = []
    for remote in places:
        try:
            names = _fetch(remote, dataset, folder, progress)
        except RemoteError as error:
            reasons.append(str(error))
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            raise DatasetError(
                f"{folder}: cannot write the dataset ({error.strerror or error}{place}); free some space, or set "
                "MINARI_DATASETS_PATH to another folder, and run again: the files that came are kept"
            ) from error
        else:
            write_namespace(minari_root(root), dataset.rpartition("/")[0])
            repaired = f"; {', '.join(damaged)} had been damaged here" if damaged else ""
            return Download(dataset, folder, remote.url, f"{dataset} from {remote.url}, {names}: {folder}{repaired}")
    tried = "; ".join(reasons)
    if recipe is None:
        raise UnknownDatasetError(f"no remote gave {dataset}: {tried}; this release has no recipe: {unknown}")
    if not regenerate:
        raise DatasetError(
            f"no remote gave {dataset}: {tried}; name another with --remote, or make it from its recipe: "
            f"medgym-offline download {dataset} --regenerate"
        )
    from medgym_offline.datasets.generation import generate

    made = generate(dataset, root=root, progress=progress)
    text = f"no remote gave it ({tried}); regenerated {dataset}: {made.episodes:,} episodes in {made.path}"
    return Download(dataset, folder, "recipe", text)


def _already_here(dataset: str, folder: Path) -> str:
    release = release_manifest(dataset)
    wrong = departures(read_manifest(folder / MANIFEST), release) if release else []
    note = f"; it is not the one of this release: {wrong[0]}" if wrong else "; checksums agree"
    return f"{dataset} is already here: {folder}{note} (fetch it again with --force)"


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Hidden folder of what has come so far, held by one process; removed when the dataset is complete."""
    from filelock import FileLock, Timeout

    place = folder.parent / f".{folder.name}.download"
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / "lock", timeout=0):
            yield place
            shutil.rmtree(place, ignore_errors=True)
    except Timeout:
        raise DatasetError(f"{folder}: another process is downloading this dataset; wait for it to end") from None


def _fetch(remote: Remote, dataset: str, folder: Path, progress: bool) -> str:
    """Fetch, check and put in place; in words, what it was checked against."""
    repository, name = split_id(dataset)
    commit = remote.commit(repository)
    where = f"{remote.url} ({remote.organisation}/{repository} at {commit[:8]})"
    with _staging(folder) as work:
        came = work / name
        remote.fetch(repository, commit, [f"{name}/{MANIFEST}"], work, progress)
        if not (came / MANIFEST).is_file():
            raise RemoteError(f"{where} does not have it with a {MANIFEST}")
        try:
            manifest = fetched_manifest(came / MANIFEST, dataset, f"{where}: {MANIFEST}")
            release = release_manifest(dataset)
            if release is not None and (wrong := departures(manifest, release)):
                raise DatasetError(f"{where} holds another {dataset} than this release names: {wrong[0]}")
            wanted = (*manifest["files"], "README.md", "figures/*")
            remote.fetch(repository, commit, [f"{name}/{file}" for file in wanted], work, progress)
            if damaged := damaged_files(came):
                for file in damaged:
                    (came / file).unlink(missing_ok=True)
                raise DatasetError(f"{where}: {', '.join(damaged)}: missing or wrong checksum; run again to fetch anew")
            check_metadata(came / METADATA, manifest, where)
            if release is not None and manifest["files"][DATA_FILE] != release["files"][DATA_FILE]:
                # Other bytes (of another HDF5 library, another processor) may hold the release's rows.
                metadata = json.loads((came / METADATA).read_text(encoding="utf-8"))
                rows = transitions_of(read_columns(came / DATA_FILE, metadata)[0], metadata)
                if faults := compare_rows(rows, release).faults:
                    raise DatasetError(f"{where} holds other rows than this release: {faults[0]}")
        except RemoteError:
            raise
        except DatasetError as error:
            raise RemoteError(str(error)) from None
        with atomic_path(folder) as temporary:
            os.rename(came, temporary)
    return "as this release's manifest says" if release else "as its own manifest says (this release has none of it)"
