"""From whatever a user calls a policy to a function on the patients of one shard.

A policy is a built-in name, a file, or any object with `act(observations (P, B, d)) -> actions (P, B, A)`, in NumPy or
torch. What it returns is checked on every call: the shape, and that every number is finite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import callers_defaults
from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.diseases.registry import DEFAULT, disease
from medgym_offline.errors import PolicyError, unknown_name
from medgym_offline.files import sha256_file
from medgym_offline.patients import whole_number
from medgym_offline.policies.protocol import seen_width, timing_of_width
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["BUILTIN_NAMES", "BoundPolicy", "require_repeatable", "resolve_policy"]

BUILTIN_NAMES = ("behavior", "clinician", "constant", "max", "random", "zero")
"""Names that stand for a policy; `behavior:SCOPE` names another scope, `constant:A,B,..` a treatment."""
TIMINGS = ("adaptive", "fixed")


@dataclass(frozen=True)
class BoundPolicy:
    """A policy whose timing, budget and patients are settled.

    Attributes:
        policy: The object with `act`.
        name: What to call it in tables.
        timing: "adaptive" or "fixed".
        decisions: K of the process it is evaluated in.
        info: Provenance for the result: kind, scope, file hash, training facts.
        takes_torch: Whether `act` is called with tensors (else with NumPy arrays).
        disease: Name of the disease it treats.
        view: What it sees.
    """

    policy: Any
    name: str
    timing: str
    decisions: int
    info: dict[str, Any] = field(default_factory=dict)
    takes_torch: bool = True
    disease: str = DEFAULT
    view: str = FULL

    @property
    def action_dim(self) -> int:
        """Width of its actions."""
        return disease(self.disease).action_dim(self.timing)

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        """The policy as a function (P, B, d) -> (P, B, A) of exactly these patients.

        Args:
            patients: Ids in the order of the patient axis.
            seeds: (P, B) integers, given to a policy that draws random numbers.

        The function raises `PolicyError` for actions of the wrong shape or not finite, naming the patient.
        """
        chosen, scatter = self.policy, None
        declared = getattr(self.policy, "patients", None)
        own = tuple(patients) if declared is None else tuple(declared)
        if own != tuple(patients):
            if hasattr(self.policy, "select"):
                chosen = self.policy.select(patients)
            else:
                # It only knows its whole stack: give it one, with our patients in their places.
                scatter = [own.index(p) for p in patients]
        if hasattr(chosen, "reset"):
            with callers_defaults():
                chosen.reset(np.asarray(seeds, dtype=np.int64))
        shape = (len(patients), seeds.shape[1], self.action_dim)

        def act(observations: Tensor) -> Tensor:
            given = observations
            if scatter is not None:
                given = observations.new_zeros(len(own), *observations.shape[1:])
                given[scatter] = observations
            actions = _call(chosen, given, self.takes_torch, self.name)
            if scatter is not None and actions.ndim == 3 and actions.shape[0] == len(own):
                actions = actions[scatter]
            if (found := tuple(actions.shape)) != shape:
                needs = f"{self.timing} timing needs {shape}"
                raise PolicyError(f"policy {self.name!r} returned actions of shape {found}; {needs}")
            finite = torch.isfinite(actions).all(-1).all(-1)
            if not bool(finite.all()):
                who = patients[int((~finite).nonzero()[0, 0])]
                raise PolicyError(f"policy {self.name!r} returned actions that are not finite for patient {who}")
            return actions

        act.took = getattr(chosen, "took", None)  # type: ignore[attr-defined]
        return act


def resolve_policy(
    policy: Any,
    bank: SimulatorBank,
    timing: str | None,
    decisions: int | None,
    default_decisions: int,
    view: str | None = None,
) -> BoundPolicy:
    """Settle what to evaluate.

    Args:
        policy: Built-in name, path of a policy file, or object with `act`.
        bank: The bank, for its patients.
        timing: "adaptive", "fixed", or None: the policy's own.
        decisions: K, or None: the policy's own, else `default_decisions`.
        view: What it is shown, or None: what it says it sees, else "full".

    Raises:
        PolicyError: If it is no policy, its timing is another than `timing` or its view than `view`, or it lacks
            patients of `bank` (named).
        UnknownNameError: For an unknown name, timing or view.
    """
    if timing is not None and timing not in TIMINGS:
        raise unknown_name("timing", timing, TIMINGS)
    if decisions is not None and (whole_number(decisions) or 0) < 1:
        raise PolicyError(f"decisions is {decisions!r}; give a whole number of at least 1")
    of = bank.disease
    of.view(view or FULL)
    policy, name, info = _opened(policy, bank, timing or "adaptive", decisions or default_decisions, view)

    def said(attribute: str, otherwise: Any = None) -> Any:
        return getattr(policy, attribute, None) or otherwise

    if not callable(said("act")):
        known = f"pass a policy file, an object with act, or one of {', '.join(BUILTIN_NAMES)}"
        raise PolicyError(f"{policy!r} is not a policy: it has no act(observations); {known}")
    if (made_for := said("disease", of.name)) != of.name:
        where = f"bank {bank.name!r} is of {of.name}; evaluate it on a bank of {made_for}"
        raise PolicyError(f"policy {name!r} was made for {made_for}, {where}")
    patients = getattr(policy, "patients", None)
    covered = set(bank.patients if patients is None else patients)
    if missing := [p for p in bank.patients if p not in covered]:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        lacks = f"{len(missing)} of the {len(bank)} patients of bank {bank.name!r}: {shown}"
        raise PolicyError(f"policy {name!r} has no network for {lacks}; evaluate those it has, or train it on these")
    seen = str(said("view", view or FULL))
    if view is not None and seen != view:
        fix = f"leave view out, or train one on a dataset with view={view!r}"
        raise PolicyError(f"policy {name!r} was made for view {seen!r} and cannot be asked under view {view!r}; {fix}")
    takes_torch, width = _probe(policy, len(bank) if patients is None else len(patients), of, name, seen)
    own = said("timing") or timing_of_width(of, width)
    if own not in TIMINGS:
        raise unknown_name("timing", own, TIMINGS)
    if timing is not None and own != timing:
        remedy = f"leave timing out, or train one with timing={timing!r}"
        raise PolicyError(f"policy {name!r} is for {own} timing and cannot be evaluated with {timing} timing; {remedy}")
    if width != (wanted := of.action_dim(own)):
        raise PolicyError(f"policy {name!r} says {own} timing, of width {wanted}, but gives actions of width {width}")
    baseline = info["kind"] == "built-in" and not name.startswith("behavior")
    info |= {
        "scope": "baseline" if baseline else said("scope", "pop" if patients is None else "ind"),
        "timing": own,
        "decisions": getattr(policy, "decisions", None),
        "patients": None if patients is None else len(patients),
        "class": type(policy).__name__,
        "provenance": dict(said("provenance", {})),
    }
    budget = int(decisions or said("decisions", default_decisions))
    return BoundPolicy(policy, name, own, budget, info, takes_torch, of.name, seen)


def require_repeatable(bound: BoundPolicy, patients: Sequence[str]) -> None:
    """Refuse a policy whose answers depend on what it was asked before, or beside what.

    The same observations of up to three patients are asked twice, in another order of episodes, of patients, and
    alone. A policy with `reset` may remember an episode: it is reset before each, with the seeds of the episodes asked.

    Raises:
        PolicyError: If answers differ by more than rounding.
    """
    some, episodes = list(patients[:3]), 4
    g = np.random.default_rng(0)
    width = len(disease(bound.disease).seen(bound.view))
    asked = torch.from_numpy(g.normal(size=(len(some), episodes, width)).astype(np.float32))
    asked[..., -2:] = torch.from_numpy(g.uniform(0.1, 1.0, (len(some), episodes, 2)).astype(np.float32))
    seeds = np.arange(len(some) * episodes).reshape(len(some), episodes)
    order, turned = [2, 0, 3, 1], [*range(1, len(some)), 0]
    first = bound.act_on(some, seeds)(asked)
    cases = (
        (slice(None), slice(None), "the same observations differently when asked again (it remembers earlier calls or "
         "draws random numbers)"),
        (slice(None), order, "episodes in another order differently"),
        (turned, slice(None), "patients in another order differently"),
        (slice(1), slice(None), "a patient alone differently from one among others"),
        (slice(None), slice(1), "an episode alone differently from one among others"),
    )  # fmt: skip
    names = np.array(some, dtype=object)
    for who, which, words in cases:
        answer = bound.act_on(list(names[who]), seeds[who][:, which])(asked[who][:, which])
        if not torch.allclose(answer, first[who][:, which], rtol=1e-4, atol=1e-4):
            needs = "make act a function of the observation alone, or give it reset(seeds)"
            raise PolicyError(f"policy {bound.name!r} answers {words}: results would depend on the batch; {needs}")


def _opened(
    policy: Any, bank: SimulatorBank, timing: str, decisions: int, view: str | None
) -> tuple[Any, str, dict[str, Any]]:
    """The object with `act`, what to call it, and what it was opened from: its kind and SHA-256."""
    if not isinstance(policy, str | Path):
        return policy, type(policy).__name__, {"kind": "object", "sha256": None}
    text, path = str(policy), Path(policy)
    base, _, rest = text.partition(":")
    if base in BUILTIN_NAMES:  # a file of that name is reached as ./random
        found: Any
        if base == "behavior":
            from medgym_offline.online.behavior import load_behavior

            found = load_behavior(bank.name, scope=rest or "ind", timing=timing)
        else:
            from medgym_offline.policies.builtin import builtin_policy

            found = builtin_policy(text, bank, timing, decisions, view=view or FULL)
        return found, text, {"kind": "built-in", "sha256": None}
    if not path.exists() and not path.suffix and path.name == text:
        raise unknown_name("policy (no such file, nor built-in)", text, BUILTIN_NAMES)
    from medgym_offline.policies.loading import load_policy

    opened = load_policy(path, disease=bank.disease.name, view=view)
    if path.is_file():
        return opened, path.stem, {"kind": "file", "sha256": sha256_file(path)}
    listing = "".join(f"{sha256_file(f)}  {f.name}\n" for f in sorted(path.iterdir()) if f.is_file())
    return opened, path.stem, {"kind": "folder", "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _probe(policy: Any, count: int, of: Disease, name: str, view: str) -> tuple[bool, int]:
    """Whether `act` takes tensors, and the width of its actions, from one call on `count` patients' first states."""
    wanted = seen_width(of, view, f"policy {name!r}")
    if (width := getattr(policy, "observation_dim", None)) not in (None, wanted):
        seen = f"those of {of.name} have {wanted} under view {view!r}"
        raise PolicyError(f"policy {name!r} takes observations of width {width}; {seen}")
    observations = torch.zeros(count, 1, wanted)
    observations[..., -2:] = 1.0
    few, many = ((count, 1, of.action_dim(timing)) for timing in ("fixed", "adaptive"))
    ours = type(policy).__module__.startswith("medgym_offline.")
    problems = []
    for takes_torch in (True, False) if ours or isinstance(policy, torch.nn.Module) else (False, True):
        if hasattr(policy, "reset"):  # it may remember another batch
            with callers_defaults():
                policy.reset(np.zeros((count, 1), dtype=np.int64))
        try:
            actions = _call(policy, observations, takes_torch, name)
        except PolicyError:
            raise
        except Exception as error:
            # Someone else's code may fail in any way, and may simply want the other kind of array.
            problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        if actions.shape not in (few, many):
            shapes = f"shape {tuple(observations.shape)} with actions of shape {tuple(actions.shape)}"
            expected = f"expected {few}, fixed timing, or {many}, adaptive"
            raise PolicyError(f"policy {name!r} answered observations of {shapes}; {expected}")
        return takes_torch, int(actions.shape[2])
    raise PolicyError(f"policy {name!r} failed on observations of shape {tuple(observations.shape)}: {problems[0]}")


def _call(policy: Any, observations: Tensor, takes_torch: bool, name: str) -> Tensor:
    with callers_defaults(), torch.no_grad():
        answer = policy.act(observations if takes_torch else observations.numpy())
    if isinstance(answer, Tensor):
        return answer.detach().to("cpu", torch.float32)
    array = np.asarray(answer)
    if array.dtype.kind not in "fiu":
        raise PolicyError(f"policy {name!r} returned {type(answer).__name__} of {array.dtype}, not an array of numbers")
    return torch.from_numpy(np.array(array, dtype=np.float32))
