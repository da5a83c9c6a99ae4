"""A Hub, and datasets from it, checked against what this release says they are before they are put in place.

A dataset `NAMESPACE/NAME-vN` at the remote `hf://ORG` lies where Minari looks for it: in the dataset repository
`ORG/NAMESPACE`, folder `NAME-vN`, read at one commit.

Files come into a hidden folder beside the dataset. It stays when a download is interrupted, so that the next one goes
on after the files that are complete, and is moved into place in one step when all are there and right.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.datasets import catalogue, trust
from medgym_offline.datasets.catalogue import DATA_FILE, MANIFEST
from medgym_offline.datasets.generation import write_namespace
from medgym_offline.datasets.hdf5 import unwritten
from medgym_offline.datasets.load import read_rows
from medgym_offline.datasets.recipes import UnknownDatasetError, is_id, known_recipe
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import atomic_path, held_folder

__all__ = ["DEFAULT_REMOTES", "Download", "Remote", "RemoteError", "download", "parse_remote"]

DEFAULT_REMOTES = ("hf://medgym", "hf://farama-minari")
"""Where datasets are looked for, in order, after `$MINARI_REMOTE`: the project's own place and Minari's."""


class RemoteError(DatasetError):
    """A remote that does not answer, does not have what was asked of it, or sends other bytes."""


def parse_remote(text: str, namespace: str) -> Remote:
    """The repository of a namespace at `hf://ORG`; `DatasetError` for anything else."""
    match = re.fullmatch(r"hf://([A-Za-z0-9][\w.-]*)/?", text.strip())
    if match is None:
        raise DatasetError(f"remote {text!r} is not of the form hf://ORG (an organisation or user of the Hub)")
    return Remote(f"hf://{match[1]}", f"{match[1]}/{namespace}")


@dataclass(frozen=True)
class Remote:
    """The dataset repository of a namespace, of an organisation or user of a Hub (`$HF_ENDPOINT`, else huggingface.co).

    Attributes:
        url: `hf://ORG`, as Minari names the organisation.
        repository: `ORG/NAMESPACE`.
    """

    url: str
    repository: str

    def api(self) -> Any:
        """Client of the Hub, with the token of `HF_TOKEN` or of the login if there is one."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="medgym-offline")

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Errors of the Hub's client and of the network, which share no base class, as one `RemoteError` line.

        An `OSError` of this machine's disk passes.
        """
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except MedGymError:
            raise
        except Exception as error:
            network = isinstance(error, ConnectionError | TimeoutError | HfHubHTTPError)
            if isinstance(error, OSError) and error.errno is not None and not network:
                raise
            raise RemoteError(f"{self.url} ({what}: {_reason(error)})") from None

    def commit(self) -> str:
        """Its newest commit; `RemoteError` if there is none."""
        with self.errors(self.repository):
            return str(self.api().repo_info(self.repository, repo_type="dataset").sha)

    def fetch(self, commit: str, patterns: Sequence[str], into: Path, progress: bool = False) -> None:
        """Bring files of a commit into a folder; those that an earlier call finished are not fetched again.

        Args:
            commit: Of the repository.
            patterns: Paths in it; `*` stands for anything. What is not there is not missed.
            into: Folder; files lie below it as in the repository. Their sizes are right, their bytes not yet checked.
            progress: Show progress on standard error.

        Raises:
            RemoteError: the remote refuses or stops answering.  OSError: the folder cannot be written.
        """
        from huggingface_hub.utils import tqdm

        class Quiet(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})

        with self.errors(self.repository):
            self.api().snapshot_download(
                self.repository,
                repo_type="dataset",
                revision=commit,
                local_dir=into,
                allow_patterns=list(patterns),
                tqdm_class=None if progress else Quiet,
            )


def _reason(error: Exception) -> str:
    """An error of the Hub's client as a few words in one line."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline: HF_HUB_OFFLINE is set"
    if isinstance(error, RepositoryNotFoundError):
        return "no such dataset repository, or not visible without another token"
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "it needs a valid token, and got none or refused it: set HF_TOKEN, or log in with: hf auth login"
    if status == 403:
        return "the token may not do this (403)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no answer'}"[:200]


_STATED = ("id", "identity", "episodes", "steps", "env_spec", "eval_env_spec")
"""Of a manifest: what must stand there as in the release's."""


@dataclass(frozen=True)
class Download:
    """What `download` did.

    Attributes:
        path: Folder of the dataset.
        source: The remote it came from; `local` if it was here.
        message: One line for a person.
    """

    path: Path
    source: str
    message: str


