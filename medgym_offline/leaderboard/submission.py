"""A submission: a folder with `entry.json` and the policy files it names, and nothing else.

A folder comes from a stranger. Nothing in it is executed here; every path is checked before it is opened.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import atomic_path, json_text, sha256_file
from medgym_offline.leaderboard.assets import locate_asset
from medgym_offline.leaderboard.entry import entry_id
from medgym_offline.leaderboard.schema import require_valid

__all__ = ["MAX_ENTRY_BYTES", "MAX_POLICY_BYTES", "Submission", "read_submission", "write_submission"]

MAX_ENTRY_BYTES = 4 * 2**20
MAX_POLICY_BYTES = 256 * 2**20
_SUFFIXES = (".safetensors", ".pt", ".onnx")
_FILE = re.compile(r"policies/[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED = {"entry.json", "policies", "README.md"}


@dataclass(frozen=True)
class Submission:
    """A checked submission folder.

    Attributes:
        folder: Where it lies.
        entry: Content of `entry.json`; fits the schema.
        policies: What to evaluate, one per training seed: the path of a policy file, or a built-in's name.
    """

    folder: Path
    entry: dict[str, Any]
    policies: tuple[Path | str, ...]


def read_submission(folder: str | Path, fetch: bool = True) -> Submission:
    """Read and check a submission folder.

    Args:
        folder: `entry.json`, and policies that are not too large for a repository.
        fetch: Look for policy files that are not there in the cache and on the Hub (`assets.locate_asset`). If False,
            `policies` names them where they would lie in the folder.

    Raises:
        SubmissionError: with the reason: no or malformed `entry.json`; a field missing; an id that does not follow from
            the entry; a policy path that leaves the folder; a link; a file missing, oversize, of another type, with
            another sha256 than stated; a file nobody asked for.
    """
    root = Path(folder)
    source = root / "entry.json"
    if root.is_symlink() or not root.is_dir():
        raise SubmissionError(f"{root} is not a folder; build one with `medgym-offline submit`")
    _regular(source, MAX_ENTRY_BYTES)
    try:
        content = json.loads(source.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SubmissionError(f"{source} is not JSON ({error})") from None
    entry = require_valid(content, str(source))
    if entry["id"] != entry_id(entry):
        raise SubmissionError(
            f"{source}: id is {entry['id']!r}, but its name, dataset, scope and timing give {entry_id(entry)!r}"
        )
    if entry["verification"] is not None:
        raise SubmissionError(
            f"{source}: verification must be null; it is recorded on the board by whoever re-executes"
        )
    listed = {"entry.json"}
    policies: list[Path | str] = []
    for policy in entry["policies"]:
        if "builtin" in policy:
            policies.append(policy["builtin"])
            continue
        policies.append(_policy_file(root, policy, fetch))
        listed.add(policy["file"])
    _nothing_else(root, listed)
    return Submission(root, entry, tuple(policies))


def _policy_file(root: Path, policy: Mapping[str, Any], fetch: bool) -> Path:
    name = policy["file"]
    if not _FILE.fullmatch(name):
        raise SubmissionError(
            f"{root}: policy path {name!r} is refused; policies lie directly in policies/ of the folder"
        )
    if not name.endswith(_SUFFIXES):
        raise SubmissionError(f"{root}: {name!r} is no policy file; accepted are {', '.join(_SUFFIXES)}")
    path = root / name
    if path.parent.is_symlink():
        raise SubmissionError(f"{path.parent} is a link; a submission holds its own files")
    if policy["bytes"] > MAX_POLICY_BYTES:
        raise SubmissionError(
            f"{path}: {policy['bytes'] / 2**20:.0f} MB; at most {MAX_POLICY_BYTES >> 20} are accepted"
        )
    if not path.exists() and not path.is_symlink():
        return locate_asset(policy, root) if fetch else path
    _regular(path, MAX_POLICY_BYTES)
    if path.stat().st_size != policy["bytes"] or sha256_file(path) != policy["sha256"]:
        raise SubmissionError(
            f"{path}: sha256 does not match entry.json; the file was changed or swapped after `submit`: build it again"
        )
    return path


def _regular(path: Path, limit: int) -> None:
    if path.is_symlink():
        raise SubmissionError(f"{path} is a link; a submission holds its own files")
    if not path.is_file():
        raise SubmissionError(f"{path} is missing")
    if path.stat().st_size > limit:
        raise SubmissionError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB; at most {limit / 2**20:.0f} are accepted"
        )


def _nothing_else(root: Path, listed: set[str]) -> None:
    for path in sorted(root.iterdir()):
        if path.name not in _ALLOWED or (path.name == "README.md" and not path.is_file()):
            raise SubmissionError(f"{path} does not belong in a submission (entry.json, policies/, README.md)")
    if (root / "policies").exists():
        for path in sorted((root / "policies").iterdir()):
            if f"policies/{path.name}" not in listed:
                raise SubmissionError(f"{path} is not named in entry.json; remove it")


def write_submission(entry: Mapping[str, Any], policies: Sequence[Path | str], folder: str | Path) -> Submission:
    """Write a submission folder, whole or not at all, and read it back through every check.

    Args:
        entry: From `build_entry`.
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
        (temporary / "policies").mkdir(parents=True)
        for described, source in zip(entry["policies"], policies, strict=True):
            if isinstance(source, Path):
                load_policy(source)
                shutil.copyfile(source, temporary / described["file"])
        if not any((temporary / "policies").iterdir()):
            (temporary / "policies").rmdir()
        (temporary / "entry.json").write_text(json_text(dict(entry)), encoding="utf-8")
        read_submission(temporary)
    return read_submission(target)
