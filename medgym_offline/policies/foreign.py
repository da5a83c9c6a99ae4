"""Policies from elsewhere: TorchScript and ONNX modules, and folders with one file per patient."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.registry import DEFAULT, list_diseases
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.diseases.views import FULL
from medgym_offline.errors import MissingExtraError, PolicyError, unknown_name
from medgym_offline.policies.limits import TimeLimits
from medgym_offline.policies.protocol import Policy, disease_of_policy, seen_width, timing_of_width, torch_or_numpy

__all__ = ["EXTRA_FILE", "ModulePolicy", "PolicyCollection", "facts_of", "load_onnx", "load_torchscript"]

EXTRA_FILE = "medgym-policy.json"
"""Name of the header inside the TorchScript and ONNX files that this package exports."""

# TorchScript runs in its own interpreter without Python, but these operators reach the file system, and
# __setstate__ would run while loading. A policy needs none of them.
_FORBIDDEN = re.compile(rb"\b(from_file|__setstate__|torch\.save|torch\.load|ops\.(?!aten\b|prim\b)\w+|aten\.save)\b")


class ModulePolicy:
    """A function from observations (N, d) to actions (N, A), shared by all patients.

    Timing follows from the width of the answer to a probe of zeros.

    Args:
        module: The function, for any number of observations N; float32 tensors in and out.
        name: Shown in errors.
        decisions: Decisions per episode K it was trained for, where known.
        provenance: Facts about its origin, where known.
        limits: How long it may take.
        disease: Name of the disease; gives A for each timing, and with `view` d.
        view: What it sees.

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
    ):
        self.disease, definition = disease, find_disease(disease)
        self.view, self.observation_dim = view, seen_width(definition, view, name)
        width = self.observation_dim
        few, many = definition.action_dim("fixed"), definition.action_dim("adaptive")
        self._module, self._name, self._limits = module, name, limits or TimeLimits()
        self.decisions, self.provenance = decisions, dict(provenance or {})
        try:
            answer = self._answer(torch.zeros(2, width))
        except PolicyError:
            raise
        except Exception as error:  # whatever the foreign module raises; its last line says why
            self._refuse_fixed_batch()
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise PolicyError(
                f"{name}: fails on 2 observations of {width} columns ({reason[:160]}); "
                f"export a module from observations (N, {width}) to actions (N, {few} or {many})"
            ) from None
        if isinstance(answer, Tensor) and len(answer.shape) and len(answer) != 2:
            self._refuse_fixed_batch()
        if not isinstance(answer, Tensor) or answer.dim() != 2 or answer.shape[0] != 2:
            found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise PolicyError(
                f"{name}: answers 2 observations with {found}, expected actions (2, {few}) or (2, {many})"
            )
        if not bool(torch.isfinite(answer.float()).all()):
            raise PolicyError(f"{name}: answers an observation of zeros with values that are not finite; retrain it")
        self.action_dim = int(answer.shape[1])
        try:
            self.timing = timing_of_width(definition, self.action_dim)
        except PolicyError as error:
            raise PolicyError(f"{name}: {error}") from None

    def _refuse_fixed_batch(self) -> None:
        """Raise `PolicyError` if the module, which cannot answer two observations, can answer one."""
        try:
            answer = self._answer(torch.zeros(1, self.observation_dim))
        except Exception:  # not even one: the batch is not what is wrong
            return
        if isinstance(answer, Tensor) and answer.dim() == 2 and len(answer) == 1:
            raise _fixed_batch(self._name, 1)

    def _answer(self, rows: Tensor) -> Any:
        def call() -> Any:
            with torch.no_grad():  # of the thread that calls
                return self._module(rows)

        return self._limits.run(call, len(rows), self._name)

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A), all rows in one call of the module.

        Raises:
            PolicyError: If it takes too long, or answers with another shape.
        """
        count, episodes = observations.shape[:2]
        asked = observations.reshape(-1, self.observation_dim).to(torch.float32)
        rows = self._answer(asked)
        wanted = (len(asked), self.action_dim)
        if not isinstance(rows, Tensor) or rows.shape != wanted:
            found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise PolicyError(f"{self._name}: answers {len(asked)} observations with {found}, expected {wanted}")
        return rows.to(observations.dtype).reshape(count, episodes, self.action_dim)

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
            if disease_of_policy(policy) != disease_of_policy(first):
                raise PolicyError(f"the policies of {first_id} and {patient} are for different diseases")
            if getattr(policy, "view", FULL) != getattr(first, "view", FULL):
                raise PolicyError(f"the policies of {first_id} and {patient} are for different views")
            if policy.timing != first.timing or policy.decisions != first.decisions:
                raise PolicyError(
                    f"the policies of {first_id} and {patient} differ: {first.timing} timing, K={first.decisions} "
                    f"and {policy.timing} timing, K={policy.decisions}"
                )
        self.disease, self.observation_dim = disease_of_policy(first), first.observation_dim
        self.view = getattr(first, "view", FULL)
        self.patients: tuple[str, ...] | None = tuple(self._policies)
        self.timing, self.decisions, self.action_dim = first.timing, first.decisions, first.action_dim
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


def load_torchscript(path: Path, disease: str | None = None, view: str | None = None) -> ModulePolicy:
    """A TorchScript module as a policy; refused if its code touches files. See `load_policy`."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                found = _FORBIDDEN.search(archive.read(entry)) if entry.endswith(".py") else None
                if found:
                    raise PolicyError(
                        f"{path}: the TorchScript code uses {found.group(1).decode()!r}, which a policy does not need; "
                        "export the bare network"
                    )
        extra = {EXTRA_FILE: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
    except (RuntimeError, zipfile.BadZipFile, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PolicyError(f"{path}: damaged TorchScript file ({reason[:160]}); export it again") from None
    decisions, provenance, named, view = facts_of(extra[EXTRA_FILE], path, disease, view)
    return ModulePolicy(module, str(path), decisions, provenance, disease=named, view=view)


def facts_of(
    header: str | bytes, path: Path, disease: str | None, view: str | None = None
) -> tuple[int | None, dict[str, Any], str, str]:
    """Decisions, provenance, disease and view that our header inside a foreign file states, where there is one."""
    try:
        found = json.loads(header, parse_constant=lambda _: None)  # results are JSON, which knows no NaN
        decisions, provenance, named = found.get("decisions"), found.get("provenance"), found.get("disease")
    except (ValueError, AttributeError, RecursionError):
        return None, {}, disease or DEFAULT, view or FULL
    if named is not None and named not in list_diseases():
        raise PolicyError(f"{path}: disease {named!r} is not installed; known: {', '.join(list_diseases())}")
    known = isinstance(decisions, int) and not isinstance(decisions, bool) and decisions > 0
    facts = provenance if isinstance(provenance, dict) else {}
    seen = str(found.get("view") or FULL)  # our own header leaves out what is usual
    return decisions if known else None, facts, named or disease or DEFAULT, seen


def load_onnx(path: Path, disease: str | None = None, view: str | None = None) -> ModulePolicy:
    """An ONNX model with one input (N, d) and one output (N, A) as a policy. See `load_policy`."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise MissingExtraError.of("onnx and onnxruntime", "onnx", f"{path}: an ONNX policy") from None
    try:
        content = path.read_bytes()
        if (second := next(_outside(onnx.load_model_from_string(content)), None)) is not None:
            raise PolicyError(
                f"{path}: its weights lie in a second file ({second[:60]!r}), without which it is no policy; put them "
                "into one: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(FILE), NEW_FILE)"
            )
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except PolicyError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PolicyError(f"{path}: damaged ONNX file ({reason[:160]}); export it again") from None
    if len(inputs := session.get_inputs()) != 1:
        names = ", ".join(i.name for i in inputs)
        raise PolicyError(f"{path}: takes {len(inputs)} inputs ({names[:80]}); export a function of the observations")
    name, shape = inputs[0].name, inputs[0].shape
    header = session.get_modelmeta().custom_metadata_map.get(EXTRA_FILE, "")
    decisions, provenance, named, view = facts_of(header, path, disease, view)
    width = seen_width(find_disease(named), view, str(path))
    # Axes without a name are numbers: fixed.
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width):
        raise PolicyError(
            f"{path}: takes observations of shape {tuple(shape)}, not (N, {width}), as {named} has them; export a "
            f"module from observations (N, {width}) to actions"
        )
    if isinstance(shape[0], int):
        raise _fixed_batch(str(path), shape[0])

    def run(observations: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {name: observations.numpy()})[0], dtype=np.float32))

    return ModulePolicy(run, str(path), decisions, provenance, disease=named, view=view)


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


def _fixed_batch(name: str, count: int) -> PolicyError:
    return PolicyError(
        f"{name}: its batch axis is fixed at {count}, and {count} observation{'s' * (count != 1)} at a time is all it "
        "takes; export it with a free one: dynamic_axes={'INPUT': {0: 'N'}} of torch.onnx.export (dynamic_shapes with "
        "dynamo=True), or trace TorchScript without the batch size in it"
    )
