"""Remotes: dataset repositories on a Hub, read at one commit through `huggingface_hub`.

A dataset `NAMESPACE/NAME-vN` at the remote `hf://ORG` lies where Minari looks for it: in the dataset repository
`ORG/NAMESPACE`, folder `NAME-vN`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.errors import DatasetError, MedGymError

__all__ = ["DEFAULT_REMOTES", "Remote", "RemoteError", "parse_remote", "remotes_of", "split_id"]

DEFAULT_REMOTES = ("hf://medgym", "hf://farama-minari")
"""Where datasets are looked for, in order, after `$MINARI_REMOTE`: the project's own place and Minari's."""


class RemoteError(DatasetError):
    """A remote that does not answer, does not have what was asked of it, or sends other bytes."""


def split_id(dataset: str) -> tuple[str, str]:
    """Repository name and folder in it of a dataset id, as Minari splits it."""
    first, _, rest = dataset.partition("/")
    return first, rest


def remotes_of(remotes: Sequence[str] | None = None) -> list[str]:
    """Remotes to try, in order: those given, else `$MINARI_REMOTE` and then the project's."""
    own = os.environ.get("MINARI_REMOTE")
    return list(remotes) if remotes else list(dict.fromkeys([*([own] if own else []), *DEFAULT_REMOTES]))


def parse_remote(text: str) -> Remote:
    """Remote of `hf://ORG`; `DatasetError` for anything else."""
    match = re.fullmatch(r"hf://([A-Za-z0-9][\w.-]*)/?", text.strip())
    if match is None:
        raise DatasetError(f"remote {text!r} is not of the form hf://ORG (an organisation or user of the Hub)")
    return Remote(match[1])


@dataclass(frozen=True)
class Remote:
    """An organisation or user of a Hub (`$HF_ENDPOINT`, else huggingface.co)."""

    organisation: str

    @property
    def url(self) -> str:
        """As Minari names it."""
        return f"hf://{self.organisation}"

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

    def commit(self, repository: str) -> str:
        """The newest commit of one of its dataset repositories; `RemoteError` if there is none."""
        with self.errors(f"{self.organisation}/{repository}"):
            return str(self.api().repo_info(f"{self.organisation}/{repository}", repo_type="dataset").sha)

    def fetch(self, repository: str, commit: str, patterns: Sequence[str], into: Path, progress: bool = False) -> None:
        """Bring files of a commit into a folder; those that an earlier call finished are not fetched again.

        Args:
            repository: Name of the dataset repository.
            commit: Of it.
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

        with self.errors(f"{self.organisation}/{repository}"):
            self.api().snapshot_download(
                f"{self.organisation}/{repository}",
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
