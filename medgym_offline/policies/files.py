"""Policy files: written atomically, recognized by content, opened without running anything inside them.

Two formats of our own hold the same thing, a JSON header and the tensors of a :class:`StackedActor`:

    .safetensors    header under the metadata key "medgym-policy"
    .pt             torch checkpoint {"header": JSON text, "tensors": {name: tensor}}, read with weights_only=True

Tensors: `layers.<i>.weight` (P, in, out), `layers.<i>.bias` (P, 1, out), optional `log_std` (P or 1, A) or `codebook`
(P or 1, C, A), and of a Decision Transformer `target` (P, 1, 1).
Header: format "medgym-policy/1", disease, scope "ind" | "clu" | "pop" | "context", timing, decisions, patients (ids or
null), sizes, activation, provenance, gate where the policy has one, view where it is not "full", and where it is a
:class:`HistoryPolicy` its history and the kind of its network (:mod:`medgym_offline.sequences`).

A Python pickle can run any code when it is opened, so it is recognized by its bytes and refused unopened.

:class:`TrainResult` is what a training leaves behind, offline or online.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast
from urllib.parse import unquote

import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration, from_values
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import MedGymError, PolicyError
from medgym_offline.files import atomic_path, code_version
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.sequences import LONGEST, NETWORKS, window_width
from medgym_offline.stack import Steps

__all__ = [
    "FORMAT", "MAX_BYTES", "REMEDY", "TrainResult", "actor_header", "actor_of", "header_of", "load_checkpoint",
    "load_safetensors", "patient_file_stem", "patient_of_stem", "reading", "save_policy", "zip_names",
]  # fmt: skip

FORMAT = "medgym-policy/1"
MAX_BYTES = 512 * 2**20
"""Largest policy file that is opened (110 patients at hidden width 256 take 30 MB)."""

_KEY = "medgym-policy"
REMEDY = "save it with medgym_offline.policies.save_policy, export it as TorchScript, or as ONNX"


def patient_file_stem(patient: str) -> str:
    """File name, without suffix, of one patient's policy in a folder of policies; `patient_of_stem` inverts it.

    "/" becomes "__". What that would make ambiguous, or hide the file, is written as a percent and two digits: "%", "_"
    beside another "_" or "/", and a dot at the beginning.
    """
    plain = re.sub(r"_(?=[_/])|(?<=[_/])_", "%5F", patient.replace("%", "%25"))
    return re.sub(r"^\.", "%2E", plain).replace("/", "__")


def patient_of_stem(stem: str) -> str:
    """Patient whose policy is in the file with this name (without suffix) in a folder of policies."""
    return unquote(stem.replace("__", "/"))


@configuration("policy header", PolicyError)
class Header:
    """What a policy file says about its policy."""

    format: Literal["medgym-policy/1"]
    timing: Literal["adaptive", "fixed"]
    sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=2)]
    activation: Literal["tanh", "relu", "silu"]
    disease: str = DEFAULT
    scope: str = ""
    decisions: Annotated[int, Field(gt=0)] | None = None
    patients: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    gate: Annotated[float, Field(le=0)] | None = None
    view: str = FULL
    history: Annotated[int, Field(ge=1, le=LONGEST)] = 1
    network: Literal["mlp", "gru", "transformer"] = "mlp"


def actor_header(policy: StackedActor | HistoryPolicy) -> dict[str, Any]:
    """What a policy file says about its policy.

    Raises:
        PolicyError: It is no `StackedActor`, with a history or without.
    """
    if isinstance(policy, HistoryPolicy) and isinstance(policy.inner, StackedActor):
        return actor_header(policy.inner) | {"history": policy.history, "network": policy.inner.net.kind}
    if not isinstance(policy, StackedActor):
        raise PolicyError(f"only stacked actors have a file format, not {type(policy).__name__}")
    return {
        **({} if policy.gate is None else {"gate": policy.gate}),
        **({} if policy.view == FULL else {"view": policy.view}),
        "format": FORMAT,
        "disease": policy.disease,
        "scope": policy.scope,
        "timing": policy.timing,
        "decisions": policy.decisions,
        "patients": None if policy.patients is None else list(policy.patients),
        "sizes": list(policy.net.sizes),
        "activation": policy.net.activation,
        "provenance": {"written_by": code_version(), **policy.provenance},
    }


def actor_of(policy: StackedActor | HistoryPolicy) -> StackedActor:
    """The stack itself, without its memory."""
    return cast(StackedActor, policy.inner) if isinstance(policy, HistoryPolicy) else policy


@own_defaults()
def save_policy(policy: StackedActor | HistoryPolicy, path: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write `policy` to `path` (.safetensors or .pt), whole or not at all; the same policy gives the same bytes.

    `dtype` float16 halves the file; `load_policy` gives float32 again, with the weights rounded.

    Raises:
        PolicyError: If the suffix is another one, or the policy is not a `StackedActor`, with a history or without.
    """
    target, header = Path(path), json.dumps(actor_header(policy), sort_keys=True, allow_nan=False)
    policy = actor_of(policy)
    if policy.net.output != "identity":
        raise PolicyError(f"the actor's last layer has activation {policy.net.output!r}; 'identity' is expected")
    own = {"log_std": policy.log_std, "codebook": policy.codebook}
    held = policy.net.state_dict() | {name: value for name, value in own.items() if value is not None}
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in held.items()}
    with atomic_path(target) as temporary:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, temporary, metadata={_KEY: header})
        elif target.suffix == ".pt":
            buffer = io.BytesIO()  # torch.save writes the name of a file into it, and the temporary name is random
            torch.save({"header": header, "tensors": tensors}, buffer)
            temporary.write_bytes(buffer.getvalue())
        else:
            raise PolicyError(f"{target}: a policy file ends in .safetensors or .pt, not {target.suffix!r}")
    return target


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises inside while it reads the file `path`, as one line: a damaged `kind`."""
    try:
        yield
    except PolicyError:
        raise
    except Exception as error:  # of many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PolicyError(f"{path}: damaged {kind} ({reason[:160]}); copy or save it again") from None


def zip_names(path: Path, max_bytes: int) -> list[str]:
    """Names in a zip archive, if it unpacks to no more than `max_bytes`; a `PolicyError` otherwise."""
    with reading(path, "archive"), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if sum(e.file_size for e in entries) > max_bytes:
        raise PolicyError(f"{path}: unpacks to more than {max_bytes / 2**20:.0f} MB, the limit for a policy")
    return [e.filename for e in entries]


def load_safetensors(path: Path) -> StackedActor | HistoryPolicy:
    """Our own safetensors file; `PolicyError` if it is none."""
    from safetensors import safe_open

    with reading(path, "safetensors file"), safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get(_KEY)
        tensors = {name: file.get_tensor(name) for name in file.keys()} if header else {}  # noqa: SIM118
    if header is None:
        raise PolicyError(f"{path}: safetensors without the metadata {_KEY!r}, so not a policy; {REMEDY}")
    return _build(path, header, tensors)


def load_checkpoint(path: Path, max_bytes: int) -> StackedActor | HistoryPolicy:
    """Our own torch checkpoint, opened without running anything in it; `PolicyError` if it is none."""
    try:
        with open(path, "rb") as stream:  # not by name: torch chooses another reader by suffix
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the unpickler that refuses is one of them
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "weights" in first.lower() or "unsupported" in first.lower():
            first = "it holds Python objects besides tensors, which could run code, so they were not opened"
        raise PolicyError(f"{path}: not a weights-only checkpoint ({first[:160]}); {REMEDY}") from None
    if not isinstance(content, dict) or not isinstance(content.get("header"), str):
        raise PolicyError(f"{path}: a torch checkpoint without the policy header; {REMEDY}")
    tensors = content.get("tensors")
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise PolicyError(f"{path}: a torch checkpoint whose 'tensors' are missing; {REMEDY}")
    # A checkpoint stores strides: one stored number, repeated with stride 0, may claim to be a matrix of terabytes.
    if sum(t.numel() * t.element_size() for t in tensors.values()) > max_bytes:
        raise PolicyError(f"{path}: its tensors take more than {max_bytes / 2**20:.0f} MB, the limit for a policy")
    return _build(path, content["header"], tensors)


def header_of(path: Path, text: str, unsaid: Mapping[str, Any]) -> Header:
    """The header of a file from its JSON; `unsaid` holds where it says nothing. `PolicyError` if it is wrong."""
    with reading(path, "header"):
        values = {**unsaid, **json.loads(text, parse_constant=lambda _: None)}  # results are JSON, which knows no NaN
    if (found := values.get("format")) != FORMAT:
        raise PolicyError(f"{path}: policy format {found!r} is not {FORMAT!r}; update medgym-offline or save it again")
    return from_values(Header, values, str(path))


def _build(path: Path, text: str, tensors: Mapping[str, Tensor]) -> StackedActor | HistoryPolicy:
    """The actor that header and tensors describe; whatever is wrong names the file."""
    header = header_of(path, text, {})
    try:
        return _assemble(header, tensors)
    except MedGymError as error:
        raise PolicyError(f"{path}: {error}; save the policy again, or train it on our data") from None


def _assemble(header: Header, tensors: Mapping[str, Tensor]) -> StackedActor | HistoryPolicy:
    """The actor, with everything checked against everything."""
    disease, sizes, timing = find_disease(header.disease), header.sizes, header.timing
    steps = Steps(header.history, disease.action_dim(timing))
    expected = window_width(len(disease.seen(header.view)), steps.action, steps.history)
    if sizes[0] != expected:
        what = "observation columns" if steps.history == 1 else f"columns of history={steps.history}"
        seen = f"{disease.name} under view {header.view!r}"
        raise PolicyError(f"input width {sizes[0]}, expected {expected} {what} of {seen}")
    codebook = tensors.get("codebook")
    width = sizes[-1] if codebook is None or codebook.dim() != 3 else codebook.shape[-1]
    if width != steps.action:
        raise PolicyError(f"output width {width} with timing {timing!r}, which needs {steps.action} actions")
    if header.gate is not None and codebook is None:
        raise PolicyError("header field gate is the logarithm of a ratio beside a codebook, and there is none")
    if header.network != "mlp" and (steps.history == 1 or len(sizes) == 2):
        raise PolicyError(f"a network {header.network!r} with sizes {list(sizes)} and history {steps.history}")
    count, kind = 1 if header.patients is None else len(header.patients), NETWORKS[header.network]
    weights = {name: tensor for name, tensor in tensors.items() if name not in ("log_std", "codebook")}
    if {name: tuple(t.shape) for name, t in weights.items()} != kind.shapes(count, sizes, steps):
        raise PolicyError(f"its tensors do not have the shapes of {count} networks of sizes {list(sizes)}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise PolicyError(f"tensor {name} is not finite floating point")
    net = kind(count, sizes, header.activation, seeds=[0] * count, steps=steps)
    net.load_state_dict({name: tensor.to(torch.float32) for name, tensor in weights.items()})
    rest = (tensors.get("log_std"), header.provenance, codebook, disease.name, header.gate, header.view)
    actor = StackedActor(net, header.patients, header.decisions, *rest)
    return actor if steps.history == 1 else HistoryPolicy(actor, steps.history)


Log = TypeVar("Log")


@dataclass(frozen=True, eq=False)
class TrainResult(Generic[Log]):
    """A trained stack of policies.

    Attributes:
        policy: The policies after the last update (the protocol scores the last, never the best).
        log: Offline: a line per 50 updates, means over learners: update, and what the objective reports (mse; or td,
            q, gap). Online: name -> `(updates, S or P)`: return, cost, decisions, first and last interval, multiplier,
            kl, gain, accepted (TRPO) or clipped (PPO), alpha and entropy (SAC), value_loss.
        stopped: Learner or patient id -> why (offline) or at which update (online) it was stopped early.
        checkpoints: Offline: update -> the policies then, the last included; empty unless asked for.
        state: Online: what training would go on from; of `train_behavior`, without a replay buffer.
    """

    policy: StackedActor | HistoryPolicy
    log: Log
    stopped: dict[str, Any]
    checkpoints: dict[int, StackedActor | HistoryPolicy] = field(default_factory=dict)
    state: Any = None
