"""Policies from elsewhere: TorchScript and ONNX modules, and folders with one file per patient.

Every call has a time limit: a file that loops forever is refused instead of hanging the evaluation.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import MissingExtraError, PolicyError, UnknownNameError, unknown_name
from medgym_offline.policies.files import FORMAT, header_of, reading
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.protocol import Policy, disease_of_policy, seen_width, timing_of_width, torch_or_numpy
from medgym_offline.sequences import window_width
from medgym_offline.stack import Steps

__all__ = ["EXTRA_FILE", "ModulePolicy", "PolicyCollection", "TimeLimits", "policy_of", "read_onnx", "read_torchscript"]


@dataclass
class TimeLimits:
    """How long a module may take; counts what it took.

    The module runs in a thread of its own. TorchScript and ONNX Runtime release Python's lock, so the limit holds even
    for a loop that never ends; such a thread cannot be stopped, only left behind.

    Attributes:
        call_s: Of any one call, besides what its rows may take: the first one compiles.
        row_s: Per observation.
        file_s: Of all calls together.
        used_s: Taken so far.
    """

    call_s: float = 30.0
    row_s: float = 0.01
    file_s: float = 3600.0
    used_s: float = field(default=0.0, init=False)

    def run(self, call: Callable[[], Tensor], rows: int, name: str) -> Tensor:
        """The answer of `call()` on `rows` observations, or what it raises.

        Raises:
            PolicyError: If it takes longer than allowed, naming the file.
        """
        one = self.call_s + self.row_s * rows
        allowed = min(one, self.file_s - self.used_s)
        answer: Future[Tensor] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # raised again in the thread that asked
                answer.set_exception(error)

        began = time.perf_counter()
        threading.Thread(target=work, name="policy", daemon=True).start()
        wait([answer], max(0.0, allowed))
        self.used_s += time.perf_counter() - began
        if not answer.done():
            _leave_behind()
            each = f"{rows} observations took more than {one:.3g} s"
            what = each if allowed == one else f"it took more than {self.file_s:.3g} s in all"
            raise PolicyError(f"{name}: {what}, the limit for a policy; export a smaller network without loops")
        return answer.result()


@functools.cache  # once is enough
def _leave_behind() -> None:
    """End the process at its exit without waiting: the interpreter aborts noisily while such a thread runs."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)


EXTRA_FILE = "medgym-policy.json"
"""Name of the header inside the TorchScript and ONNX files that this package exports."""

# TorchScript runs in its own interpreter without Python, but these operators reach the file system, and
# __setstate__ would run while loading. A policy needs none of them.
_FORBIDDEN = re.compile(rb"\b(from_file|__setstate__|torch\.save|torch\.load|ops\.(?!aten\b|prim\b)\w+|aten\.save)\b")
# What the header of a file with a module need not say.
_UNSAID = {"format": FORMAT, "timing": "adaptive", "sizes": [1, 1], "activation": "tanh"}
_FORM = (
    "export a function from observations (N, {}) alone to actions, with a free batch axis N: dynamic_axes={{'INPUT': "
    "{{0: 'N'}}}} of torch.onnx.export, or TorchScript without its size"
)


