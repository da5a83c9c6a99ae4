"""Policy files that are too large for a git repository: kept by their sha256, outside the submission folder.

A submission may name a policy file that is not in its folder. It is then looked for by its sha256 in
`$MEDGYM_CACHE/policies`, and after that in the project's Hub repository (dataset repository `ORG/leaderboard`, folder
`policies`). Whatever the place, the bytes must have the sha256 that the entry states.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgym_offline.errors import DatasetError, SubmissionError
from medgym_offline.files import atomic_path, cache_folder, sha256_file

__all__ = ["LARGE", "REPOSITORY", "keep_asset", "locate_asset", "slim"]

REPOSITORY, FOLDER = "leaderboard", "policies"
"""Dataset repository and folder of the Hub where large policy files lie."""

LARGE = 256 * 2**10
"""Bytes from which :func:`slim` moves a policy file out of its submission."""


def _path(policy: Mapping[str, Any]) -> Path:
    return cache_folder("policies") / f"{policy['sha256']}{Path(policy['file']).suffix}"


def keep_asset(policy: Mapping[str, Any], source: Path) -> Path:
    """Copy the file of an entry's policy to where :func:`locate_asset` finds it.

    Raises:
        SubmissionError: `source` has another sha256 than the entry states.
    """
    if sha256_file(source) != policy["sha256"]:
        raise SubmissionError(f"{source}: sha256 is not the one of the entry; submit again")
    target = _path(policy)
    if not target.is_file():
        cache_folder("policies", write=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return target


def locate_asset(policy: Mapping[str, Any], where: Path) -> Path:
    """The file of an entry's policy that its folder `where` lacks: from the cache, else from the Hub.

    Raises:
        SubmissionError: it is in neither place, or has other bytes there.
    """
    target = _path(policy)
    if not target.is_file():
        try:
            _download(policy, target)
        except DatasetError as error:
            raise SubmissionError(
                f"{where / policy['file']} is missing, and so is {target}; not fetched: {error}; "
                "put the file in either place, build the submission again, or have the policy trained again: "
                "`leaderboard verify --retrain`"
            ) from None
    if target.stat().st_size != policy["bytes"] or sha256_file(target) != policy["sha256"]:
        raise SubmissionError(f"{target}: sha256 does not match its name; delete it and try again")
    return target


def _download(policy: Mapping[str, Any], target: Path) -> None:
    from medgym_offline.datasets.remotes import parse_remote, remotes_of

    cache_folder("policies", write=True)
    failures = []
    for url in remotes_of():
        try:
            remote = parse_remote(url)
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                path = f"{FOLDER}/{target.name}"
                remote.fetch(REPOSITORY, remote.commit(REPOSITORY), [path], Path(work), progress=True)
                came = Path(work) / path
                if came.is_file() and sha256_file(came) == policy["sha256"]:
                    came.replace(target)
                    return
            failures.append(f"{url} (does not have it, or sends other bytes than the entry states)")
        except DatasetError as error:
            failures.append(str(error))
    raise DatasetError("; ".join(failures))


def slim(folder: Path, entry: Mapping[str, Any], limit: int = LARGE) -> list[Path]:
    """Move policy files of at least `limit` bytes out of a submission folder; returns where they lie now."""
    moved = []
    for policy in entry["policies"]:
        file = policy.get("file")
        if file is not None and policy["bytes"] >= limit and (folder / file).is_file():
            moved.append(keep_asset(policy, folder / file))
            (folder / file).unlink()
    policies = folder / "policies"
    if policies.is_dir() and not any(policies.iterdir()):
        policies.rmdir()
    return moved
