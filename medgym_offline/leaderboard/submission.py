"""A submission: a folder with `entry.json` and the policy files it names, and nothing else.

A folder comes from a stranger. Nothing in it is executed here; every path is checked before it is opened.

A policy file that is too large for a git repository may be kept by its sha256 in `$MEDGYM_CACHE/policies`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgym_offline.config import check, read_json, to_values
from medgym_offline.errors import SubmissionError
from medgym_offline.files import atomic_path, cache_folder, json_text, sha256_file
from medgym_offline.leaderboard.entry import BuiltIn, Entry, PolicyFile

__all__ = [
    "LARGE", "MAX_ENTRY_BYTES", "MAX_POLICY_BYTES", "Submission", "keep_asset", "read_submission", "slim",
    "write_submission",
]  # fmt: skip

MAX_ENTRY_BYTES = 4 * 2**20
MAX_POLICY_BYTES = 256 * 2**20
LARGE = 256 * 2**10
"""Bytes from which :func:`slim` moves a policy file out of its submission."""


@dataclass(frozen=True)
class Submission:
    """A checked submission folder.

    Attributes:
        folder: Where it lies.
        entry: Content of `entry.json`.
        policies: What to evaluate, one per training seed: the path of a policy file, or a built-in's name.
    """

    folder: Path
    entry: Entry
    policies: tuple[Path | str, ...]


def read_submission(folder: str | Path, fetch: bool = True) -> Submission:
    """Read and check a submission folder.

    Args:
        folder: `entry.json`, `policies/`, and a `README.md` if wanted.
        fetch: Look for policy files that are not there in the cache. If False, `policies` names them
            where they would lie in the folder.

    Raises:
        MedGymError: the reason in one line: `entry.json` is missing or does not fit; a link; a file missing, oversize,
            of another type or sha256 than stated; a file nobody asked for.
    """
    root = Path(folder)
    source = root / "entry.json"
    if root.is_symlink() or not root.is_dir():
        raise SubmissionError(f"{root} is not a folder; build one with `medgym-offline submit`")
    _regular(source, MAX_ENTRY_BYTES)
    entry: Entry = check(Entry, read_json(source, SubmissionError), str(source), SubmissionError)
    if entry.verification is not None:
        raise SubmissionError(f"{source}: verification must be null; a board records it when policies are run again")
    policies = tuple(p.builtin if isinstance(p, BuiltIn) else _policy_file(root, p, fetch) for p in entry.policies)
    inside, readme = root / "policies", root / "README.md"
    known = {source, inside, *(root / p.file for p in entry.policies if isinstance(p, PolicyFile))}
    for path in sorted([*root.iterdir(), *(inside.iterdir() if inside.exists() else ())]):
        if path not in known and not (path == readme and path.is_file()):
            raise SubmissionError(f"{path} does not belong in a submission, or is not named in entry.json; remove it")
    return Submission(root, entry, policies)


def _policy_file(root: Path, policy: PolicyFile, fetch: bool) -> Path:
    path = root / policy.file
    if path.parent.is_symlink():
        raise SubmissionError(f"{path.parent} is a link; a submission holds its own files")
    if policy.bytes > MAX_POLICY_BYTES:
        raise SubmissionError(f"{path}: {policy.bytes >> 20} MB; at most {MAX_POLICY_BYTES >> 20} are accepted")
    if not path.exists() and not path.is_symlink():
        return _locate(policy, root) if fetch else path
    _regular(path, MAX_POLICY_BYTES)
    if path.stat().st_size != policy.bytes or sha256_file(path) != policy.sha256:
        raise SubmissionError(f"{path}: sha256 does not match entry.json; changed after `submit`? build it again")
    return path


def _regular(path: Path, limit: int) -> None:
    if path.is_symlink():
        raise SubmissionError(f"{path} is a link; a submission holds its own files")
    if not path.is_file():
        raise SubmissionError(f"{path} is missing")
    if path.stat().st_size > limit:
        raise SubmissionError(f"{path} has {path.stat().st_size >> 20} MB; at most {limit >> 20} are accepted")


def write_submission(entry: Entry, policies: Sequence[Path | str], folder: str | Path) -> Submission:
    """Write a submission folder, whole or not at all, and read it back through every check.

    Args:
        entry: What is claimed.
        policies: Where the files that its `policies` name are now, in the same order (a built-in's name is skipped).
        folder: To be made; may exist only if it is empty or holds an earlier submission.

    Raises:
        SubmissionError: as :func:`read_submission`, or if `folder` holds something else.
        PolicyError: a file is no policy that anybody could run.
    """
    from medgym_offline.policies import load_policy

    target = Path(folder)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "entry.json").is_file())):
        raise SubmissionError(f"{target} exists and is no submission; choose another --output")
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for described, source in zip(entry.policies, policies, strict=True):
            if isinstance(described, PolicyFile):
                load_policy(source)
                (temporary / "policies").mkdir(exist_ok=True)
                shutil.copyfile(source, temporary / described.file)
        (temporary / "entry.json").write_text(json_text(to_values(entry)), encoding="utf-8")
        read_submission(temporary)
    return read_submission(target)


def _asset(policy: PolicyFile) -> Path:
    return cache_folder("policies") / f"{policy.sha256}{Path(policy.file).suffix}"


def keep_asset(policy: PolicyFile, source: Path) -> Path:
    """Copy the file of an entry's policy to the cache; `SubmissionError` if it has another sha256."""
    if sha256_file(source) != policy.sha256:
        raise SubmissionError(f"{source}: sha256 is not the one of the entry; submit again")
    target = _asset(policy)
    if not target.is_file():
        cache_folder("policies", write=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return target


def _locate(policy: PolicyFile, root: Path) -> Path:
    """The file of a policy that the submission lacks, from the cache."""
    target = _asset(policy)
    if not target.is_file():
        remedy = "put the file in either place, or have the policy trained again: `leaderboard verify --retrain`"
        raise SubmissionError(f"{root / policy.file} is missing, and so is {target}; {remedy}")
    if target.stat().st_size != policy.bytes or sha256_file(target) != policy.sha256:
        raise SubmissionError(f"{target}: sha256 does not match its name; delete it and try again")
    return target


def slim(folder: Path, entry: Entry, limit: int = LARGE) -> list[Path]:
    """Move policy files of at least `limit` bytes out of a submission folder; returns where they lie now."""
    moved = []
    for policy in entry.policies:
        if isinstance(policy, PolicyFile) and policy.bytes >= limit and (folder / policy.file).is_file():
            moved.append(keep_asset(policy, folder / policy.file))
            (folder / policy.file).unlink()
    policies = folder / "policies"
    if policies.is_dir() and not any(policies.iterdir()):
        policies.rmdir()
    return moved
