"""Publishing: one commit per dataset, with everything that Minari and our own `download` need, and a tag."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.datasets.catalogue import dataset_folder, local_ids, read_manifest
from medgym_offline.datasets.family_card import family_card
from medgym_offline.datasets.recipes import known_recipe, list_recipes, unknown_dataset
from medgym_offline.datasets.remotes import Remote, RemoteError, Snapshot, hub_reason, parse_remote, split_id
from medgym_offline.datasets.trust import check_manifest, departures, not_the_releases, release_manifest
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import json_text, sha256_file

__all__ = ["Publication", "publish"]

RACES = 6
"""Times a commit is prepared again because somebody else's came first."""

NAMESPACE_FILE, MANIFEST = "namespace_metadata.json", "data/manifest.json"


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
    tag = name.replace("/", "-")
    token = "" if dry_run else _token()
    if not dry_run:
        _require_welcome(place, dataset, manifest, token)
    _require_verified(dataset, root, progress)
    with tempfile.TemporaryDirectory() as made:
        files = _files(folder, manifest, Path(made))
        notes = _notes(manifest)
        if dry_run:
            texts = _shared(dataset, manifest, None, place)
            return Publication(
                dataset, f"{place.organisation}/{namespace}", _listing(name, files, texts), None, tag, notes
            )
        with _hub_errors(place, dataset):
            commit, texts = _send(place, dataset, manifest, files, tag, token)
        listing = _listing(name, files, texts)
    return Publication(dataset, f"{place.organisation}/{namespace}", listing, commit, tag, notes)


@contextlib.contextmanager
def _hub_errors(place: Remote, dataset: str) -> Iterator[None]:
    """Errors of the Hub's client and of the network below it, which share no base class, as one line."""
    try:
        yield
    except MedGymError:
        raise
    except Exception as error:
        raise RemoteError(f"{place.url} did not take {dataset}: {hub_reason(error)}") from error


def _require_publishable(dataset: str, folder: Path, root: str | Path | None) -> dict[str, Any]:
    """The manifest of a dataset that may be published, before its rows are looked at; else a `DatasetError`."""
    recipe = known_recipe(dataset)
    if not (folder / "data").is_dir():
        if recipe is None:
            raise unknown_dataset(dataset, sorted({*list_recipes(), *local_ids(root)}))
        raise DatasetError(f"{dataset} is not on this machine ({folder}); make it: medgym-offline generate {dataset}")
    manifest = check_manifest(read_manifest(folder / MANIFEST), dataset, str(folder / MANIFEST))
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


def _require_welcome(place: Remote, dataset: str, manifest: dict[str, Any], token: str) -> None:
    """What the remote would refuse is noticed before minutes of verifying: the token, other rows, odd metadata."""
    from huggingface_hub.errors import HfHubHTTPError

    api, namespace = place.api(token), split_id(dataset)[0]
    with _hub_errors(place, dataset):
        try:
            api.whoami()
        except HfHubHTTPError as error:
            if error.response.status_code == 401:
                raise RemoteError(
                    f"{place.url} refused the token; set HF_TOKEN to a valid one, or: hf auth login"
                ) from None
            raise
        if api.repo_exists(f"{place.organisation}/{namespace}", repo_type="dataset"):
            snapshot = place.snapshot(namespace, token)
            _require_same_rows(snapshot, dataset, manifest)
            _namespace_metadata(snapshot, place, namespace)


def _files(folder: Path, manifest: dict[str, Any], made: Path) -> dict[str, Path]:
    """Path below the dataset's folder -> file to send: what the manifest names, itself, and a fresh card."""
    from medgym_offline.datasets.card import write_card
    from medgym_offline.datasets.load import load_dataset

    rows = load_dataset(manifest["id"], root=folder.parents[manifest["id"].count("/")], generate=False, progress=False)
    write_card(made, manifest, rows)
    files = {name: folder / name for name in (*manifest["files"], MANIFEST)}
    files |= {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}
    return files


def _notes(manifest: dict[str, Any]) -> tuple[str, ...]:
    bank = manifest["recipe"].get("bank", "")
    if str(bank).endswith(".safetensors"):
        return (
            f"note: bank {bank} is a file of this machine; others can load the rows but not recover the environment",
        )
    return ()


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise RemoteError("publishing needs a token that may write: set HF_TOKEN, or log in with: hf auth login")
    return str(token)


def _listing(name: str, files: dict[str, Path], texts: dict[str, str]) -> tuple[tuple[str, int, str], ...]:
    rows = [(f"{name}/{path}", file.stat().st_size, sha256_file(file)) for path, file in files.items()]
    rows += [(p, len(t.encode()), hashlib.sha256(t.encode()).hexdigest()) for p, t in texts.items()]
    return tuple(sorted(rows))


