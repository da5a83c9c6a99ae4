"""How a process computes: one torch thread, and memory that is kept for the next tensor.

Stacked products of small matrices run fastest on one thread: on a busy two-core machine a second one makes them 5 to 13
times slower. Work is spread over processes instead, or, where its pieces are few and large, over threads of our own
(:func:`side_by_side`).

Tensors of a stack are a few megabytes each. The C library of Linux hands such blocks back to the system at once and
asks for them anew, page by page, which was measured to cost a third of an environment step
(`benchmarks/simulators.py --return-memory` shows it).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medgym_offline.defaults import own_defaults

__all__ = ["cores", "keep_memory", "one_thread", "side_by_side"]

T = TypeVar("T")
R = TypeVar("R")

# Names and values of <malloc.h>: when free memory is returned, how much is asked for at once, how many blocks come
# from the system directly.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _AT_ONCE = 2**31 - 1, 64 * 2**20


@contextlib.contextmanager
def one_thread(device: str = "cpu") -> Iterator[None]:
    """Inside the block (or decorated function) torch uses one intra-op thread and our defaults (`own_defaults`).

    Threads of other devices than the CPU are left alone.
    """
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        with own_defaults():
            yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """`work` of every item, in order, on so many threads; what begins first stands first.

    If one fails, those that have not begun never do, running ones are waited for, and its error is raised.
    """
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), "medgym") as pool:
        return list(pool.map(work, items))


def keep_memory() -> bool:
    """Keep freed memory in this process instead of returning it to the system; results do not change.

    For programs (the command line, the engine's workers): a library should leave its host's memory alone, so nothing
    calls this on import.

    Returns:
        Whether the C library took it (Linux with glibc); elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return False
    return all(mallopt(*pair) == 1 for pair in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _AT_ONCE)))
