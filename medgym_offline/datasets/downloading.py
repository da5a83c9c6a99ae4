"""Download: a published dataset, checked against what this release says it is before it is put in place.

Files are kept by their checksums in a hidden folder beside the dataset until all are there and right. An interrupted
download therefore goes on where it stopped, from any mirror; the finished folder is moved into place in one step.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.datasets.catalogue import DATA_FILE, dataset_folder, local_ids, minari_root, read_manifest
from medgym_offline.datasets.load import read_columns, transitions_of
from medgym_offline.datasets.manifest import write_namespace
from medgym_offline.datasets.recipes import known_recipe, list_recipes, unknown_dataset
from medgym_offline.datasets.remotes import RemoteError, RemoteFile, Snapshot, fetch, parse_remote, split_id
from medgym_offline.datasets.trust import (
    check_metadata,
    compare_rows,
    damaged_files,
    departures,
    fetched_manifest,
    release_manifest,
    same_bytes,
)
from medgym_offline.errors import DatasetError, UnknownNameError
from medgym_offline.files import atomic_path
from medgym_offline.progress import Progress

__all__ = ["DEFAULT_REMOTES", "Download", "download", "remotes_of"]

DEFAULT_REMOTES = ("hf://medgym", "hf://farama-minari")
"""Where datasets are looked for, in order, after `$MINARI_REMOTE`: the project's own place and Minari's."""

ATTEMPTS = 3
"""Times a file is fetched whose bytes are not the right ones."""

MANIFEST = "data/manifest.json"


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


def remotes_of(remotes: Sequence[str] | None = None) -> list[str]:
    """Remotes to try, in order: those given, else `$MINARI_REMOTE` and then the project's."""
    if remotes:
        return list(remotes)
    own = os.environ.get("MINARI_REMOTE")
    return list(dict.fromkeys([*([own] if own else []), *DEFAULT_REMOTES]))


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
    places = remotes_of(remotes)
    parsed = [parse_remote(place) for place in places]
    folder = dataset_folder(dataset, root)
    asked = bool(remotes or os.environ.get("MINARI_REMOTE"))
    recipe = known_recipe(dataset)
    here = (folder / "data").is_dir()
    known = sorted({*list_recipes(), *local_ids(root)})
    if recipe is None and not here and (not asked or not _is_an_id(dataset)):
        raise unknown_dataset(dataset, known)
    damaged = damaged_files(folder) if here else []
    if here and not damaged and not force:
        return Download(dataset, folder, "local", _already_here(dataset, folder))
    reasons: list[str] = []
    for remote in parsed:
        try:
            names = _from_remote(remote.snapshot(split_id(dataset)[0]), dataset, folder, minari_root(root), progress)
        except UnknownNameError as error:
            if recipe is None:
                raise
            reasons.append(f"{remote.url} ({error})")
        except RemoteError as error:
            reasons.append(str(error))
        except OSError as error:
            raise _cannot_write(folder, error) from error
        else:
            repaired = f"; {', '.join(damaged)} had been damaged here" if damaged else ""
            return Download(dataset, folder, remote.url, f"{dataset} from {remote.url}, {names}: {folder}{repaired}")
    tried = "; ".join(reasons)
    if recipe is None:
        raise DatasetError(
            f"no remote gave {dataset}: {tried}; this release has no recipe: {unknown_dataset(dataset, known)}"
        )
    if not regenerate:
        raise DatasetError(
            f"no remote gave {dataset}: {tried}; name another with --remote, or make it from its recipe: "
            f"medgym-offline download {dataset} --regenerate"
        )
    from medgym_offline.datasets.generation import generate

    made = generate(dataset, root=root, progress=progress)
    text = f"no remote gave it ({tried}); regenerated {dataset}: {made.episodes:,} episodes in {made.path}"
    return Download(dataset, folder, "recipe", text)


def _is_an_id(dataset: str) -> bool:
    from medgym_offline.datasets.recipes import _ID

    return _ID.fullmatch(dataset) is not None and ".." not in dataset.split("/")


def _already_here(dataset: str, folder: Path) -> str:
    release = release_manifest(dataset)
    wrong = departures(read_manifest(folder / MANIFEST), release) if release else []
    note = f"; it is not the one of this release: {wrong[0]}" if wrong else "; checksums agree"
    return f"{dataset} is already here: {folder}{note} (fetch it again with --force)"


