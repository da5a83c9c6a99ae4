"""Publishing: one commit per dataset, with everything that Minari and our own `download` need, and a tag."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from medgym_offline.config import check, read_json
from medgym_offline.datasets.catalogue import dataset_folder, local_ids
from medgym_offline.datasets.family_card import family_card
from medgym_offline.datasets.forms import MANIFEST
from medgym_offline.datasets.manifest import NAMESPACE_DESCRIPTION
from medgym_offline.datasets.recipes import known_recipe, list_recipes, unknown_dataset
from medgym_offline.datasets.remotes import Remote, RemoteError, parse_remote, split_id
from medgym_offline.datasets.trust import departures, fetched_manifest, not_the_releases, release_manifest
from medgym_offline.errors import DatasetError
from medgym_offline.files import json_text, sha256_file

__all__ = ["Publication", "layout", "publish"]

RACES = 6
"""Times a commit is prepared again because somebody else's came first."""

NAMESPACE_FILE = "namespace_metadata.json"


class _Namespace(TypedDict, total=False):
    datasets: list[str]
    namespaces: list[str]


@dataclass(frozen=True)
class _State:
    """A repository at a commit: files of the dataset there, the namespace's metadata, readable manifests by id."""

    commit: str | None = None
    there: frozenset[str] = frozenset()
    namespace: Mapping[str, Any] = field(default_factory=dict)
    manifests: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Publication:
    """What `publish` sent, or would send.

    Attributes:
        id: Dataset.
        repository: `ORG/NAMESPACE`.
        files: (path in the repository, bytes, sha256) of each.
        commit: Hash of the commit; None in a dry run.
        tag: Name of the tag.
        notes: Lines for a person.
    """

    id: str
    repository: str
    files: tuple[tuple[str, int, str], ...]
    commit: str | None
    tag: str
    notes: tuple[str, ...] = ()


def publish(
    dataset: str, remote: str, *, root: str | Path | None = None, dry_run: bool = False, progress: bool = True
) -> Publication:
    """Publish a dataset of this machine at `hf://ORG`, in the dataset repository `ORG/NAMESPACE`.

    One commit holds the rows, Minari's metadata, the manifest, the card with its figures, the namespace's metadata and
    its README; then a tag names it (`sepsis-ind-v0`). If somebody commits in between, the commit is prepared again on
    top of theirs. The token is that of `HF_TOKEN` or of `hf auth login`.

    Args:
        dataset: Its id.
        remote: `hf://ORG`.
        root: Folder of Minari datasets; Minari's own by default.
        dry_run: Verify, list, and send nothing.
        progress: Show progress on standard error.

    Raises:
        UnknownDatasetError: no such dataset.
        DatasetError: it is not here, does not verify, is not the one of this release, or the remote has other rows
            under this id.
        RemoteError: no token, a token that was refused, or a remote that does not answer.
    """
    place, folder = parse_remote(remote), dataset_folder(dataset, root)
    namespace, name = split_id(dataset)
    tag, repository = name.replace("/", "-"), f"{place.organisation}/{namespace}"
    manifest = _require_publishable(dataset, folder, root)
    if not dry_run:  # what the remote would refuse is noticed before minutes of verifying
        with place.errors(f"{dataset} was not taken"):
            place.api().whoami()
            if place.api().repo_exists(repository, repo_type="dataset"):
                _state(place, dataset, manifest)
    _require_verified(dataset, root, progress)
    notes, bank = [], str(manifest["recipe"].get("bank", ""))
    if bank.endswith(".safetensors"):
        notes = [
            f"note: bank {bank} is a file of this machine; others can load the rows but not recover the environment"
        ]
    with tempfile.TemporaryDirectory() as made:
        commit, files = None, _files(folder, manifest, Path(made))
        if dry_run:
            texts = _shared(place, dataset, manifest, _State())
        else:
            with place.errors(f"{dataset} was not taken"):
                commit, texts = _send(place, dataset, manifest, files, tag)
        rows = [(f"{name}/{path}", file.stat().st_size, sha256_file(file)) for path, file in files.items()]
    rows += [(path, len(text.encode()), hashlib.sha256(text.encode()).hexdigest()) for path, text in texts.items()]
    return Publication(dataset, repository, tuple(sorted(rows)), commit, tag, tuple(notes))


