"""Torch's default type and device: ours are float32 on the CPU, whatever the program that calls us has set.

Our tensors say neither in every place, and a number must not depend on somebody's `torch.set_default_dtype`. What makes
or moves tensors therefore runs in :func:`own_defaults`; code of others that it calls runs in :func:`callers_defaults`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["callers_defaults", "own_defaults"]

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
