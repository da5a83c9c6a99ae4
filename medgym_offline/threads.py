"""One torch thread per process.

Stacked products of small matrices run fastest on one thread: on a busy two-core machine a second one makes them 5 to 13
times slower. Work is spread over processes instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread(device: str = "cpu") -> Iterator[None]:
    """Inside the block (or decorated function) torch uses one intra-op thread; other devices are left alone."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
