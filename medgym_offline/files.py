"""Files: written whole or not at all, checksummed, and found in one place.

The four declarative folders of a release (`datasets`, `generation`, `evaluation`, `leaderboard`) lie at the top
of a checkout and inside the package in a wheel; :func:`release_folder` finds them in both.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from medgym_offline.errors import DatasetError, MedGymError, shown

__all__ = [
    "POLICY_SUFFIXES", "atomic_path", "cache_folder", "code_version", "command_line", "held_folder", "json_difference",
    "json_text", "read_toml", "release_folder", "sha256_file", "shown_path", "write_json", "write_text",
]  # fmt: skip

POLICY_SUFFIXES = (".pt", ".pt2", ".safetensors", ".onnx")
"""Of policy files; what is in them is told by their content."""

_REPLACED = ".replaced"
ReleaseFolder = Literal["datasets", "generation", "evaluation", "leaderboard"]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; it becomes `path` when the block succeeds and vanishes when it fails.

    The block may create a file or a folder under the yielded name. Missing parent folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    # The suffix is kept, for writers that choose a format by it; the process is named, for who finds what it left.
    prefix = f".{target.stem}-{_machine()}.{os.getpid()}-"
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, suffix=target.suffix or ".tmp") as file:
        temporary = Path(file.name)
    try:
        yield temporary
        if temporary.is_file():
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        if target.is_dir() and temporary.is_dir():
            # A folder cannot be replaced in one call: move the old one aside, so that it is never half there.
            aside = temporary.with_name(temporary.name + _REPLACED)
            os.rename(target, aside)
            os.rename(temporary, target)
            _delete(aside)
        else:
            os.replace(temporary, target)
    finally:
        _delete(temporary)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Whose process numbers are ours: this machine, and on Linux this container."""
    space = Path("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space.stat().st_ino if space.exists() else ''}".encode()).hexdigest()[:8]


def _remove_leftovers(target: Path) -> None:
    """Delete temporary siblings of `target` whose process was killed; the old version stays where there is no new."""
    if os.name != "posix":  # elsewhere a process cannot be asked whether it lives
        return
    form = re.compile(rf"\.{re.escape(target.stem)}-{_machine()}\.(\d+)-.*")
    for path in list(target.parent.iterdir()):
        if match := form.fullmatch(path.name):
            try:
                os.kill(int(match[1]), 0)
            except ProcessLookupError:
                if path.name.endswith(_REPLACED) and not target.exists():
                    os.rename(path, target)
                else:
                    _delete(path)
            except OSError:
                continue  # somebody else's process


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """`value` as deterministic JSON: sorted keys, two spaces, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def json_difference(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Lines `name: theirs -> ours` for every entry in which two JSON values differ."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        changed = f"{prefix.removesuffix('.') or 'value'}: {shown(theirs)} -> {shown(ours)}"
        return [] if ours == theirs else [changed]
    lines = []
    for name in sorted(ours.keys() | theirs.keys()):
        lines += json_difference(ours.get(name), theirs.get(name), f"{prefix}{name}.")
    return lines


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` atomically as deterministic JSON."""
    write_text(path, json_text(value))


def read_toml(path: str | Path, error: type[MedGymError]) -> dict[str, Any]:
    """The contents of a TOML file; a file that is missing or no TOML is an `error` that names it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot read the recipe ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path}: not a TOML recipe ({problem})") from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def release_folder(name: ReleaseFolder) -> Path:
    """The declarative folder `name` of this release: the checkout's, or the copy packaged in the wheel."""
    package = Path(__file__).resolve().parent
    packaged = package / "_release" / name
    return packaged if packaged.is_dir() else package.parent / name


def cache_folder(*parts: str, write: bool = False) -> Path:
    """Folder for what can be rebuilt: `$MEDGYM_CACHE`, or `~/.cache/medgym-offline`; or a folder within it.

    Args:
        parts: Of the path within it.
        write: Make the folder, and see that it can be written.

    Raises:
        MedGymError: It cannot be written (if asked), or nobody's home is known.
    """
    remedy = "set MEDGYM_CACHE to a folder that can be written"
    try:
        base = Path(os.environ.get("MEDGYM_CACHE") or Path.home() / ".cache" / "medgym-offline")
    except RuntimeError:
        raise MedGymError(f"there is no home folder for the cache; {remedy}") from None
    folder = base.joinpath(*parts)
    if write:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise MedGymError(f"{folder}: the cache cannot be written ({error.strerror}); {remedy}") from None
    return folder


@contextlib.contextmanager
def held_folder(folder: Path, dataset: Path, doing: str) -> Iterator[Path]:
    """A folder for what is half done, held by one process; it stays when the block fails, for the next to go on.

    Args:
        folder: Made if it is missing.
        dataset: What is being made, for the error.
        doing: Likewise ("generating").

    Raises:
        DatasetError: Another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy = f"another process is {doing} this dataset"
        raise DatasetError(f"{dataset}: {busy}; wait for it to end (lock {lock.lock_file})") from None
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def shown_path(path: str | Path) -> Path:
    """`path` as a command line in the working directory would name it: relative where it lies below it."""
    with contextlib.suppress(ValueError):
        return Path(path).absolute().relative_to(Path.cwd())
    return Path(path)


@functools.cache
def command_line() -> str:
    """What this process was started with, for provenance; the program by name alone, wherever it lies."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def code_version() -> str:
    """Version of this package, with the commit when it runs from a checkout."""
    from medgym_offline import __version__

    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if (root / ".git").exists():
            commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            return f"{__version__}+{commit.stdout.strip()}"
    return __version__
