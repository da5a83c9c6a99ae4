"""What the single and the vector environment share: arguments to process, spaces, checked actions, starts and infos."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from medgym_offline.diseases.registry import DEFAULT, disease
from medgym_offline.diseases.views import FULL
from medgym_offline.envs.process import DecisionProcess, Episodes, Outcome
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import DiseaseError, MedGymError, unknown_name
from medgym_offline.patients import PatientIndex, whole_number
from medgym_offline.simulators.bank import Backend, SimulatorBank
from medgym_offline.simulators.files import load_simulators

__all__ = [
    "MAX_SEED",
    "action_space",
    "checked_actions",
    "checked_options",
    "checked_seed",
    "checked_start",
    "chosen_patient",
    "infos",
    "observation_space",
    "open_bank",
    "start_infos",
]

MAX_SEED = 2**63 - 1
"""Episode seeds are below this, so that they fit the integers of arrays and files."""

# Policies end in tanh or clip; float arithmetic may overshoot by this much, which is clipped without a word.
_TOLERANCE = 1e-6


@functools.lru_cache(maxsize=4)
def _load(name: str) -> SimulatorBank:
    return load_simulators(name)


def open_bank(
    bank: str | SimulatorBank | None, world: str | None, backend: Backend | None, of: str = DEFAULT
) -> SimulatorBank:
    """The bank given, or named (release banks are read once), in the world and with the backend asked for.

    Args:
        bank: None: the default bank of the disease `of`.
        world: None: the disease's default world.
        backend: None: the bank's own.
        of: Name of a disease.

    Raises:
        DiseaseError: The bank is of another disease.
    """
    definition = disease(of)
    bank = definition.bank if bank is None else bank
    if isinstance(bank, SimulatorBank):
        opened = bank
    elif Path(bank).suffix:
        opened = load_simulators(bank)  # a file of the user's own may change between two environments
    else:
        opened = _load(bank)
    if opened.disease.name != of:
        raise DiseaseError(f"bank {opened.name!r} is of disease {opened.disease.name!r}, this environment of {of!r}")
    opened = opened.world(world or (definition.world if definition.world in opened.worlds else opened.current_world))
    return opened if backend is None else opened.with_backend(backend)


def observation_space(bank: SimulatorBank, view: str = FULL) -> spaces.Box:
    """Bounds of the observation's columns: the bank's for components, the disease's own for features of its own."""
    disease = bank.disease
    low = np.array([f.lower for f in disease.seen(view)], np.float32)
    high = np.array([f.upper for f in disease.seen(view)], np.float32)
    if not disease.features:
        n = disease.observed_dim
        low[:n], high[:n] = bank.lower[:n].cpu().numpy(), bank.upper[:n].cpu().numpy()
    return spaces.Box(low, high, dtype=np.float32)


def action_space(config: ProcessConfig) -> spaces.Box:
    """[-1, 1] per component: the treatments, and under adaptive timing the interval."""
    return spaces.Box(-1.0, 1.0, (config.action_dim,), np.float32)


def checked_actions(actions: Any, shape: tuple[int, ...], bank: SimulatorBank) -> np.ndarray:
    """Actions as float32 within [-1, 1].

    Raises:
        MedGymError: Wrong shape, a component that is not finite or out of its range (beyond rounding).
    """
    try:
        values = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise MedGymError(f"action is no array of numbers; give {shape} numbers in [-1, 1]") from None
    if values.shape != shape:
        raise MedGymError(f"action has shape {values.shape}; expected {shape}")
    wrong = ~(np.abs(values) <= 1.0 + _TOLERANCE)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        names = bank.disease.action_names
        row = f" of environment {where[0]}" if len(where) > 1 else ""
        raise MedGymError(
            f"action component {where[-1]} ({names[where[-1]]}){row} is {values[where]:g}; give a number in [-1, 1]"
        )
    return np.clip(values, -1.0, 1.0).astype(np.float32)


