"""Remotes: dataset repositories on a Hub, read at one commit and fetched in pieces that can be continued.

A dataset `NAMESPACE/NAME-vN` at the remote `hf://ORG` lies where Minari looks for it: in the dataset repository
`ORG/NAMESPACE`, folder `NAME-vN`. Listing goes through `huggingface_hub`. Bytes are fetched with HTTP range requests,
because that client starts a file again when its process was interrupted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from medgym_offline.errors import DatasetError

__all__ = ["Remote", "RemoteError", "RemoteFile", "Snapshot", "fetch", "hub_reason", "parse_remote", "split_id"]

TRIES, PAUSE, TIMEOUT, BLOCK = 4, 1.0, 30.0, 1 << 16
"""Requests in a row that bring no byte before a transfer is given up; seconds between them; of one; bytes of a read."""


class RemoteError(DatasetError):
    """A remote that does not answer, does not have what was asked of it, or sends other bytes."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit.

    Attributes:
        path: In the repository.
        bytes: Size.
        digest: `sha256:HEX` of large files, `git:HEX` (SHA-1 of the git blob) of the others.
    """

    path: str
    bytes: int
    digest: str

    def matches(self, file: Path) -> bool:
        """Whether a local file has these bytes."""
        if not file.is_file() or file.stat().st_size != self.bytes:
            return False
        kind, wanted = self.digest.split(":")
        found = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % self.bytes)
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
        return found.hexdigest() == wanted


def split_id(dataset: str) -> tuple[str, str]:
    """Repository name and folder in it of a dataset id, as Minari splits it."""
    first, _, rest = dataset.partition("/")
    return first, rest


def parse_remote(text: str) -> Remote:
    """Remote of `hf://ORG`; `DatasetError` for anything else."""
    match = re.fullmatch(r"hf://([A-Za-z0-9][\w.-]*)/?", text.strip())
    if match is None:
        raise DatasetError(f"remote {text!r} is not of the form hf://ORG (an organisation or user of the Hub)")
    return Remote(match[1])


def hub_reason(error: Exception) -> str:
    """An error of the Hub's client as a few words in one line."""
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline: HF_HUB_OFFLINE is set"
    if status == 401 and os.environ.get("HF_TOKEN"):
        return "the token in HF_TOKEN was refused (401)"
    if status == 403:
        return "the token may not do this (403)"
    if isinstance(error, RepositoryNotFoundError):
        return "no such dataset repository, or not visible without another token"
    if isinstance(error, EntryNotFoundError):
        return "no such file or folder there"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no answer'}"[:200]


@dataclass(frozen=True)
class Remote:
    """An organisation or user of a Hub (`$HF_ENDPOINT`, else huggingface.co)."""

    organisation: str

    @property
    def url(self) -> str:
        """As Minari names it."""
        return f"hf://{self.organisation}"

    def api(self, token: str | None = None) -> Any:
        """Client of the Hub."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)

    def snapshot(self, namespace: str, token: str | None = None) -> Snapshot:
        """The newest commit of the repository of a namespace; `RemoteError` if there is none."""
        api = self.api(token)
        repository = f"{self.organisation}/{namespace}"
        try:
            commit = api.repo_info(repository, repo_type="dataset").sha
        except Exception as error:  # the hub's errors and those of the network below share no base class
            raise RemoteError(f"{self.url} ({repository}: {hub_reason(error)})") from None
        return Snapshot(self.url, repository, str(commit), api)


@dataclass(frozen=True)
class Snapshot:
    """One commit of a dataset repository."""

    remote: str
    repository: str
    commit: str
    api: Any

    def files(self, folder: str) -> dict[str, RemoteFile]:
        """Files below a folder, by path relative to it; empty if there is no such folder."""
        from huggingface_hub.errors import EntryNotFoundError

        found = {}
        try:
            tree = self.api.list_repo_tree(
                self.repository, folder, recursive=True, revision=self.commit, repo_type="dataset"
            )
            for entry in tree:
                blob = getattr(entry, "blob_id", None)
                if blob is None:
                    continue  # a folder
                path = PurePosixPath(entry.path)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.path:
                    raise RemoteError(f"{self.remote} (a file named {entry.path!r} would leave the dataset's folder)")
                lfs = getattr(entry, "lfs", None)
                digest = f"sha256:{lfs.sha256}" if lfs else f"git:{blob}"
                found[path.relative_to(folder).as_posix()] = RemoteFile(entry.path, int(entry.size), digest)
        except EntryNotFoundError:
            return {}
        except RemoteError:
            raise
        except Exception as error:
            raise RemoteError(f"{self.remote} ({self.repository}: {hub_reason(error)})") from None
        return found

    def address(self, path: str) -> str:
        """Address of a file's bytes."""
        return f"{self.api.endpoint}/datasets/{self.repository}/resolve/{self.commit}/{quote(path)}"

    def headers(self) -> dict[str, str]:
        """HTTP headers of a request, with the token of the login if there is one."""
        from huggingface_hub.utils import build_hf_headers

        return dict(build_hf_headers(token=self.api.token, library_name="medgym-offline"))

    def read_json(self, path: str) -> Any:
        """A small JSON file; None if it is not there; `RemoteError` if it cannot be read as JSON."""
        try:
            text = _open(self.address(path), self.headers()).read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise RemoteError(f"{self.remote} ({path}: HTTP {error.code})") from None
        except (OSError, HTTPException) as error:
            raise RemoteError(f"{self.remote} ({path}: {error})") from None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RemoteError(f"{self.remote} ({path} is not JSON: {error})") from None


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to a content server without handing it the token."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            new.headers.pop("Authorization", None)
        return new


