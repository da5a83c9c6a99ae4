"""How a process computes: one torch thread, memory that is kept for the next tensor, and what a training cost.

Stacked products of small matrices run fastest on one thread: on a busy two-core machine a second one makes them 5 to 13
times slower. Work is spread over processes instead, or, where its pieces are few and large, over threads of our own
(:func:`side_by_side`).

Tensors of a stack are a few megabytes each. The C library of Linux hands such blocks back to the system at once and
asks for them anew, page by page, which was measured to cost a third of an environment step
(`benchmarks/simulators.py --return-memory` shows it).

Ours are float32 tensors on the CPU, whatever default type and device the program that calls us has set. They say
neither in every place, and a number must not depend on somebody's `torch.set_default_dtype`. What makes
or moves tensors therefore runs in :func:`own_defaults`; code of others that it calls runs in :func:`callers_defaults`.

The cost of a training is recorded beside the policy file, not in it, so that the same training gives the same file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from medgym_offline.errors import MedGymError
from medgym_offline.files import write_json

__all__ = [
    "Compute", "callers_defaults", "check_device", "compute_file", "cores", "hardware", "keep_memory", "one_thread",
    "own_defaults", "read_compute", "side_by_side",
]  # fmt: skip

_lock = threading.Lock()
_inside = 0
_dtype: Any = None
_here = threading.local()
"""The device is each thread's own default, the type is the process's: the last thread to leave sets it back."""


@contextlib.contextmanager
def own_defaults() -> Iterator[None]:
    """Inside the block (or decorated function) new tensors are float32 on the CPU unless they say otherwise."""
    global _inside, _dtype
    import torch

    with _lock:
        if not _inside:  # the first of all threads
            _dtype = torch.get_default_dtype()
        _inside += 1
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
    device_before, called = getattr(_here, "device", None), getattr(_here, "called", False)
    _here.called = False
    try:
        if (device := torch.empty(0).device).type == "cpu":
            yield
        else:
            _here.device = device
            with torch.device("cpu"):
                yield
    finally:
        _here.device, _here.called = device_before, called
        with _lock:
            _inside -= 1
            if (called or not _inside) and _dtype != torch.float32:
                torch.set_default_dtype(_dtype)


@contextlib.contextmanager
def callers_defaults() -> Iterator[None]:
    """Inside :func:`own_defaults`: the defaults that were in force outside it."""
    import torch

    changed, called = bool(_inside) and _dtype != torch.float32, getattr(_here, "called", False)
    device = getattr(_here, "device", None)
    if changed:
        torch.set_default_dtype(_dtype)
    _here.called = changed
    try:
        with contextlib.nullcontext() if device is None else torch.device(device):
            yield
    finally:
        _here.called = called
        if changed and not called:
            torch.set_default_dtype(torch.float32)


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


@dataclass(frozen=True)
class Compute:
    """Cost of one training run.

    Attributes:
        hardware: Processor and number of cores, or the accelerator; None if unknown.
        wall_seconds: From the first update to the last, s; None if unknown (an interrupted run that was resumed).
        updates: Gradient steps; None if unknown.
    """

    hardware: str | None = None
    wall_seconds: float | None = None
    updates: int | None = None

    def save(self, policy: str | Path) -> None:
        """Write it beside the policy file, atomically."""
        write_json(compute_file(policy), asdict(self))


def compute_file(policy: str | Path) -> Path:
    """Where the cost of a policy file is kept: its name with the suffix `.compute.json`."""
    return Path(policy).with_suffix(".compute.json")


def read_compute(policy: str | Path) -> Compute | None:
    """The cost recorded beside a policy file; None if there is none that can be read."""
    try:
        value = json.loads(compute_file(policy).read_text("utf-8"))
        return Compute(value["hardware"], value["wall_seconds"], value["updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hardware(device: str = "cpu") -> str:
    """What computes on `device`: the accelerator's name, or the processor's and how many cores this process may use."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    cpus, count = Path("/proc/cpuinfo"), cores()
    lines = cpus.read_text("utf-8").splitlines() if cpus.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(named, "") or platform.processor() or platform.machine()
    return f"{processor}, {count} core{'s' if count > 1 else ''}"


def check_device(name: str) -> str:
    """`name` if tensors can be put there ("cpu", "cuda", "cuda:1", "mps").

    Raises:
        MedGymError: No such kind of device, or none on this machine.
    """
    import torch

    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise MedGymError(f"unknown device {name!r}; known: cpu, cuda, cuda:N, mps")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        have = f"torch {torch.__version__}, {torch.cuda.device_count()} CUDA GPUs"
        raise MedGymError(f"device {name!r} is not available here ({have}); use --device cpu") from None
    return name