def checked_seed(seed: Any) -> int:
    """`seed` as an int, if it is a whole number from 0 to `MAX_SEED`; else a `MedGymError`."""
    number = whole_number(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        raise MedGymError(f"seed is {seed!r}; give a whole number from 0 to 2^63 - 1")
    return number


def checked_options(options: Any) -> dict[str, Any]:
    """Options of a reset that have a value, by name: "state", "patient", "patient_index".

    Raises:
        MedGymError: Another name, or no dictionary.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise MedGymError(f"options is {options!r}; give a dictionary, for example {{'patient': 0}}")
    known = ("state", "patient", "patient_index")
    for name in options:
        if name not in known:
            raise unknown_name("reset option", name, known)
    return {name: value for name, value in options.items() if value is not None}


def chosen_patient(index: PatientIndex, options: Mapping[str, Any], own: int) -> int:
    """Position of the patient that `options` name, as stored episodes do by id and position; else `own`.

    Raises:
        UnknownNameError: No such patient.
        MedGymError: Two patients are named.
    """
    found = {index.one(options[name]) for name in ("patient", "patient_index") if name in options}
    if len(found) > 1:
        raise MedGymError(
            f"options name two patients of {index.whose}: patient {options['patient']!r} and position "
            f"{options['patient_index']!r}; use the bank of the dataset they come from, or give one of them"
        )
    return found.pop() if found else own


def checked_start(state: Any, bank: SimulatorBank, x: Tensor) -> Tensor:
    """Start states `x` (P, B, D) with their observed columns replaced by `state`.

    Args:
        state: Physical units, (n,) or (P, B, n): the observed components, or those and the derived ones.
        bank: Simulators.
        x: What the components not given keep.

    Raises:
        MedGymError: Wrong shape, a value that is not finite or outside its physical bounds.
    """
    disease = bank.disease
    seen, widths = disease.components[: disease.observed_dim], (len(disease.variables), disease.observed_dim)
    try:
        values = np.asarray(state, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim == 0 or values.shape[-1] not in widths:
        raise MedGymError(
            f"options['state'] has shape {values.shape}; give {widths[0]} values in physical units "
            f"({', '.join(c.name for c in disease.variables)})"
            + (f", or {widths[1]} with {', '.join(c.name for c in seen[widths[0] :])}" if widths[1] > widths[0] else "")
        )
    for j, c in enumerate(seen[: values.shape[-1]]):
        column = values[..., j]
        if not bool(((column >= c.lower) & (column <= c.upper)).all()):
            raise MedGymError(f"options['state']: {c.name} must lie in [{c.lower:g}, {c.upper:g}] {c.unit}")
    given = torch.as_tensor(bank.normalize(values), dtype=x.dtype)
    given = given.expand(*x.shape[:2], given.shape[-1])
    return bank.clamp(torch.cat([given, x[..., given.shape[-1] :]], -1))


def start_infos(process: DecisionProcess, episodes: Episodes) -> dict[str, np.ndarray]:
    """Info columns (P, B, ...) at the start: nothing done yet, severity without treatment."""
    untreated = torch.zeros(*episodes.time.shape, len(process.bank.disease.treatments))
    zero, x = torch.zeros_like(episodes.time), episodes.x
    return _columns(process, x, zero, zero, zero, process.severity(x, untreated), process.bank.monitored(x))


def infos(process: DecisionProcess, outcome: Outcome) -> dict[str, np.ndarray]:
    """Info columns (P, B, ...) of one decision."""
    following = outcome.next
    done = outcome.cost, outcome.dt, following.time
    return _columns(process, following.x, *done, outcome.severity, outcome.monitored)


def _columns(
    process: DecisionProcess, x: Tensor, cost: Tensor, dt: Tensor, time: Tensor, severity: Tensor, monitored: Tensor
) -> dict[str, np.ndarray]:
    disease = process.bank.disease
    named = {"cost": cost, "dt": dt, "time": time, disease.severity.name: severity, disease.cost.component: monitored}
    columns = {name: value.double().numpy() for name, value in named.items()}
    return columns | {"state": process.bank.denormalize(x)[..., : disease.observed_dim].float().numpy()}