class ModulePolicy:
    """A function from observations (N, d) to actions (N, A), or from windows, shared by all patients.

    Timing follows from the width of the answer to a probe of zeros.

    Args:
        module: The function, for any number of observations N; float32 tensors in and out.
        name: Shown in errors.
        decisions: Decisions per episode K it was trained for, where known.
        provenance: Facts about its origin, where known.
        limits: How long it may take.
        disease: Name of the disease; gives A for each timing, and with `view` d.
        view: What it sees.
        steps: Of the windows that it reads in place of observations; None: it reads observations.

    Raises:
        PolicyError: If the probe fails or takes too long, or its answer has another shape or is not finite.
    """

    patients: tuple[str, ...] | None = None

    def __init__(
        self,
        module: Callable[[Tensor], Any],
        name: str,
        decisions: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        limits: TimeLimits | None = None,
        disease: str = DEFAULT,
        view: str = FULL,
        steps: Steps | None = None,
    ):
        definition = find_disease(disease)
        self.disease, self.view, self.observation_dim = disease, view, seen_width(definition, view, name)
        if steps is not None:
            self.observation_dim = window_width(self.observation_dim, steps.action, steps.history)
        self.decisions, self.provenance = decisions, dict(provenance or {})
        self._module, self._name, self._limits = module, name, limits or TimeLimits()
        few, many = (definition.action_dim(timing) for timing in ("fixed", "adaptive"))
        self._widths: tuple[int, ...] = (few, many) if steps is None else (steps.action,)
        width = self.observation_dim
        try:
            answer = self._answer(torch.zeros(2, width))
        except PolicyError:
            raise
        except Exception as error:  # whatever the foreign module raises; its last line says why
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:160]
            failed = f"{name}: fails on 2 observations of {width} columns ({reason})"
            raise PolicyError(f"{failed}; {_FORM.format(width)}") from None
        if not bool(torch.isfinite(answer.float()).all()):
            raise PolicyError(f"{name}: answers an observation of zeros with values that are not finite; retrain it")
        self.action_dim = int(answer.shape[1])
        self._widths = (self.action_dim,)
        self.timing = timing_of_width(definition, self.action_dim)

    def _answer(self, rows: Tensor) -> Tensor:
        """The module's actions (N, A) for observations (N, d), checked and in time."""

        def call() -> Any:
            with torch.no_grad():  # of the thread that calls
                return self._module(rows)

        answer = self._limits.run(call, len(rows), self._name)
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        wanted = [(len(rows), width) for width in self._widths]
        if found not in wanted:
            expected = " or ".join(map(str, wanted))
            wrong = f"{self._name}: answers {len(rows)} observations with {found}, not {expected}"
            raise PolicyError(f"{wrong}; {_FORM.format(self.observation_dim)}")
        return answer

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A), all rows in one call of the module.

        Raises:
            PolicyError: If it takes too long, or answers with another shape.
        """
        rows = self._answer(observations.reshape(-1, self.observation_dim).to(torch.float32))
        return rows.to(observations.dtype).reshape(*observations.shape[:2], self.action_dim)

    def select(self, patients: Sequence[str]) -> ModulePolicy:
        """Itself: it serves every patient."""
        return self


class PolicyCollection:
    """One shared policy per patient, for modules that cannot be stacked (a folder of TorchScript files).

    Args:
        policies: Patient id -> policy; all of one timing.

    Raises:
        PolicyError: If there is none, or timings or decisions differ.
    """

    def __init__(self, policies: dict[str, Policy]):
        if not policies:
            raise PolicyError("a collection of policies needs at least one")
        self._policies = dict(policies)
        first_id, first = next(iter(self._policies.items()))
        for patient, policy in self._policies.items():
            if _made_for(policy) != _made_for(first):
                differ = f"differ: {_made_for(first)} and {_made_for(policy)}"
                raise PolicyError(f"the policies of {first_id} and {patient} {differ}")
        self.disease, self.view = disease_of_policy(first), getattr(first, "view", FULL)
        self.patients: tuple[str, ...] | None = tuple(self._policies)
        self.timing, self.decisions = first.timing, first.decisions
        self.observation_dim, self.action_dim = first.observation_dim, first.action_dim
        self.provenance: dict[str, Any] = getattr(first, "provenance", {})

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A); a loop over patients, since foreign modules cannot be stacked."""
        return torch.cat([p.act(observations[i : i + 1]) for i, p in enumerate(self._policies.values())])

    def select(self, patients: Sequence[str]) -> PolicyCollection:
        """The policies of these patients, in that order."""
        for patient in patients:
            if patient not in self._policies:
                raise unknown_name("patient of this policy", patient, self._policies)
        return PolicyCollection({p: self._policies[p] for p in patients})