def _cannot_write(folder: Path, error: OSError) -> DatasetError:
    place = f": {error.filename}" if error.filename else ""
    return DatasetError(
        f"{folder}: cannot write the dataset ({error.strerror or error}{place}); free some space, or set "
        "MINARI_DATASETS_PATH to another folder, and run again: what came is kept"
    )


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Hidden folder of what has come so far, held by one process; removed when the dataset is complete."""
    from filelock import FileLock, Timeout

    place = folder.parent / f".{folder.name}.download"
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DatasetError(f"{folder}: another process is downloading this dataset; wait for it to end") from None
    try:
        yield place
        shutil.rmtree(place, ignore_errors=True)
    finally:
        lock.release()


def _from_remote(snapshot: Snapshot, dataset: str, folder: Path, base: Path, progress: bool) -> str:
    """Fetch, check and put in place; in words, what it was checked against."""
    where = f"{snapshot.remote} ({snapshot.repository} at {snapshot.commit[:8]})"
    files = snapshot.files(split_id(dataset)[1])
    # A flat cache that someone uploaded has no checksum in the manifest and is rebuilt anyway.
    files = {name: file for name, file in files.items() if not name.startswith(("flat-", "."))}
    if MANIFEST not in files:
        listed = snapshot.read_json("namespace_metadata.json")
        ids = listed.get("datasets") if isinstance(listed, dict) else None
        names = [name for name in ids if isinstance(name, str)] if isinstance(ids, list) else []
        if files:
            raise RemoteError(f"{where} has {dataset} without {MANIFEST}, so its bytes cannot be checked")
        if known_recipe(dataset) is None:
            raise unknown_dataset(dataset, sorted({*names, *list_recipes()}))
        raise RemoteError(f"{where} does not have it")
    with _staging(folder) as work:
        total = sum(file.bytes for file in files.values())
        _require_space(folder, total - sum(p.stat().st_size for p in work.iterdir()))
        with Progress(f"downloading {dataset} (bytes)", total, enabled=progress) as bar:
            release = release_manifest(dataset)
            manifest_file = _bring(snapshot, files[MANIFEST], folder / MANIFEST, work, bar)
            try:
                manifest = fetched_manifest(manifest_file, dataset, f"{where}: {MANIFEST}")
                if release is not None and (wrong := departures(manifest, release)):
                    raise DatasetError(f"{where} holds another {dataset} than this release names: {wrong[0]}")
                wanted = _expected(files, manifest, where)
                objects = {name: _bring(snapshot, f, folder / name, work, bar) for name, f in wanted.items()}
                check_metadata(objects["data/metadata.json"], manifest, where)
                if release is not None and not same_bytes(manifest, release):
                    _check_rows(objects, release, where)
            except RemoteError:
                raise
            except DatasetError as error:
                raise RemoteError(str(error)) from None
        with atomic_path(folder) as temporary:
            for name, source in objects.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                _place(source, temporary / name, fetched=source.parent == work)
        write_namespace(base, dataset.rpartition("/")[0])
    return "as this release's manifest says" if release else "as its own manifest says (this release has none of it)"


def _check_rows(objects: dict[str, Path], release: dict[str, Any], where: str) -> None:
    """Rows in other bytes than the release's (of another HDF5 library, another processor) are compared with it."""
    metadata = json.loads(objects["data/metadata.json"].read_text(encoding="utf-8"))
    rows = transitions_of(read_columns(objects[DATA_FILE], metadata)[0], metadata)
    if faults := compare_rows(rows, release).faults:
        raise DatasetError(f"{where} holds other rows than this release: {faults[0]}")


def _place(source: Path, target: Path, fetched: bool) -> None:
    """Put a file in the new folder: a fetched one as a second name of the same bytes, one from here as a copy."""
    if fetched:
        with contextlib.suppress(OSError):
            os.link(source, target)  # not moved: two files of a dataset may have the same bytes
            return
    shutil.copyfile(source, target)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DatasetError(
            f"{folder.parent}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB free; free some space, or "
            "set MINARI_DATASETS_PATH to another folder"
        )


def _expected(files: dict[str, RemoteFile], manifest: dict[str, Any], where: str) -> dict[str, RemoteFile]:
    """The files to fetch with the checksums to believe: the manifest's where it has one, else the repository's."""
    wanted = dict(files)
    for name, entry in manifest["files"].items():
        if name not in files:
            raise RemoteError(f"{where} lacks {name}")
        digest = f"sha256:{entry['sha256']}"
        stored = files[name]
        if stored.bytes != entry["bytes"] or (stored.digest.startswith("sha256:") and stored.digest != digest):
            raise RemoteError(f"{where} has other bytes in {name} than the manifest says")
        wanted[name] = RemoteFile(stored.path, stored.bytes, digest)
    return wanted


def _bring(snapshot: Snapshot, file: RemoteFile, local: Path, work: Path, bar: Any) -> Path:
    """A file with the right bytes: the dataset's that is here, or one fetched into the staging folder."""
    if file.matches(local):
        bar.advance(file.bytes)
        return local
    target = work / file.digest.replace(":", "-")
    for _ in range(ATTEMPTS):
        if file.matches(target):
            return target
        target.unlink(missing_ok=True)
        fetch(snapshot, file, target, bar.advance)
    if file.matches(target):
        return target
    target.unlink()
    raise RemoteError(f"{snapshot.remote} ({file.path}: wrong checksum in {ATTEMPTS} transfers)")
