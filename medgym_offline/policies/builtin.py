"""Policies without learning, shown beside every result: zero, max, constant, random, clinician."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import CLOCKS, FULL
from medgym_offline.diseases.registry import DEFAULT, disease
from medgym_offline.envs.timing import ProcessConfig, interval_to_action
from medgym_offline.errors import PolicyError, unknown_name
from medgym_offline.patients import PatientIndex
from medgym_offline.policies.protocol import torch_or_numpy
from medgym_offline.seeds import derive_seed, generator

__all__ = ["BUILTIN_POLICIES", "ClinicianPolicy", "ConstantPolicy", "RandomPolicy", "RulePolicy", "builtin_policy"]

BUILTIN_POLICIES = ("clinician", "constant", "max", "random", "zero")


class _Builtin:
    """What the built-in policies share: attributes, the default interval, choice of patients."""

    @own_defaults()
    def __init__(
        self,
        patients: Sequence[str] | None,
        timing: str = "adaptive",
        decisions: int | None = None,
        of: str = DEFAULT,
        view: str = FULL,
    ):
        definition = disease(of)
        process = definition.process
        self.decisions: int = process.decisions if decisions is None else decisions
        if timing not in ("adaptive", "fixed"):
            raise unknown_name("timing", timing, ("adaptive", "fixed"))
        if self.decisions < 1:
            raise PolicyError(f"decisions is {decisions}; at least 1 is needed")
        self.timing, self.disease, self.view = timing, of, view
        self.patients: tuple[str, ...] | None = None if patients is None else tuple(patients)
        self.observation_dim, self.action_dim = len(definition.seen(view)), definition.action_dim(timing)
        self._horizon = process.horizon
        self._treatments = definition.treatment_names
        self._time, self._left = self.observation_dim - 2, self.observation_dim - 1
        # The action that asks for the default interval, horizon / K, or for the nearest possible.
        shortest, longest = process.min_interval, process.max_interval
        interval = min(max(process.horizon / self.decisions, shortest), longest)
        self._interval = 2.0 * (interval - shortest) / (longest - shortest) - 1.0

    def _actions(self, u: Tensor) -> Tensor:
        """Normalized treatments (P, B, T) in [0, 1] -> actions; adaptive timing asks for the default interval."""
        a = 2.0 * u - 1.0
        if self.timing == "adaptive":
            a = torch.cat([a, torch.full_like(a[..., :1], self._interval)], dim=-1)
        return a

    def select(self, patients: Sequence[str]) -> Self:
        """The same policy for these patients, in that order; one that is shared by all returns itself."""
        if self.patients is None:
            return self
        chosen, rows = copy.copy(self), PatientIndex(self.patients, "this policy").resolve(patients, repeats=True)
        chosen.patients = tuple(patients)
        chosen._keep(rows)
        return chosen

    def _keep(self, rows: list[int]) -> None:
        """Leave these rows of what is held for each patient."""
        raise NotImplementedError


class ConstantPolicy(_Builtin):
    """The same treatment at every decision, at intervals of horizon / K.

    Args:
        treatment: Normalized treatment in [0, 1], (T,) for everyone or (P, T) with `patients`.
        timing, decisions: Of the decision process.
        patients: P ids; None for a treatment shared by all.
        of: Name of the disease.

    Raises:
        PolicyError: If the shape is wrong or a value lies outside [0, 1].
    """

    @own_defaults()
    def __init__(
        self,
        treatment: Any,
        timing: str = "adaptive",
        decisions: int | None = None,
        patients: Sequence[str] | None = None,
        of: str = DEFAULT,
        view: str = FULL,
    ):
        super().__init__(patients, timing, decisions, of, view)
        u = torch.as_tensor(treatment, dtype=torch.float32)
        count = len(self._treatments)
        wanted = (count,) if patients is None else (len(patients), count)
        if tuple(u.shape) != wanted:
            raise PolicyError(f"a constant treatment has shape {tuple(u.shape)}, expected {wanted}")
        if not bool(((u >= 0) & (u <= 1)).all()):  # NaN fails too
            raise PolicyError(f"a constant treatment is normalized: {', '.join(self._treatments)} each in [0, 1]")
        self.treatment = u

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A)."""
        u = self.treatment if self.patients is None else self.treatment[:, None, :]
        return self._actions(u.expand(*observations.shape[:2], u.shape[-1]))

    def _keep(self, rows: list[int]) -> None:
        self.treatment = self.treatment[rows]


