"""What a training cost: recorded beside the policy file, not in it, so that the same training gives the same file."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from medgym_offline.files import write_json
from medgym_offline.threads import cores

__all__ = ["Compute", "compute_file", "hardware", "read_compute"]


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
