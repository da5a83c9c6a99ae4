"""What the Tab key offers for a value. Nothing heavy is imported: a shell waits for the answer.

Names that live in modules which need torch are repeated here; a test compares them with the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = [
    "ALGORITHMS",
    "BEHAVIORS",
    "ONLINE_ALGORITHMS",
    "POLICIES",
    "banks",
    "bank_names",
    "datasets",
    "one_of",
    "policies",
    "several_of",
]

ALGORITHMS = (
    *("awac", "bc", "bc-best", "bc-safe", "bcq-discrete", "bcq-smdp", "cpq", "cql", "cql-discrete", "cql-lagrangian"),
    *("decision-transformer", "dqn", "dqn-discrete", "gcql", "gcql-discrete", "gru-bc", "gru-iql", "iql", "rebrac"),
    *("td3bc", "d3rlpy-awac", "d3rlpy-bc", "d3rlpy-cql", "d3rlpy-discrete-bcq", "d3rlpy-discrete-cql", "d3rlpy-iql"),
    *("d3rlpy-rebrac", "d3rlpy-td3bc"),
)
"""Offline algorithms."""
ONLINE_ALGORITHMS = ("ppo", "ppo-lag", "sac", "trpo", "trpo-lag")
BEHAVIORS = (
    *("ind", "pop", "dr", "ind-scratch", "oracle", "ind-medium", "pop-medium"),
    *("ind-replay-25", "ind-replay-75", "dr-replay-25", "dr-replay-50", "dr-replay-75"),
)
"""Scopes of behavior policies."""
POLICIES = ("behavior", "clinician", "max", "random", "zero")
"""Policies by name, as `--policy` takes them."""


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, *suffixes: str) -> list[str]:
    """Folders (with a slash) and files of these suffixes that begin with what was typed."""
    folder, _, start = incomplete.rpartition("/")
    base = Path(folder or ("/" if incomplete.startswith("/") else "."))
    lead = f"{folder}/" if "/" in incomplete else ""
    found = []
    for path in sorted(base.glob(f"{start}*")) if base.is_dir() else []:
        if path.name[0] != "." and (path.is_dir() or path.suffix in suffixes):
            found.append(f"{lead}{path.name}/" if path.is_dir() else f"{lead}{path.name}")
    return found


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completion of a value that is one of `names`."""

    def complete(incomplete: str) -> list[str]:
        return _starting(names, incomplete)

    return complete


def several_of(*names: str) -> Callable[[str], list[str]]:
    """Completion of the last part of a comma-separated value."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        chosen = before.split(",")
        return [f"{before}{comma}{name}" for name in _starting(names, last) if name not in chosen]

    return complete


def _release(folder: str, suffix: str) -> list[str]:
    from medgym_offline.files import release_folder

    name, _, inner = folder.partition("/")
    return sorted(path.stem for path in (release_folder(name) / inner).glob(f"*{suffix}"))  # type: ignore[arg-type]


def datasets(incomplete: str) -> list[str]:
    """Ids of the release and of this machine."""
    from medgym_offline.datasets.catalogue import NAMESPACE, local_ids

    released = (f"{NAMESPACE}/{stem.removesuffix('.manifest')}" for stem in _release("datasets", ".manifest.json"))
    return _starting(sorted({*released, *local_ids()}), incomplete)


def bank_names() -> list[str]:
    """Banks that ship with the release."""
    return _release("generation/banks", ".safetensors")


def banks(incomplete: str) -> list[str]:
    """Shipped banks, then bank files."""
    return _starting(bank_names(), incomplete) + _paths(incomplete, ".safetensors")


def policies(incomplete: str) -> list[str]:
    """Policies by name, then policy files."""
    return _starting(POLICIES, incomplete) + _paths(incomplete, ".safetensors", ".pt", ".onnx")
