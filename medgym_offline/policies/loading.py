"""Opening a policy of any kind: our files, TorchScript, torch.export, ONNX, or a folder with one file per patient.

Of a policy that `torch.export` has saved (.pt2) the graph is read and computed here, and nothing else of the file:
`torch.export.load` unpickles parts of an archive, so a file from elsewhere could run code. This reader takes the graph
(JSON), the weights (raw numbers) and our header. What is pickled is never opened, and a graph may only hold operators
of the list below: functions of tensors without loops, files or side effects.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.errors import PolicyError
from medgym_offline.files import POLICY_SUFFIXES
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.files import (
    MAX_BYTES,
    REMEDY,
    load_checkpoint,
    load_safetensors,
    patient_of_stem,
    reading,
    zip_names,
)
from medgym_offline.policies.foreign import EXTRA_FILE, PolicyCollection, policy_of, read_onnx, read_torchscript
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.protocol import Policy

__all__ = ["is_program", "load_policy", "read_program"]

_OPERATORS = """
    __and__ __or__ _log_softmax _softmax _to_copy _unsafe_view abs add addmm alias amax amin arange argmax argmin
    baddbmm bmm cat ceil chunk clamp clamp_max clamp_min clone concat contiguous cos detach div dropout elu eq exp
    expand expm1 flatten flip floor full full_like gather ge gelu gt hardtanh index index_select layer_norm le
    leaky_relu lift_fresh_copy linear log log1p log_softmax logical_and logical_not lt masked_fill matmul max
    maximum mean min minimum mish mm mul native_layer_norm ne neg new_zeros ones ones_like pad permute pow
    reciprocal relu repeat_interleave reshape round rsqrt rsub scalar_tensor scaled_dot_product_attention select
    sigmoid sign silu sin slice softmax softplus split split_with_sizes sqrt square squeeze stack sub sum sym_size t
    tanh to topk transpose unbind unsqueeze view where zeros zeros_like
"""
_SYMBOLIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv}
_CHECKS = ("torch.ops.aten._assert_scalar.", "torch.ops.aten._assert_tensor_metadata.", "torch.ops.aten.sym_constrain")
_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""Numbers of element types in the archive."""


def is_program(names: list[str]) -> bool:
    """Whether a zip archive with these names was saved by `torch.export`."""
    return any(name.partition("/")[2].startswith("models/") or "serialized_exported_program" in name for name in names)