class RandomPolicy(_Builtin):
    """Uniform actions in the box [-1, 1]^A, interval included.

    Every episode has its own stream, drawn by :meth:`reset`; the decision's number is read from the observation. The
    actions of one episode are therefore the same alone or in any batch. Without `reset`, episode b of a patient uses
    the seed (0, patient id, b).

    Args:
        patients: P ids.
        timing, decisions: Of the decision process.
        of: Name of the disease.
    """

    _table: Tensor | None = None
    _was_reset = False

    @own_defaults()
    def reset(self, seeds: np.ndarray) -> None:
        """Draw the episodes' actions from integer `seeds` (P, B)."""
        self._was_reset = True
        self._draw([[int(s) for s in row] for row in seeds])

    def _draw(self, seeds: list[list[int]]) -> None:
        shape = (self.decisions, self.action_dim)
        rows = [[generator(s, "random-policy").uniform(-1.0, 1.0, shape) for s in row] for row in seeds]
        self._table = torch.as_tensor(np.asarray(rows), dtype=torch.float32)

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A)."""
        count, episodes = observations.shape[:2]
        if self._table is None or self._table.shape[:2] != (count, episodes):
            if self._was_reset or self.patients is None:
                raise PolicyError("the random policy has no seeds for so many episodes; call reset(seeds) first")
            self._draw([[derive_seed(0, "random-policy", p, b) for b in range(episodes)] for p in self.patients])
        assert self._table is not None
        done = torch.round((1.0 - observations[..., self._left]) * self.decisions).long().clamp(0, self.decisions - 1)
        return self._table.gather(2, done[..., None, None].expand(-1, -1, 1, self.action_dim))[:, :, 0]

    def _keep(self, rows: list[int]) -> None:
        self._table, self._was_reset = None, False


class ClinicianPolicy(_Builtin):
    """The treatment charted at the bedside: at time t, its mean over the coming horizon / K.

    The time is read from the observation. Times after the end of the record (NaN in the schedule, or beyond its length)
    take the mean of its last 24 steps.

    Args:
        schedule: Charted treatment (P, H, T), normalized, one row per unit of time; those before the horizon count.
        patients: P ids.
        timing, decisions: Of the decision process.

    Raises:
        PolicyError: If the shape is wrong, a value lies outside [0, 1] or a patient has no charted time.
    """

    @own_defaults()
    def __init__(
        self,
        schedule: Any,
        patients: Sequence[str],
        timing: str = "adaptive",
        decisions: int | None = None,
        of: str = DEFAULT,
        view: str = FULL,
    ):
        super().__init__(patients, timing, decisions, of, view)
        given, hours, count = torch.as_tensor(schedule, dtype=torch.float32), int(self._horizon), len(self._treatments)
        if given.dim() != 3 or given.shape[0] != len(patients) or given.shape[2] != count:
            wanted = (len(patients), "times", count)
            raise PolicyError(f"the clinicians' treatment has shape {tuple(given.shape)}, expected {wanted}")
        u = torch.full((len(patients), hours, count), torch.nan)
        u[:, : given.shape[1]] = given[:, :hours]
        for row, patient in zip(u, patients):
            known = ~torch.isnan(row).any(-1)
            if not bool(known.any()):
                raise PolicyError(f"patient {patient} has no charted treatment")
            row[~known] = row[known][-24:].double().mean(0).float()
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise PolicyError("the clinicians' treatment is not normalized to [0, 1]")
        self.schedule = u
        # Amount given by hour h, piecewise linear in between: the mean over any interval is a difference of two reads.
        total = torch.cumsum(u.double(), 1)
        self._total = torch.cat([torch.zeros_like(total[:, :1]), total], 1)

    def _given(self, hour: Tensor) -> Tensor:
        """Treatment summed from the start to `hour` (P, B) -> (P, B, T)."""
        low = hour.floor().clamp(0, self._horizon - 1).long()
        part = (hour - low)[..., None]
        a, b = (self._total.gather(1, (low + i)[..., None].expand(-1, -1, self._total.shape[-1])) for i in (0, 1))
        return a + part * (b - a)

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A)."""
        left = observations[..., self._time].double()
        start = (self._horizon * (1.0 - left)).clamp(0.0, self._horizon - 1e-3)
        end = (start + self._horizon / self.decisions).clamp(max=self._horizon)
        u = (self._given(end) - self._given(start)) / (end - start)[..., None]
        return self._actions(u.clamp(0.0, 1.0).to(observations.dtype))

    def _keep(self, rows: list[int]) -> None:
        self.schedule, self._total = self.schedule[rows], self._total[rows]


