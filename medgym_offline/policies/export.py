"""Export of stacked actors to plain TorchScript, for use without this package."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from medgym_offline.errors import PolicyError
from medgym_offline.files import atomic_path
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.files import actor_header, patient_file_stem
from medgym_offline.policies.foreign import EXTRA_FILE

__all__ = ["export_torchscript", "plain_network"]

_MODULES: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "identity": nn.Identity}


def plain_network(policy: StackedActor, patient: str | None = None) -> nn.Sequential:
    """One network of a stack as an ordinary module: observations (N, d) -> actions (N, A).

    Args:
        policy: The stack.
        patient: Whose network; None for a shared actor or a stack of one.

    Raises:
        PolicyError: If `patient` is None and the stack holds several.
        UnknownNameError: If the patient is not in the stack.
    """
    if patient is None and policy.patients is not None and len(policy.patients) > 1:
        raise PolicyError(f"this policy holds {len(policy.patients)} patients; name the one to export")
    at = 0 if patient is None else policy.index(patient)
    modules: list[nn.Module] = []
    last = len(policy.net.layers) - 1
    for i, layer in enumerate(policy.net.layers):
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            linear.weight.copy_(weight[at].T)
            linear.bias.copy_(bias[at, 0])
        modules += [linear, _MODULES[policy.net.output if i == last else policy.net.activation]()]
    return nn.Sequential(*modules, nn.Tanh()).eval()


def export_torchscript(policy: StackedActor, path: str | Path, patient: str | None = None) -> Path:
    """Write a deterministic policy as TorchScript: observations (N, d) -> actions (N, A).

    A shared actor, a stack of one, or one `patient` of a stack is written to the file `path` (.pt). A stack of
    several without `patient` becomes the folder `path` with one file per patient ("/" in ids written as "__").
    `load_policy` reads both back.

    Raises:
        UnknownNameError: If the patient is not in the stack.
    """
    target = Path(path)
    if patient is None and policy.patients is not None and len(policy.patients) > 1:
        with atomic_path(target) as folder:
            folder.mkdir()
            for name in policy.patients:
                _write(policy, folder / f"{patient_file_stem(name)}.pt", name)
        return target
    with atomic_path(target) as temporary:
        _write(policy, temporary, patient)
    return target


def _write(policy: StackedActor, path: Path, patient: str | None) -> None:
    header = actor_header(policy if patient is None else policy.select([patient]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces TorchScript's retirement on every call
        module = torch.jit.trace(plain_network(policy, patient), torch.zeros(2, policy.observation_dim))
        torch.jit.save(module, str(path), _extra_files={EXTRA_FILE: json.dumps(header, sort_keys=True)})