def policy_of(
    module: Callable[[Tensor], Any], header: str, path: Path, disease: str | None = None, view: str | None = None
) -> ModulePolicy | HistoryPolicy:
    """The policy of a file's module and of our header in it ("" for none); with a memory, if it reads windows.

    Disease and view are of a file that names none. See `load_policy`.
    """
    said = header_of(path, header or "{}", {**_UNSAID, "disease": disease or DEFAULT})
    seen = said.view if header else view or FULL  # our own header leaves out what is usual
    try:
        width = find_disease(said.disease).action_dim(said.timing)
    except UnknownNameError as error:
        raise PolicyError(f"{path}: {error}") from None
    steps = None if said.history == 1 else Steps(said.history, width)
    policy = ModulePolicy(
        module, str(path), said.decisions, said.provenance, disease=said.disease, view=seen, steps=steps
    )
    return policy if steps is None else HistoryPolicy(policy, steps.history)


def _made_for(policy: Policy) -> str:
    """What policies of a collection have in common, in words."""
    view = getattr(policy, "view", FULL)
    return f"{disease_of_policy(policy)}, view {view}, {policy.timing} timing, K={policy.decisions}"


def read_torchscript(path: Path) -> tuple[Callable[[Tensor], Any], str]:
    """Module and header of a TorchScript file; refused if its code touches files."""
    extra = {EXTRA_FILE: ""}
    with reading(path, "TorchScript file"), warnings.catch_warnings():
        with zipfile.ZipFile(path) as archive:
            code = b"\n".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
        if found := _FORBIDDEN.search(code):
            used = f"the TorchScript code uses {found.group(1).decode()!r}, which a policy does not need"
            raise PolicyError(f"{path}: {used}; export the bare network")
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
    return module, extra[EXTRA_FILE]


def read_onnx(path: Path) -> tuple[Callable[[Tensor], Any], str]:
    """Function and header of an ONNX model with one input (N, d) and one output (N, A)."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise MissingExtraError.of("onnx and onnxruntime", "onnx", f"{path}: an ONNX policy") from None
    with reading(path, "ONNX file"):
        content = path.read_bytes()
        if (second := next(_outside(onnx.load_model_from_string(content)), None)) is not None:
            raise PolicyError(
                f"{path}: its weights lie in a second file ({second[:60]!r}), without which it is no policy; put them "
                "into one: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(FILE), NEW_FILE)"
            )
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = [(put.name, tuple(put.shape)) for put in session.get_inputs()]
    # An axis that is free has a name, one that is fixed is a number.
    fixed = [axis if isinstance(axis, int) else None for _, shape in inputs for axis in shape]

    def run(observations: Tensor) -> Tensor:
        if len(inputs) != 1 or fixed not in ([None, None], [None, observations.shape[1]]):
            takes = "; ".join(f"{name[:40]} {shape}" for name, shape in inputs)
            raise ValueError(f"it takes {takes[:120] or 'nothing'}")
        answers = session.run(None, {inputs[0][0]: observations.numpy()})
        return torch.from_numpy(np.asarray(answers[0], dtype=np.float32))

    return run, session.get_modelmeta().custom_metadata_map.get(EXTRA_FILE, "")


def _outside(message: Any) -> Iterator[str]:
    """Files besides the model's own that a part of an ONNX model has its numbers in."""
    from google.protobuf.message import Message

    if message.DESCRIPTOR.name == "TensorProto" and (message.data_location or message.external_data):
        yield next((entry.value for entry in message.external_data if entry.key == "location"), "")
    for _, value in message.ListFields():
        for part in [value] if isinstance(value, Message) else value if isinstance(value, Sequence) else ():
            if isinstance(part, Message):
                yield from _outside(part)
            else:
                break  # numbers or text