def download(
    dataset: str,
    *,
    remotes: Sequence[str] | None = None,
    root: str | Path | None = None,
    force: bool = False,
    progress: bool = True,
) -> Download:
    """Bring a dataset to this machine, where Minari finds it.

    Args:
        dataset: Its id.
        remotes: `hf://ORG`, tried in order; by default `$MINARI_REMOTE`, then the project's.
        root: Folder of Minari datasets; Minari's own by default.
        force: Fetch it again although it is here and undamaged.
        progress: Show progress on standard error.

    Raises:
        UnknownDatasetError: no such dataset, with the nearest ids.
        DatasetError: a remote that is no `hf://ORG`, no remote that gives the dataset (the line says why each did not,
            and how to make it), or a folder that cannot be written.
    """
    folder, known = catalogue.dataset_folder(dataset, root), known_recipe(dataset) is not None
    own = os.environ.get("MINARI_REMOTE")
    wanted = remotes or dict.fromkeys([*([own] if own else []), *DEFAULT_REMOTES])
    places = [parse_remote(place, dataset.partition("/")[0]) for place in wanted]
    here = (folder / "data").is_dir()
    asked = is_id(dataset) and (remotes or own)
    if not known and not here and not asked:
        raise catalogue.unknown_id(dataset, root)
    damaged = trust.damaged_files(folder) if here else []
    if here and not damaged and not force:
        wrong = trust.departures(catalogue.read_manifest(folder), dataset)
        note = f"it is not the one of this release: {wrong[0]}" if wrong else "checksums agree"
        text = f"{dataset} is already here: {folder}; {note} (fetch it again with --force)"
        return Download(folder, "local", text)
    reasons: list[str] = []
    for remote in places:
        try:
            names = _fetch(remote, dataset, folder, progress)
        except DatasetError as error:
            reasons.append(str(error))
        except OSError as error:
            raise unwritten(folder, error) from error
        else:
            write_namespace(root, dataset)
            repaired = f"; {', '.join(damaged)} had been damaged here" if damaged else ""
            return Download(folder, remote.url, f"{dataset} from {remote.url}, {names}: {folder}{repaired}")
    tried = f"no remote gave {dataset}: {'; '.join(reasons)}"
    if not known:
        raise UnknownDatasetError(f"{tried}; this release has no recipe: {catalogue.unknown_id(dataset, root)}")
    raise DatasetError(f"{tried}; name another with --remote, or make it: medgym-offline generate {dataset}")


def _fetch(remote: Remote, dataset: str, folder: Path, progress: bool) -> str:
    """Fetch, check and put in place; in words, what it was checked against."""
    name, commit = dataset.partition("/")[2], remote.commit()
    where = f"{remote.url} ({remote.repository} at {commit[:8]})"
    release = catalogue.release_manifest(dataset)
    with held_folder(folder.parent / f".{folder.name}.download", folder, "downloading") as work:
        came = work / name
        remote.fetch(commit, [f"{name}/{MANIFEST}"], work, progress)
        if not (came / MANIFEST).is_file():
            raise RemoteError(f"{where} does not have it with a {MANIFEST}")
        manifest = trust.fetched_manifest(came, dataset, f"{where}: {MANIFEST}")
        different = trust.departures(manifest, dataset)
        different += [f"{name} differs" for name in _STATED if release and manifest[name] != release[name]]
        if different:
            raise RemoteError(f"{where} holds another {dataset} than this release names: {different[0]}")
        wanted = (*manifest["files"], "README.md")
        remote.fetch(commit, [f"{name}/{file}" for file in wanted], work, progress)
        if damaged := trust.damaged_files(came):
            for file in damaged:
                (came / file).unlink(missing_ok=True)
            raise RemoteError(f"{where}: {', '.join(damaged)}: missing or wrong checksum; run again to fetch anew")
        metadata = catalogue.read_metadata(came, f"{where}: metadata.json", "it cannot be used")
        trust.check_metadata(metadata, manifest, f"{where}: metadata.json")
        if release and manifest["files"][DATA_FILE] != release["files"][DATA_FILE]:
            # Other bytes (of another HDF5 library, another processor) may hold the release's rows.
            rows, _ = read_rows(came, metadata)
            if faults := trust.compare_rows(rows, release).faults:
                raise RemoteError(f"{where} holds other rows than this release: {faults[0]}")
        with atomic_path(folder) as temporary:
            os.rename(came, temporary)
    return "as this release's manifest says" if release else "as its own manifest says (this release has none of it)"