def layout(
    datasets: Sequence[str], target: str | Path, remote: str, *, root: str | Path | None = None, progress: bool = True
) -> list[Path]:
    """The repository that `publish` would make of datasets of one namespace, as a folder: `hf upload` takes it whole.

    Args:
        datasets: Ids; each is verified first.
        target: The folder; files of that name are replaced.
        remote: `hf://ORG`, named in the cards.
        root: Folder of Minari datasets; Minari's own by default.
        progress: Show progress on standard error.

    Returns:
        Its files.

    Raises:
        As :func:`publish`.
    """
    target, place = Path(target), parse_remote(remote)
    manifests, written = {}, []
    for dataset in datasets:
        folder = dataset_folder(dataset, root)
        manifests[dataset] = _require_publishable(dataset, folder, root)
        _require_verified(dataset, root, progress)
        with tempfile.TemporaryDirectory() as made:
            for path, file in _files(folder, manifests[dataset], Path(made)).items():
                written.append(target / split_id(dataset)[1] / path)
                written[-1].parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, written[-1])
    for dataset, manifest in manifests.items():
        state = _State(namespace={"datasets": list(manifests)}, manifests=manifests)
        for path, text in _shared(place, dataset, manifest, state).items():
            written.append(target / path)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(text, encoding="utf-8")
    return sorted(set(written))


def _require_publishable(dataset: str, folder: Path, root: str | Path | None) -> dict[str, Any]:
    """The manifest of a dataset that may be published, before its rows are looked at; else a `DatasetError`."""
    recipe = known_recipe(dataset)
    if not (folder / "data").is_dir():
        if recipe is None:
            raise unknown_dataset(dataset, sorted({*list_recipes(), *local_ids(root)}))
        raise DatasetError(f"{dataset} is not on this machine ({folder}); make it: medgym-offline generate {dataset}")
    manifest = fetched_manifest(folder / MANIFEST, dataset, str(folder / MANIFEST))
    if manifest["recipe"].get("records"):
        raise DatasetError(f"{dataset} holds rows of clinical records, which are not passed on; publish its recipe")
    if recipe is not None and dataset not in list_recipes():
        raise DatasetError(f"{dataset} is a -large form, which is made on demand and not published")
    release = release_manifest(dataset)
    if release is not None and (wrong := not_the_releases(manifest, dataset) or departures(manifest, release)):
        raise DatasetError(
            f"{dataset} is not the one of this release ({wrong[0]}; datasets/{recipe and recipe.name}"
            f".manifest.json): generate it again, with --release if the release is to change"
        )
    return manifest


def _require_verified(dataset: str, root: str | Path | None, progress: bool) -> None:
    from medgym_offline.datasets.verification import verify

    report = verify(dataset, root=root, progress=progress)
    if not report.ok:
        faults = "; ".join(f"{check.name}: {check.detail}" for check in report.faults[:3])
        raise DatasetError(f"{dataset} does not verify and is not published ({faults}); generate it again")


def _files(folder: Path, manifest: dict[str, Any], made: Path) -> dict[str, Path]:
    """Path below the dataset's folder -> file to send: what the manifest names, itself, and a fresh card."""
    from medgym_offline.datasets.card import write_card
    from medgym_offline.datasets.load import load_dataset

    rows = load_dataset(manifest["id"], root=folder.parents[manifest["id"].count("/")], generate=False, progress=False)
    write_card(made, manifest, rows)
    files = {name: folder / name for name in (*manifest["files"], MANIFEST)}
    files |= {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}
    return files


