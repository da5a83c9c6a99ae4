"""Publishing: one commit per dataset, with everything that Minari and our own `download` need, and a tag."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from medgym_offline.config import check, read_json
from medgym_offline.datasets import catalogue, trust
from medgym_offline.datasets.card import dataset_card, family_card
from medgym_offline.datasets.catalogue import MANIFEST
from medgym_offline.datasets.generation import NAMESPACE_DESCRIPTION
from medgym_offline.datasets.hub import Remote, RemoteError, parse_remote
from medgym_offline.errors import DatasetError
from medgym_offline.files import json_text, sha256_file

__all__ = ["NAMESPACE_FILE", "Publication", "RACES", "layout", "publish"]

RACES = 6
"""Times a commit is prepared again because somebody else's came first."""


NAMESPACE_FILE = "namespace_metadata.json"


class _Namespace(TypedDict, total=False):
    datasets: list[str]


@dataclass(frozen=True)
class Publication:
    """What `publish` sent, or would send.

    Attributes:
        repository: `ORG/NAMESPACE`.
        files: (path in the repository, bytes, sha256) of each.
        commit: Hash of the commit; None in a dry run.
        tag: Name of the tag.
    """

    repository: str
    files: tuple[tuple[str, int, str], ...]
    commit: str | None
    tag: str


def publish(
    dataset: str, remote: str, *, root: str | Path | None = None, dry_run: bool = False, progress: bool = True
) -> Publication:
    """Publish a dataset of this machine at `hf://ORG`, in the dataset repository `ORG/NAMESPACE`.

    One commit holds the rows, Minari's metadata, the manifest, the card, the namespace's metadata and
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
    namespace, _, name = dataset.partition("/")
    place, tag, commit = parse_remote(remote, namespace), name.replace("/", "-"), None
    if not dry_run:  # a token that is refused is noticed before minutes of verifying
        with place.errors(f"{dataset} was not taken"):
            place.api().whoami()
    with tempfile.TemporaryDirectory() as work:
        files = layout([dataset], work, remote, root=root, progress=progress)
        if not dry_run:
            with place.errors(f"{dataset} was not taken"):
                commit = _send(place, dataset, Path(work), tag)
        rows = tuple((path.relative_to(work).as_posix(), path.stat().st_size, sha256_file(path)) for path in files)
    return Publication(place.repository, rows, commit, tag)


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
    target = Path(target)
    manifests = {dataset: _require_publishable(dataset, root) for dataset in datasets}
    for dataset, manifest in manifests.items():
        _lay_out(dataset, manifest, target, root, progress)
    _write_shared(target, parse_remote(remote, ""), manifests, {})
    return sorted(path for path in target.rglob("*") if path.is_file())


def _require_publishable(dataset: str, root: str | Path | None) -> dict[str, Any]:
    """The manifest of a dataset that may be published, before its rows are looked at; else a `DatasetError`."""
    folder = catalogue.local_folder(dataset, root)
    manifest = trust.fetched_manifest(folder, dataset, str(folder / MANIFEST))
    if manifest["recipe"].get("records"):
        raise DatasetError(f"{dataset} holds rows of clinical records, which are not passed on; publish its recipe")
    if wrong := trust.departures(manifest, dataset):
        again = "generate it again, with --release if the release is to change"
        raise DatasetError(f"{dataset} is not the one of this release ({wrong[0]}): {again}")
    return manifest


def _lay_out(dataset: str, manifest: dict[str, Any], target: Path, root: str | Path | None, progress: bool) -> None:
    """Verify a dataset and copy what is published of it, with a fresh card, to its place below `target`."""
    from medgym_offline.datasets.verification import verify

    report = verify(dataset, root=root, progress=progress)
    if not report.ok:
        faults = "; ".join(f"{check.name}: {check.detail}" for check in report.faults[:3])
        raise DatasetError(f"{dataset} does not verify and is not published ({faults}); generate it again")
    folder = target / dataset.partition("/")[2]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for file in (*manifest["files"], MANIFEST):
        shutil.copyfile(catalogue.local_folder(dataset, root) / file, folder / file)
    (folder / "README.md").write_text(dataset_card(manifest), encoding="utf-8")


def _write_shared(target: Path, place: Remote, datasets: Iterable[str], before: Mapping[str, Any]) -> None:
    """Write the files that all datasets of a repository share; `before` is the namespace's metadata as they were."""
    known = sorted({*datasets, *before.get("datasets", ())})
    metadata = {"description": NAMESPACE_DESCRIPTION, **before, "datasets": known}
    (target / NAMESPACE_FILE).write_text(json_text(metadata), encoding="utf-8")
    (target / "README.md").write_text(family_card(place.url, known), encoding="utf-8")


def _there(place: Remote, dataset: str, identity: str) -> tuple[str, dict[str, Any]]:
    """The newest commit of the repository, and the namespace's metadata there.

    Raises:
        DatasetError: It has other rows under this id.
        RemoteError: Its metadata are none.
    """
    name, commit = dataset.partition("/")[2], place.commit()
    paths = place.api().list_repo_files(place.repository, revision=commit, repo_type="dataset")
    namespace: dict[str, Any] = {}
    found = None
    with tempfile.TemporaryDirectory() as work:
        place.fetch(commit, [NAMESPACE_FILE, f"{name}/{MANIFEST}"], Path(work))
        if NAMESPACE_FILE in paths:
            where = f"{place.url} ({place.repository}: {NAMESPACE_FILE})"
            namespace = read_json(Path(work) / NAMESPACE_FILE, RemoteError, "correct it", where)
            check(_Namespace, namespace, where, RemoteError, "correct it")
        with contextlib.suppress(DatasetError):  # one that cannot be read is not the same
            found = trust.fetched_manifest(Path(work) / name, dataset, dataset)["identity"]
    if found != identity and any(path.startswith(f"{name}/") for path in paths):
        stem, _, version = dataset.rpartition("-v")
        found, remedy = str(found)[:16], f"give the recipe the id {stem}-v{int(version) + 1}"
        raise DatasetError(f"{place.url} has other rows under {dataset} ({found}); these do not change: {remedy}")
    return commit, namespace


def _send(place: Remote, dataset: str, target: Path, tag: str) -> str:
    """Create the repository if need be, commit on top of its newest commit, tag; the commit."""
    from huggingface_hub.errors import HfHubHTTPError

    api, name = place.api(), dataset.partition("/")[2]
    identity = catalogue.read_manifest(target / name)["identity"]
    repository, data = place.repository, "dataset"
    api.create_repo(repository, repo_type=data, exist_ok=True)
    title = f"{dataset}: identity {identity[:16]}"
    for _ in range(RACES):
        commit, before = _there(place, dataset, identity)
        _write_shared(target, place, [dataset], before)
        try:
            made = api.upload_folder(
                repo_id=repository, repo_type=data, folder_path=target, delete_patterns=f"{name}/*",
                commit_message=title, parent_commit=commit,
            )  # fmt: skip
        except HfHubHTTPError as error:
            if error.response.status_code in (409, 412):
                continue  # another commit came first
            raise
        if tag not in {ref.name for ref in api.list_repo_refs(repository, repo_type=data).tags}:
            api.create_tag(repository, tag=tag, revision=made.oid, tag_message=title, repo_type=data, exist_ok=True)
        return str(made.oid)
    raise RemoteError(f"{place.url}: others kept committing to {repository}; publish {dataset} again later")