def _namespace_metadata(snapshot: Snapshot | None, place: Remote, namespace: str) -> dict[str, Any]:
    """A namespace's metadata with its lists of ids, empty where absent; a `RemoteError` for any other type."""
    found: Any = {} if snapshot is None else snapshot.read_json(NAMESPACE_FILE)
    found = {} if found is None else found
    where = f"{place.url} ({place.organisation}/{namespace})"
    if not isinstance(found, dict):
        raise RemoteError(f"{where}: {NAMESPACE_FILE} is a {type(found).__name__}, expected an object; correct it")
    found = {"datasets": [], "namespaces": []} | found
    for key in ("datasets", "namespaces"):
        if not isinstance(found[key], list) or not all(isinstance(item, str) for item in found[key]):
            text = str(found[key])[:80]
            raise RemoteError(f"{where}: {NAMESPACE_FILE} has {key} = {text!r}, expected a list of ids; correct it")
    return found


def _shared(dataset: str, manifest: dict[str, Any], snapshot: Snapshot | None, place: Remote) -> dict[str, str]:
    """The files that all datasets of the repository share, with this dataset added: path -> text."""
    namespace = split_id(dataset)[0]
    before = _namespace_metadata(snapshot, place, namespace)
    ids = sorted({*before["datasets"], dataset})
    inner = ["/".join(dataset.split("/")[: depth + 1]) for depth in range(1, dataset.count("/"))]
    namespaces = sorted({*before["namespaces"], *inner})
    description = "Offline reinforcement learning for treatment, on simulators learned from ICU records."
    metadata = {"description": description} | before | {"datasets": ids, "namespaces": namespaces}
    manifests: dict[str, dict[str, Any] | None] = {dataset: manifest}
    for other in ids:
        if other != dataset and snapshot is not None:
            manifests[other] = _manifest_of(snapshot, other)
    texts = {NAMESPACE_FILE: json_text(metadata), "README.md": family_card(namespace, place.url, manifests)}
    for space in inner:
        texts[f"{split_id(space)[1]}/{NAMESPACE_FILE}"] = json_text({"description": description})
    return texts


def _manifest_of(snapshot: Snapshot, dataset: str) -> dict[str, Any] | None:
    """A published manifest; None where there is none that can be read (the family's card then has no numbers)."""
    try:
        return check_manifest(snapshot.read_json(f"{split_id(dataset)[1]}/{MANIFEST}"), dataset, dataset)
    except DatasetError:
        return None


def _send(
    place: Remote, dataset: str, manifest: dict[str, Any], files: dict[str, Path], tag: str, token: str
) -> tuple[str, dict[str, str]]:
    """Create the repository if need be, commit on top of its newest commit, tag."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    api = place.api(token)
    namespace, name = split_id(dataset)
    repository = f"{place.organisation}/{namespace}"
    api.create_repo(repository, repo_type="dataset", exist_ok=True)
    for _ in range(RACES):
        snapshot = place.snapshot(namespace, token)
        there = _require_same_rows(snapshot, dataset, manifest)
        texts = _shared(dataset, manifest, snapshot, place)
        # Operations are used up by a commit, so they are made again each time; what was uploaded stays uploaded.
        operations: list[Any] = [CommitOperationAdd(f"{name}/{path}", str(file)) for path, file in files.items()]
        operations += [CommitOperationAdd(path, text.encode()) for path, text in texts.items()]
        operations += [CommitOperationDelete(f"{name}/{path}") for path in sorted(there - files.keys())]
        try:
            made = api.create_commit(
                repository,
                operations,
                commit_message=f"{dataset}: identity {manifest['identity'][:16]}",
                parent_commit=snapshot.commit,
                repo_type="dataset",
            )
        except HfHubHTTPError as error:
            if error.response.status_code not in (409, 412):
                raise
            continue  # another commit came first
        commit = str(made.oid)
        _tag(api, repository, tag, commit, dataset)
        return commit, texts
    raise RemoteError(f"{place.url}: others kept committing to {repository}; publish {dataset} again later")


def _require_same_rows(snapshot: Snapshot, dataset: str, manifest: dict[str, Any]) -> set[str]:
    """Files the remote has of this dataset; a `DatasetError` if their rows are other ones."""
    name = split_id(dataset)[1]
    there = set(snapshot.files(name))
    old = snapshot.read_json(f"{name}/{MANIFEST}") if MANIFEST in there else None
    found = old.get("identity") if isinstance(old, dict) else None
    if there and found != manifest["identity"]:
        stem, _, version = dataset.rpartition("-v")
        raise DatasetError(
            f"{snapshot.remote} has other rows under {dataset} (identity {str(found)[:16]}); published rows do not "
            f"change: give the recipe the id {stem}-v{int(version) + 1}"
        )
    return there


def _tag(api: Any, repository: str, tag: str, commit: str, dataset: str) -> None:
    refs = api.list_repo_refs(repository, repo_type="dataset")
    if tag not in {ref.name for ref in refs.tags}:
        message = f"{dataset} as first published"
        api.create_tag(repository, tag=tag, revision=commit, tag_message=message, repo_type="dataset", exist_ok=True)
