"""What the benchmarks share: arguments by place, the least time of several calls, four digits, what a machine is."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["arguments", "machine", "rounded", "seconds"]


def arguments(about: str | None, **defaults: Any) -> list[Any]:
    """What the command line gives in this order, else the defaults; `--help` shows `about`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(name, nargs="?", type=type(default), default=default, help=f"default: {default}")
    return list(vars(parser.parse_args()).values())


def seconds(
    action: Callable[[], Any], repeats: int = 3, clock: Callable[[], float] = time.process_time, warm: bool = True
) -> float:
    """Least time of `repeats` calls, by default CPU time after one call that does not count."""
    if warm:
        action()
    times = []
    for _ in range(repeats):
        start = clock()
        action()
        times.append(clock() - start)
    return min(times)


def rounded(value: Any) -> Any:
    """Four digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine(**others: Any) -> dict[str, Any]:
    """Cores, load, versions, and `others`."""
    found = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    return found | {"python": platform.python_version(), "torch": torch.__version__} | others
