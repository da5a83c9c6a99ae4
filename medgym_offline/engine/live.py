"""Live numbers of a running shard: a share done and a few values, from whatever process it runs in.

A shard calls :func:`report`. In the caller's own process this reaches the progress bar directly; in a worker it
is written to a small file, at most twice a second, which the caller reads. A cluster without a shared file system shows
finished shards only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Sink", "file_sink", "read_live", "report", "reporting_to"]

Sink = Callable[[float, dict[str, float]], None]
_EVERY = 0.5
_sink: Sink | None = None


def report(share: float, **numbers: float) -> None:
    """Say that `share` (0 to 1) of the current shard is done; does nothing outside an engine."""
    if _sink is not None:
        _sink(share, numbers)


@contextlib.contextmanager
def reporting_to(sink: Sink | None) -> Iterator[None]:
    """Inside the block :func:`report` goes to `sink`."""
    global _sink
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before


def file_sink(path: str | Path) -> Sink:
    """A sink that writes to `path`; a folder that cannot be written shows nothing and harms nothing."""
    target, last = Path(path), 0.0

    def write(share: float, numbers: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last < _EVERY:
            return
        last = time.monotonic()
        with contextlib.suppress(OSError):
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.write_text(json.dumps([share, numbers]))
            temporary.replace(target)

    return write


def read_live(path: str | Path) -> tuple[float, dict[str, float]]:
    """What a worker last wrote to `path`; (0, {}) before it has."""
    try:
        share, numbers = json.loads(Path(path).read_text())
        return float(share), dict(numbers)
    except (OSError, ValueError):
        return 0.0, {}