class RulePolicy(_Builtin):
    """The disease's own rule, `Disease.clinician`: it looks at what a policy sees, and chooses doses and interval.

    Args:
        bank: Whose patients; their context, and the doses that actions stand for.
        timing, decisions: Of the decision process; under fixed timing the rule's intervals are left out.
        view: What is observed; the rule takes what it shows for what is, and looks neither at ages nor at masks.
    """

    @own_defaults()
    def __init__(self, bank: Any, timing: str = "adaptive", decisions: int | None = None, view: str = FULL):
        super().__init__(bank.patients, timing, decisions, bank.disease.name, view)
        self._bank = bank

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """(P, B, d) -> (P, B, A)."""
        bank, definition = self._bank, self._bank.disease
        context, described = bank.context.to(observations), definition.observation_dim - len(CLOCKS)
        observations = torch.cat([observations[..., :described], observations[..., -len(CLOCKS) :]], -1)
        dose, hours = definition.clinician(context, observations, self._horizon, self.decisions)
        action = 2.0 * bank.normalize_treatment(dose) - 1.0
        if self.timing == "adaptive":
            config = ProcessConfig(decisions=self.decisions, disease=definition.name)
            action = torch.cat([action, interval_to_action(hours, config)[..., None]], -1)
        return action.to(observations.dtype)

    def _keep(self, rows: list[int]) -> None:
        self._bank = self._bank.select(list(self.patients or ()))


@own_defaults()
def builtin_policy(
    name: str,
    bank: Any,
    timing: str = "adaptive",
    decisions: int | None = None,
    view: str = FULL,
) -> ConstantPolicy | RandomPolicy | ClinicianPolicy | RulePolicy:
    """A policy without learning, by name.

    Args:
        name: "zero" (no treatment), "max", "random", "clinician", or a constant one: "constant:0.4,0.05,0.3".
        bank: Simulator bank: its disease and patients, and for "clinician" its `clinician_treatment` (P, H, T).
        timing, decisions: Of the decision process; None is the disease's K.
        view: What is observed.

    Raises:
        UnknownNameError: If the name, the timing or the view is unknown.
        PolicyError: If the treatment is missing or malformed, or the bank holds no charted treatment.
    """
    base, _, values = name.partition(":")
    if base not in BUILTIN_POLICIES or (values and base != "constant"):
        raise unknown_name("built-in policy", name, BUILTIN_POLICIES)
    of, names = bank.disease.name, bank.disease.treatment_names
    if base in ("zero", "max"):
        return ConstantPolicy([float(base == "max")] * len(names), timing, decisions, of=of, view=view)
    if base == "random":
        return RandomPolicy(bank.patients, timing, decisions, of=of, view=view)
    if base == "clinician" and bank.disease.clinician is not None:
        return RulePolicy(bank, timing, decisions, view)
    if base == "clinician":
        if (schedule := getattr(bank, "clinician_treatment", None)) is None:
            needs = "the clinician policy needs a bank fitted to stays"
            raise PolicyError(f"bank {getattr(bank, 'name', 'given')!r} holds no charted treatment; {needs}")
        return ClinicianPolicy(schedule, bank.patients, timing, decisions, of, view)
    if not values:
        example = ",".join(["0.1"] * len(names))
        raise PolicyError(f"a constant policy needs a treatment; write for example constant:{example}")
    try:
        treatment = [float(v) for v in values.split(",")]
    except ValueError:
        form = ",".join(n.upper() for n in names)
        raise PolicyError(f"cannot read {name!r}; write constant:{form} with numbers") from None
    return ConstantPolicy(treatment, timing, decisions, of=of, view=view)
