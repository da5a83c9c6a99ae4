"""A submission: a folder with `entry.json` and the policy files it names, and nothing else.

A folder comes from a stranger. Nothing in it is executed here; every path is checked before it is opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgym_offline.config import check, read_json, to_values
from medgym_offline.errors import SubmissionError
from medgym_offline.files import atomic_path, json_text, sha256_file
from medgym_offline.leaderboard.entry import BuiltIn, Entry, PolicyFile

__all__ = ["MAX_POLICY_BYTES", "Submission", "read_submission", "write_submission"]

MAX_ENTRY_BYTES = 4 * 2**20
MAX_POLICY_BYTES = 256 * 2**20


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


def read_submission(folder: str | Path, complete: bool = True) -> Submission:
    """Read and check a submission folder.

    Args:
        folder: `entry.json`, `policies/`, and a `README.md` if wanted.
        complete: Whether every policy file must be there; otherwise `policies` names those that are not where they
            would lie.

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
    policies = tuple(p.builtin if isinstance(p, BuiltIn) else _policy_file(root, p, complete) for p in entry.policies)
    inside, readme = root / "policies", root / "README.md"
    known = {source, inside, *(root / p.file for p in entry.policies if isinstance(p, PolicyFile))}
    for path in sorted([*root.iterdir(), *(inside.iterdir() if inside.exists() else ())]):
        if path not in known and not (path == readme and path.is_file()):
            raise SubmissionError(f"{path} does not belong in a submission, or is not named in entry.json; remove it")
    return Submission(root, entry, policies)


def _policy_file(root: Path, policy: PolicyFile, complete: bool) -> Path:
    path = root / policy.file
    if path.parent.is_symlink():
        raise SubmissionError(f"{path.parent} is a link; a submission holds its own files")
    if policy.bytes > MAX_POLICY_BYTES:
        raise SubmissionError(f"{path}: {policy.bytes >> 20} MB; at most {MAX_POLICY_BYTES >> 20} are accepted")
    if not path.exists() and not path.is_symlink():
        if complete:
            remedy = "put the file there, or have the policy trained again: `leaderboard verify --retrain`"
            raise SubmissionError(f"{path} is missing; {remedy}")
        return path
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
