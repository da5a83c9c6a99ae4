"""Export of stacked actors to TorchScript, `torch.export` and ONNX, for use without this package.

Either file is a function from observations (N, d) to actions (N, A); of a policy with a history, from windows (N, W) as
:mod:`medgym_offline.sequences` describes them. It holds our header (as an extra file, or as model metadata), from which
`load_policy` takes the disease, the number of decisions and the history: windows are built outside the file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgym_offline.compute import own_defaults
from medgym_offline.errors import MissingExtraError
from medgym_offline.files import atomic_path
from medgym_offline.policies.actor import StackedActor, gated
from medgym_offline.policies.files import actor_header, actor_of, patient_file_stem
from medgym_offline.policies.foreign import EXTRA_FILE
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.stack import StackedMLP

__all__ = ["export_onnx", "export_program", "export_torchscript"]

_ONNX_OPERATORS = 17  # of 2022: old enough for every runtime that `onnxruntime>=1.17` can be


class Lookup(nn.Module):
    """The codeword of the largest score: (N, C) -> (N, A).

    Args:
        codebook: (C, A).
        gate: As in `StackedActor`; scores are then (N, 2C).
    """

    codebook: Tensor

    def __init__(self, codebook: Tensor, gate: float | None = None):
        super().__init__()
        self.gate = gate
        self.register_buffer("codebook", codebook.detach().clone())

    def forward(self, scores: Tensor) -> Tensor:
        """See the class."""
        return self.codebook[(scores if self.gate is None else gated(scores, self.gate)).argmax(-1)]


class UnstackedNetwork(nn.Module):
    """A stack of one on rows: (N, in) -> (N, out)."""

    def __init__(self, net: StackedMLP):
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.net(rows[None])[0]
        return found


def _plain_network(policy: StackedActor) -> nn.Sequential:
    """A shared actor or a stack of one as a module without a patient axis: observations or windows (N, d) -> (N, A)."""
    answer = nn.Tanh() if policy.codebook is None else Lookup(policy.codebook[0], policy.gate)
    return nn.Sequential(UnstackedNetwork(policy.net.select([0])), answer).eval()


@own_defaults()
def export_torchscript(policy: StackedActor | HistoryPolicy, path: str | Path, patient: str | None = None) -> Path:
    """Write a deterministic policy as TorchScript: observations (N, d) -> actions (N, A).

    A shared actor, a stack of one, or one `patient` of a stack is written to the file `path` (.pt). A stack of
    several without `patient` becomes the folder `path` with one file per patient ("/" in ids written as "__").
    `load_policy` reads both back.

    Raises:
        UnknownNameError: If the patient is not in the stack.
    """
    return _export(policy, path, patient, ".pt", _write_torchscript)


@own_defaults()
def export_program(policy: StackedActor | HistoryPolicy, path: str | Path, patient: str | None = None) -> Path:
    """Write a deterministic policy as a program of `torch.export`: observations (N, d) -> actions (N, A), N free.

    Files and folders as in `export_torchscript`, with the suffix .pt2.

    Raises:
        UnknownNameError: If the patient is not in the stack.
    """
    return _export(policy, path, patient, ".pt2", _write_program)


@own_defaults()
def export_onnx(policy: StackedActor | HistoryPolicy, path: str | Path, patient: str | None = None) -> Path:
    """Write a deterministic policy as ONNX: "observations" (N, d) -> "actions" (N, A), float32.

    Files and folders as in `export_torchscript`, with the suffix .onnx.

    Raises:
        UnknownNameError: If the patient is not in the stack.
        MissingExtraError: If onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtraError.of("onnx", "onnx", f"{path}: an ONNX policy") from None
    return _export(policy, path, patient, ".onnx", _write_onnx)


def _export(
    policy: StackedActor | HistoryPolicy,
    path: str | Path,
    patient: str | None,
    suffix: str,
    write: Callable[[nn.Sequential, dict[str, Any], Path], None],
) -> Path:
    with atomic_path(path) as temporary:
        files = {temporary: policy if patient is None else policy.select([patient])}
        if patient is None and policy.patients is not None and len(policy.patients) > 1:
            temporary.mkdir()
            files = {temporary / f"{patient_file_stem(p)}{suffix}": policy.select([p]) for p in policy.patients}
        for file, one in files.items():
            write(_plain_network(actor_of(one)), actor_header(one), file)
    return Path(path)


def _write_torchscript(network: nn.Sequential, header: dict[str, Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces TorchScript's retirement on every call
        module = torch.jit.trace(network, torch.zeros(2, header["sizes"][0]))
        torch.jit.save(module, str(path), _extra_files={EXTRA_FILE: json.dumps(header, sort_keys=True)})


def _write_program(network: nn.Sequential, header: dict[str, Any], path: Path) -> None:
    shape = {0: torch.export.Dim("N")}
    program = torch.export.export(network, (torch.zeros(3, header["sizes"][0]),), dynamic_shapes=(shape,))
    extra = {EXTRA_FILE: json.dumps(header, sort_keys=True)}
    with open(path, "wb") as stream:  # not by name: torch refuses other suffixes
        torch.export.save(program, stream, extra_files=extra)


def _write_onnx(network: nn.Sequential, header: dict[str, Any], path: Path) -> None:
    import onnx

    one, names = torch.zeros(2, header["sizes"][0]), ("observations", "actions")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing, which needs no further package, is called legacy
        torch.onnx.export(
            network,
            (one,),
            path,
            dynamo=False,
            opset_version=_ONNX_OPERATORS,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "N"} for name in names},
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {EXTRA_FILE: json.dumps(header, sort_keys=True)})
    onnx.save(model, path)