def read_program(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Function and header of a program of `torch.export`, from observations or windows (N, d) to actions (N, A).

    Raises:
        PolicyError: The file is damaged, pickles its weights, or uses an operator that is not listed.
    """
    with reading(path, "torch.export program"), zipfile.ZipFile(path) as archive:
        return _read(archive, path)


class _Program:
    """The graph, computed node by node."""

    def __init__(self, graph: Mapping[str, Any], values: dict[str, Any], name: str, path: Path):
        self._values, self._input, self._path = values, name, path
        self._nodes = [self._node(node) for node in graph["nodes"]]
        outputs = graph["outputs"]
        if len(outputs) != 1 or "as_tensor" not in outputs[0]:
            raise PolicyError(f"{path}: answers with {len(outputs)} values; export a function with one, the actions")
        self._output = str(outputs[0]["as_tensor"]["name"])

    def _node(self, node: Mapping[str, Any]) -> tuple[Callable[..., Any], list[Any], list[tuple[str, Any]], list[Any]]:
        inputs = node["inputs"]
        positional = [item["arg"] for item in inputs if item.get("kind") != 2]
        named = [(str(item["name"]), item["arg"]) for item in inputs if item.get("kind") == 2]
        return _function(str(node["target"]), self._path), positional, named, node["outputs"]

    def __call__(self, observations: Tensor) -> Tensor:
        known = self._values | {self._input: observations}
        for function, positional, named, outputs in self._nodes:
            arguments = [_value(argument, known) for argument in positional]
            found = function(*arguments, **{name: _value(argument, known) for name, argument in named})
            for output, value in zip(outputs, found if len(outputs) > 1 else [found]):
                _store(output, value, known)
        answer: Tensor = known[self._output]
        return answer


def _function(target: str, path: Path) -> Callable[..., Any]:
    """What a node computes; refused unless listed."""
    if target.startswith(_CHECKS):
        return lambda *_, **__: None
    head, _, rest = target.rpartition("torch.ops.aten.")
    name, _, overload = rest.partition(".")
    if not head and name in _OPERATORS.split() and overload.isidentifier():
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and overload in packet.overloads():
            function: Callable[..., Any] = getattr(packet, overload)
            return function
    if target.startswith("_operator.") and (symbolic := _SYMBOLIC.get(target.removeprefix("_operator."))):
        return symbolic
    uses = f"the program uses {target[:60]!r}, which is none of the operators that a policy may hold"
    raise PolicyError(f"{path}: {uses}; export the bare network")


def _value(argument: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """An argument of a node."""
    kind, value = next((k, v) for k, v in argument.items() if v is not None)
    if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
        return known[value["name"]] if "name" in value else _symbol(value, known)
    if kind in ("as_tensors", "as_optional_tensors"):
        return [_optional(item, known) for item in value]
    if kind == "as_optional_tensor":
        return _optional(value, known)
    if kind in ("as_sym_ints", "as_sym_floats"):
        return [_symbol(item, known) for item in value]
    if kind == "as_scalar_type":
        return _TYPES[value]
    if kind in ("as_none", "as_memory_format", "as_layout"):
        return None
    if kind == "as_device":
        return torch.device("cpu")
    if kind in ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"):
        return [float(v) for v in value] if kind == "as_floats" else float(value) if kind == "as_float" else value
    raise ValueError(f"an argument of kind {kind}")


def _symbol(value: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    return known[value["as_name"]] if value.get("as_name") is not None else next(v for v in value.values())


def _optional(item: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    named = item.get("as_tensor", item)
    return known[named["name"]] if isinstance(named, Mapping) and "name" in named else None


def _store(output: Mapping[str, Any], value: Any, known: dict[str, Any]) -> None:
    for kind, target in output.items():
        if kind == "as_tensors":
            known |= {item["name"]: one for item, one in zip(target, value)}
        elif isinstance(target, Mapping):
            known[target.get("name") or target["as_name"]] = value


def _read(archive: zipfile.ZipFile, path: Path) -> tuple[_Program, str]:
    names = archive.namelist()
    models = [n for n in names if n.partition("/")[2].startswith("models/") and n.endswith(".json")]
    if len(models) != 1:
        raise PolicyError(f"{path}: holds {len(models)} programs that can be read; save one with torch 2.8 or newer")
    root = models[0].partition("/")[0]
    graph = json.loads(archive.read(models[0]))["graph_module"]
    stored = {}
    for kind in ("weights", "constants"):
        for config in (n for n in names if n.startswith(f"{root}/data/{kind}/") and n.endswith("_config.json")):
            for name, entry in json.loads(archive.read(config))["config"].items():
                stored[name] = _tensor(archive, f"{root}/data/{kind}/{entry['path_name']}", entry, path)
    values: dict[str, Any] = {}
    inputs = []
    for spec in graph["signature"]["input_specs"]:
        kind, entry = next(iter(spec.items()))
        if kind == "user_input":
            inputs.append(entry["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            values[entry["arg"]["name"]] = stored[entry[f"{kind}_name"]]
        else:
            raise ValueError(f"an input of kind {kind}")
    if len(inputs) != 1:
        raise PolicyError(f"{path}: takes {len(inputs)} inputs; export a function of the observations")
    extra = f"{root}/extra/{EXTRA_FILE}"
    header = archive.read(extra).decode(errors="replace") if extra in names else ""
    return _Program(graph["graph"], values, inputs[0], path), header


def _tensor(archive: zipfile.ZipFile, name: str, entry: Mapping[str, Any], path: Path) -> Tensor:
    if entry.get("use_pickle"):
        file, remedy = name.rpartition("/")[2], "export the bare network in float32 on the CPU"
        raise PolicyError(f"{path}: {file} is a Python pickle, which could run code, so it was not opened; {remedy}")
    about = entry["tensor_meta"]
    sizes, strides = ([int(v["as_int"]) for v in about[key]] for key in ("sizes", "strides"))
    kind, offset = _TYPES[about["dtype"]], int(about["storage_offset"]["as_int"])
    content = bytearray(archive.read(name))
    flat = torch.frombuffer(content, dtype=kind) if content else torch.zeros(0, dtype=kind)
    if min([offset, *sizes, *strides]) < 0 or math.prod(sizes) > len(flat):
        raise ValueError(f"{name} has {len(flat)} numbers, its header asks for {sizes}")
    return flat.as_strided(sizes, strides, offset)  # beyond the numbers it raises


@own_defaults()
def load_policy(
    path: str | Path, max_bytes: int = MAX_BYTES, disease: str | None = None, view: str | None = None
) -> Policy:
    """Open a policy file, or a folder with one file per patient; the kind is recognized by content.

    Accepted: our .safetensors and weights-only .pt; a TorchScript module from observations (N, d) to actions (N, A),
    as d3rlpy's `save_policy` writes; a program of `torch.export` (.pt2) or an ONNX model (extra `onnx`) of the same
    signature; a folder of such files named by patient id, "/" written as "__" (`patient_file_stem`). A policy is its
    file: an ONNX model whose weights lie in a second one is refused.

    Args:
        path: File or folder.
        max_bytes: Larger files are refused.
        disease: Name of the disease that a file is for which names none; the default one if not given.
        view: What a module sees whose file does not say; "full" if not given.

    Raises:
        PolicyError: One line with the file, what was found and the remedy. Pickles are refused unopened.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path, max_bytes, disease, view)
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file or folder")
    size = path.stat().st_size
    if size == 0:
        raise PolicyError(f"{path}: the file is empty; {REMEDY}")
    if size > max_bytes:
        raise PolicyError(f"{path}: {size / 2**20:.0f} MB is over the limit of {max_bytes / 2**20:.0f} MB for a policy")
    with open(path, "rb") as stream:
        head = stream.read(16)
    if head[:4] == b"PK\x03\x04":
        names = zip_names(path, max_bytes)
        if any(part.split("/")[1:2] == ["code"] for part in names):
            return policy_of(*read_torchscript(path), path, disease, view)
        if is_program(names):
            return policy_of(*read_program(path), path, disease, view)
        return load_checkpoint(path, max_bytes)
    if len(head) > 8 and head[8:9] == b"{":
        return load_safetensors(path)
    if head[:1] == b"\x80":
        raise PolicyError(f"{path}: a Python pickle, which could run code when opened, so it was not; {REMEDY}")
    if head[:1] == b"\x08" and path.suffix == ".onnx":
        return policy_of(*read_onnx(path), path, disease, view)
    raise PolicyError(f"{path}: not a policy file (begins with {head[:8]!r}); {REMEDY}")