def _open(address: str, headers: dict[str, str], first: int = 0) -> Any:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise ConnectionError("offline: HF_HUB_OFFLINE is set")
    # Uncompressed, or byte ranges would be those of the compressed form.
    headers = {k.title(): v for k, v in headers.items()} | {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    return urllib.request.build_opener(_Redirect).open(
        urllib.request.Request(address, headers=headers), timeout=TIMEOUT
    )


def fetch(snapshot: Snapshot, file: RemoteFile, target: Path, progress: Callable[[int], object]) -> None:
    """Bring a file of a commit to `target`; what a broken transfer left in `target` with suffix `.part` is continued.

    Args:
        snapshot, file: What to fetch.
        target: Complete, with the right size, when this returns. Its bytes are not checked here.
        progress: Called with the number of bytes that came.

    Raises:
        RemoteError: the remote refuses, or stops answering; the part stays for the next attempt.
        OSError: the part cannot be written.
    """
    part = target.with_name(target.name + ".part")
    failures, reason = 0, ""
    while (have := part.stat().st_size if part.is_file() else 0) != file.bytes or not part.is_file():
        if have > file.bytes:
            part.unlink()
            continue
        try:
            with _open(snapshot.address(file.path), snapshot.headers(), have) as response:
                # Without "206 Partial Content" the answer begins at the first byte.
                if response.status != 206:
                    have = 0
                before = have
                with open(part, "ab" if have else "wb") as out:
                    while block := response.read(BLOCK):
                        _write(out, block)
                        have += len(block)
                        progress(len(block))
            reason = f"the connection ended at {have:,} of {file.bytes:,} bytes"
            failures = 0 if have > before else failures + 1
        except _DiskError as error:
            raise error.cause from None
        except urllib.error.HTTPError as error:
            reason, failures = f"HTTP {error.code}", failures + 1
            if error.code == 416:
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                failures = TRIES
        except (OSError, HTTPException) as error:
            reason, failures = f"{getattr(error, 'reason', None) or error or type(error).__name__}", failures + 1
        size = part.stat().st_size if part.is_file() else -1
        if size != file.bytes:
            if failures >= TRIES:
                raise RemoteError(f"{snapshot.remote} ({file.path}: {reason}; run again to continue)")
            time.sleep(PAUSE if failures else 0)
    os.replace(part, target)


class _DiskError(Exception):
    """An OSError of this machine's disk, told from one of the network."""

    def __init__(self, cause: OSError):
        super().__init__(str(cause))
        self.cause = cause


def _write(out: Any, block: bytes) -> None:
    try:
        out.write(block)
        out.flush()  # a full disk is noticed here, not when the file is closed
    except OSError as error:
        if error.filename is None:
            error.filename = getattr(out, "name", None)
        raise _DiskError(OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename)) from None