def _state(place: Remote, dataset: str, manifest: dict[str, Any]) -> _State:
    """The repository at its newest commit; a `DatasetError` if it has other rows under this id, or odd metadata."""
    repository, name = split_id(dataset)
    commit, full = place.commit(repository), f"{place.organisation}/{repository}"
    paths = place.api().list_repo_files(full, revision=commit, repo_type="dataset")
    there = frozenset(path.removeprefix(f"{name}/") for path in paths if path.startswith(f"{name}/"))
    namespace, manifests = {}, {}
    with tempfile.TemporaryDirectory() as work:
        place.fetch(repository, commit, [NAMESPACE_FILE, f"*/{MANIFEST}"], Path(work))
        if NAMESPACE_FILE in paths:
            where = f"{place.url} ({full}: {NAMESPACE_FILE})"
            namespace = read_json(Path(work) / NAMESPACE_FILE, RemoteError, "correct it", where)
            check(_Namespace, namespace, where, RemoteError, "correct it")
        for other in {*namespace.get("datasets", ()), dataset}:
            with contextlib.suppress(DatasetError):  # one that cannot be read: the family's card has no numbers of it
                manifests[other] = fetched_manifest(Path(work) / split_id(other)[1] / MANIFEST, other, other)
    found = manifests[dataset]["identity"] if dataset in manifests else None
    if there and found != manifest["identity"]:
        stem, _, version = dataset.rpartition("-v")
        raise DatasetError(
            f"{place.url} has other rows under {dataset} (identity {str(found)[:16]}); published rows do not "
            f"change: give the recipe the id {stem}-v{int(version) + 1}"
        )
    return _State(commit, there, namespace, manifests)


def _shared(place: Remote, dataset: str, manifest: dict[str, Any], state: _State) -> dict[str, str]:
    """The files that all datasets of the repository share, with this dataset added: path -> text."""
    before, parts = state.namespace, dataset.split("/")
    ids = sorted({*before.get("datasets", ()), dataset})
    inner = ["/".join(parts[:depth]) for depth in range(2, len(parts))]
    about = {"description": NAMESPACE_DESCRIPTION}
    metadata = {**about, **before, "datasets": ids, "namespaces": sorted({*before.get("namespaces", ()), *inner})}
    card = family_card(parts[0], place.url, {other: state.manifests.get(other) for other in ids} | {dataset: manifest})
    spaces = {f"{split_id(space)[1]}/{NAMESPACE_FILE}": json_text(about) for space in inner}
    return {NAMESPACE_FILE: json_text(metadata), "README.md": card, **spaces}


def _send(
    place: Remote, dataset: str, manifest: dict[str, Any], files: dict[str, Path], tag: str
) -> tuple[str, dict[str, str]]:
    """Create the repository if need be, commit on top of its newest commit, tag; the commit, and the shared files."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    api, (namespace, name) = place.api(), split_id(dataset)
    repository, data = f"{place.organisation}/{namespace}", "dataset"
    api.create_repo(repository, repo_type=data, exist_ok=True)
    title = f"{dataset}: identity {manifest['identity'][:16]}"
    for _ in range(RACES):
        state = _state(place, dataset, manifest)
        texts = _shared(place, dataset, manifest, state)
        # Operations are used up by a commit, so they are made again each time; what was uploaded stays uploaded.
        operations: list[Any] = [CommitOperationAdd(f"{name}/{path}", str(file)) for path, file in files.items()]
        operations += [CommitOperationAdd(path, text.encode()) for path, text in texts.items()]
        operations += [CommitOperationDelete(f"{name}/{path}") for path in sorted(state.there - files.keys())]
        try:
            made = api.create_commit(
                repository, operations, commit_message=title, parent_commit=state.commit, repo_type=data
            )
        except HfHubHTTPError as error:
            if error.response.status_code in (409, 412):
                continue  # another commit came first
            raise
        if tag not in {ref.name for ref in api.list_repo_refs(repository, repo_type=data).tags}:
            api.create_tag(repository, tag=tag, revision=made.oid, tag_message=title, repo_type=data, exist_ok=True)
        return str(made.oid), texts
    raise RemoteError(f"{place.url}: others kept committing to {repository}; publish {dataset} again later")