def load_folder(path: Path, max_bytes: int, disease: str | None = None, view: str | None = None) -> Policy:
    """A folder of policy files, one per patient, as one policy. See `load_policy`."""
    files = sorted(f for f in path.iterdir() if f.suffix in POLICY_SUFFIXES and not f.name.startswith("."))
    if not files:
        raise PolicyError(f"{path}: no policy files ({', '.join(POLICY_SUFFIXES)}) in this folder")
    policies: dict[str, Policy] = {}
    for file in files:
        patient = patient_of_stem(file.stem)
        policy = load_policy(file, max_bytes, disease, view)
        if patient in policies:
            raise PolicyError(f"{path}: two files for patient {patient}; keep one")
        if policy.patients is not None and policy.patients != (patient,):
            inside = ", ".join(policy.patients[:3])
            raise PolicyError(f"{file}: holds the policy of {inside}, its name says {patient}; rename the file")
        policies[patient] = policy
    try:
        histories = {getattr(p, "history", 1) for p in policies.values()}
        found = {patient: p.inner if isinstance(p, HistoryPolicy) else p for patient, p in policies.items()}
        actors = [p.take([0], (patient,)) for patient, p in found.items() if isinstance(p, StackedActor)]
        if len(actors) == len(policies) and len({(a.net.sizes, a.net.activation, *histories) for a in actors}) == 1:
            actor = StackedActor.concatenate(actors)
            return actor if histories == {1} else HistoryPolicy(actor, *histories)
        if len(histories) > 1:
            raise PolicyError("policies with a history are of one form in a folder, or in folders of their own")
        collection = PolicyCollection(found)
        return collection if histories == {1} else HistoryPolicy(collection, *histories)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
