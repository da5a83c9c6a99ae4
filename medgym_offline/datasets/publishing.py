"""Publishing: one commit per dataset, with everything that Minari and our own `download` need, and a tag."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
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

__all__ = ["Publication", "publish"]

RACES = 6
"""Times a commit is prepared again because somebody else's came first."""

NAMESPACE_FILE = "namespace_metadata.json"


class _Namespace(TypedDict, total=False):
    datasets: list[str]
    namespaces: list[str]
    description: str


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
    place = parse_remote(remote)
    folder = dataset_folder(dataset, root)
    manifest = _require_publishable(dataset, folder, root)
    namespace, name = split_id(dataset)
    tag, repository = name.replace("/", "-"), f"{place.organisation}/{namespace}"
    if not dry_run:
        _require_welcome(place, dataset, manifest)
    _require_verified(dataset, root, progress)
    bank = str(manifest["recipe"].get("bank", ""))
    notes = (
        (f"note: bank {bank} is a file of this machine; others can load the rows but not recover the environment",)
        if bank.endswith(".safetensors")
        else ()
    )
    with tempfile.TemporaryDirectory() as made:
        files = _files(folder, manifest, Path(made))
        if dry_run:
            commit, texts = None, _shared(dataset, manifest, place, None)
        else:
            with place.errors(f"{dataset} was not taken"):
                commit, texts = _send(place, dataset, manifest, files, tag)
        rows = [(f"{name}/{path}", file.stat().st_size, sha256_file(file)) for path, file in files.items()]
    rows += [(p, len(t.encode()), hashlib.sha256(t.encode()).hexdigest()) for p, t in texts.items()]
    return Publication(dataset, repository, tuple(sorted(rows)), commit, tag, notes)


def _require_publishable(dataset: str, folder: Path, root: str | Path | None) -> dict[str, Any]:
    """The manifest of a dataset that may be published, before its rows are looked at; else a `DatasetError`."""
    recipe = known_recipe(dataset)
    if not (folder / "data").is_dir():
        if recipe is None:
            raise unknown_dataset(dataset, sorted({*list_recipes(), *local_ids(root)}))
        raise DatasetError(f"{dataset} is not on this machine ({folder}); make it: medgym-offline generate {dataset}")
    manifest = fetched_manifest(folder / MANIFEST, dataset, str(folder / MANIFEST))
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


def _require_welcome(place: Remote, dataset: str, manifest: dict[str, Any]) -> None:
    """What the remote would refuse is noticed before minutes of verifying: the token, other rows, odd metadata."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise RemoteError("publishing needs a token that may write: set HF_TOKEN, or log in with: hf auth login")
    api, namespace = place.api(), split_id(dataset)[0]
    with place.errors(f"{dataset} was not taken"):
        try:
            api.whoami()
        except HfHubHTTPError as error:
            if error.response.status_code != 401:
                raise
            raise RemoteError(
                f"{place.url} refused the token; set HF_TOKEN to a valid one, or: hf auth login"
            ) from None
        if api.repo_exists(f"{place.organisation}/{namespace}", repo_type="dataset"):
            with _Published(place, dataset) as published:
                _shared(dataset, manifest, place, published)


class _Published:
    """The small files that a repository shares, at its newest commit, in a folder for the time of a block."""

    def __init__(self, place: Remote, dataset: str):
        self.namespace, self.name = split_id(dataset)
        self.commit = place.commit(self.namespace)
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        place.fetch(self.namespace, self.commit, [NAMESPACE_FILE, f"*/{MANIFEST}"], self.folder)
        names = place.api().list_repo_files(
            f"{place.organisation}/{self.namespace}", revision=self.commit, repo_type="dataset"
        )
        self.there = {path.removeprefix(f"{self.name}/") for path in names if path.startswith(f"{self.name}/")}

    def __enter__(self) -> _Published:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def manifest(self, dataset: str) -> dict[str, Any] | None:
        """A published manifest; None where there is none that can be read (the family's card then has no numbers)."""
        try:
            return fetched_manifest(self.folder / split_id(dataset)[1] / MANIFEST, dataset, dataset)
        except DatasetError:
            return None


def _shared(dataset: str, manifest: dict[str, Any], place: Remote, published: _Published | None) -> dict[str, str]:
    """The files that all datasets of the repository share, with this dataset added: path -> text.

    Raises:
        DatasetError: the repository has other rows under this id, or odd metadata.
    """
    namespace = split_id(dataset)[0]
    before: dict[str, Any] = {}
    if published is not None:
        found = (published.manifest(dataset) or {}).get("identity")
        if published.there and found != manifest["identity"]:
            stem, _, version = dataset.rpartition("-v")
            raise DatasetError(
                f"{place.url} has other rows under {dataset} (identity {str(found)[:16]}); published rows do not "
                f"change: give the recipe the id {stem}-v{int(version) + 1}"
            )
        file = published.folder / NAMESPACE_FILE
        if file.is_file():
            where = f"{place.url} ({place.organisation}/{namespace}: {NAMESPACE_FILE})"
            before = read_json(file, RemoteError, "correct it", where)
            check(_Namespace, before, where, RemoteError, "correct it")
    ids = sorted({*before.get("datasets", ()), dataset})
    inner = ["/".join(dataset.split("/")[: depth + 1]) for depth in range(1, dataset.count("/"))]
    spaces = sorted({*before.get("namespaces", ()), *inner})
    metadata = {"description": NAMESPACE_DESCRIPTION} | before | {"datasets": ids, "namespaces": spaces}
    manifests = {other: published.manifest(other) if published else None for other in ids} | {dataset: manifest}
    texts = {NAMESPACE_FILE: json_text(metadata), "README.md": family_card(namespace, place.url, manifests)}
    for space in inner:
        texts[f"{split_id(space)[1]}/{NAMESPACE_FILE}"] = json_text({"description": NAMESPACE_DESCRIPTION})
    return texts


def _send(
    place: Remote, dataset: str, manifest: dict[str, Any], files: dict[str, Path], tag: str
) -> tuple[str, dict[str, str]]:
    """Create the repository if need be, commit on top of its newest commit, tag."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    api, name = place.api(), split_id(dataset)[1]
    repository = f"{place.organisation}/{split_id(dataset)[0]}"
    api.create_repo(repository, repo_type="dataset", exist_ok=True)
    for _ in range(RACES):
        with _Published(place, dataset) as published:
            texts = _shared(dataset, manifest, place, published)
        # Operations are used up by a commit, so they are made again each time; what was uploaded stays uploaded.
        operations: list[Any] = [CommitOperationAdd(f"{name}/{path}", str(file)) for path, file in files.items()]
        operations += [CommitOperationAdd(path, text.encode()) for path, text in texts.items()]
        operations += [CommitOperationDelete(f"{name}/{path}") for path in sorted(published.there - files.keys())]
        try:
            made = api.create_commit(
                repository,
                operations,
                commit_message=f"{dataset}: identity {manifest['identity'][:16]}",
                parent_commit=published.commit,
                repo_type="dataset",
            )
        except HfHubHTTPError as error:
            if error.response.status_code not in (409, 412):
                raise
            continue  # another commit came first
        if tag not in {ref.name for ref in api.list_repo_refs(repository, repo_type="dataset").tags}:
            about = f"{dataset} as first published"
            api.create_tag(
                repository, tag=tag, revision=made.oid, tag_message=about, repo_type="dataset", exist_ok=True
            )
        return str(made.oid), texts
    raise RemoteError(f"{place.url}: others kept committing to {repository}; publish {dataset} again later")
