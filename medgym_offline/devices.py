"""Torch devices by name, refused in one line where they cannot be used."""

from __future__ import annotations

from medgym_offline.errors import MedGymError

__all__ = ["check_device"]


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
