"""The native vector environment: many episodes over many patients in one batched program."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor
from typing_extensions import Unpack  # typing has it from Python 3.11 on

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.registry import disease as disease_named
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.rollout import draw_noise
from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
from medgym_offline.errors import DiseaseError, MedGymError, ProtocolError, unknown_name
from medgym_offline.patients import whole_number
from medgym_offline.simulators.bank import Backend, SimulatorBank
from medgym_offline.simulators.files import load_simulators

# Gymnasium 1.1 and later name the mode by an enumeration, which its wrappers look at; 1.0 has only this behavior.
_MODES: Any = getattr(gymnasium.vector, "AutoresetMode", None)
_NEXT_STEP: Any = "NextStep" if _MODES is None else _MODES.NEXT_STEP

__all__ = ["MAX_SEED", "TreatmentVectorEnv", "checked_actions", "checked_seed"]

MAX_SEED = 2**63 - 1
"""Episode seeds are below this, so that they fit the integers of arrays and files."""

# Policies end in tanh or clip; float arithmetic may overshoot by this much, which is clipped without a word.
_TOLERANCE = 1e-6

_OPTIONS = ("state", "patient", "patient_index")

_release_bank = functools.lru_cache(maxsize=4)(load_simulators)


def _opened(bank: str | SimulatorBank | None, world: str | None, backend: Backend | None, of: str) -> SimulatorBank:
    """The bank given, or named (release banks are read once), in the world and with the backend asked for.

    Raises:
        DiseaseError: The bank is of another disease than `of`.
    """
    definition = disease_named(of)
    bank = definition.bank if bank is None else bank
    if not isinstance(bank, SimulatorBank):
        # A file of the user's own may change between two environments.
        bank = load_simulators(bank) if Path(bank).suffix else _release_bank(bank)
    if bank.disease.name != of:
        raise DiseaseError(f"bank {bank.name!r} is of disease {bank.disease.name!r}, this environment of {of!r}")
    bank = bank.world(world or (definition.world if definition.world in bank.worlds else bank.current_world))
    return bank if backend is None else bank.with_backend(backend)


def _observation_space(bank: SimulatorBank, view: str) -> spaces.Box:
    """Bounds of the observation's columns: the bank's for components, the disease's own for features of its own."""
    seen, n = bank.disease.seen(view), bank.disease.observed_dim
    low, high = np.array([f.lower for f in seen], np.float32), np.array([f.upper for f in seen], np.float32)
    if not bank.disease.features:
        low[:n], high[:n] = bank.lower[:n].cpu().numpy(), bank.upper[:n].cpu().numpy()
    return spaces.Box(low, high, dtype=np.float32)


def checked_actions(actions: Any, shape: tuple[int, ...], names: Sequence[str]) -> np.ndarray:
    """Actions as float32 within [-1, 1]; `names` of their components.

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
        *row, j = (int(i) for i in np.argwhere(wrong)[0])
        where = f"{names[j]})" + (f" of environment {row[0]}" if row else "")
        raise MedGymError(f"action component {j} ({where} is {values[wrong][0]:g}; give a number in [-1, 1]")
    return np.clip(values, -1.0, 1.0).astype(np.float32)


def checked_seed(seed: Any) -> int:
    """`seed` as an int, if it is a whole number from 0 to `MAX_SEED`; else a `MedGymError`."""
    number = whole_number(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        raise MedGymError(f"seed is {seed!r}; give a whole number from 0 to 2^63 - 1")
    return number


class ProcessOptions(TypedDict, total=False):
    """What an environment takes of :class:`~medgym_offline.envs.timing.ProcessConfig`, which checks it."""

    timing: Timing
    decisions: int | None
    reward: RewardKind
    noise: bool
    remission: bool
    view: str


class TreatmentVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` copies of :class:`~medgym_offline.envs.TreatmentEnv`, stepped as one batch.

    Spaces, reward, start, end and infos are those of the single environment, batched. Environment i treats patient
    `i % len(patients)` of the list; its episodes depend on its own seed only, and equal those of a single environment
    with that seed (to float rounding), whatever else is in the batch.

    **Autoreset** is next-step, Gymnasium's default, declared in `metadata["autoreset_mode"]`: after an episode has
    terminated, the next `step` ignores that environment's action, starts a new episode and returns its first
    observation with reward 0 and no termination.

    **Seeds**: `reset(seed=s)` gives environment i the seed s + i, `reset(seed=[...])` one each; episodes after an
    autoreset draw their seeds from the environment's own stream, and treat its own patient.

    **Options** of `reset` are those of the single environment: `state` is (n,) for all or (num_envs, n), in
    physical units; `patient` and `patient_index` are one for all or a list of `num_envs`.

    **Infos** hold those of the single environment as arrays of `num_envs` rows, each with its mask, all True, under
    the same name with an underscore.

    Args:
        num_envs: Number of environments; one per patient if not given.
        patients: Ids or positions of patients, or how many of the bank's first; all of them if not given.
        patient: One patient for all environments, as in the single environment.
        max_episode_steps: As a Gymnasium specification passes it; episodes are not truncated, so it cannot be below
            `decisions`.
        bank, world, backend, disease: As in the single environment.
        process: Others of the single environment: timing, decisions, reward, noise, remission, view.

    Example:
        >>> import gymnasium, medgym_offline
        >>> envs = gymnasium.make_vec("medgym/Sepsis-v0", num_envs=64, timing="fixed")  # doctest: +SKIP
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": _NEXT_STEP}  # type: ignore[misc]
    autoreset_mode: ClassVar[Any] = _NEXT_STEP

    @own_defaults()
    def __init__(
        self,
        num_envs: int | None = None,
        patients: int | Sequence[int | str] | None = None,
        patient: int | str | None = None,
        bank: str | SimulatorBank | None = None,
        world: str | None = None,
        backend: Backend | None = None,
        disease: str | None = None,
        max_episode_steps: int | None = None,
        **process: Unpack[ProcessOptions],
    ) -> None:
        of = disease or (bank.disease.name if isinstance(bank, SimulatorBank) else DEFAULT)
        self._config = config = ProcessConfig(disease=of, **process)  # type: ignore[arg-type]
        if max_episode_steps is not None and max_episode_steps < config.decisions:
            raise ProtocolError(
                f"max_episode_steps is {max_episode_steps}, below {config.decisions} decisions; episodes end at the "
                "horizon and are not truncated: set decisions instead"
            )
        self._bank = _opened(bank, world, backend, of)
        if patient is not None and patients is not None:
            raise MedGymError("both patient and patients are given; give one of them")
        chosen = self._bank.patient_index.resolve(patients if patient is None else [patient])
        count = len(chosen) if num_envs is None else whole_number(num_envs)
        if count is None or count < 1:
            raise MedGymError(f"num_envs is {num_envs!r}; give a whole number of at least 1")
        self.num_envs, self._own = count, [chosen[i % len(chosen)] for i in range(count)]
        self.single_observation_space = _observation_space(self._bank, config.view)
        self.single_action_space = spaces.Box(-1.0, 1.0, (config.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        # Environment i is row (i, 0) of the process: a patient may be in several rows.
        self._current, self.process = self._own, DecisionProcess(self._bank.select(self._own), config)
        self._episodes: Episodes | None = None
        self._generators = [seeding.np_random()[0] for _ in range(count)]
        self._seeds, self._over = np.zeros(count, np.int64), np.zeros(count, bool)
        self._noise = torch.zeros(count, config.decisions, self._bank.state_dim)

    @own_defaults()
    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment (see the class for seeds and options)."""
        seeds, (patients, states) = self._expand_seeds(seed), self._checked_options(options)
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
        if (root := whole_number(seed)) is not None:
            super().reset(seed=root)
        episodes = self._begin(np.ones(self.num_envs, bool), seeds, patients, states)
        return self._observation(episodes), self._infos(self._start_infos(episodes))

    @own_defaults()
    @torch.no_grad()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out one decision per environment; environments whose episode is over start a new one."""
        if self._episodes is None:
            raise ResetNeeded("no episode has begun; call reset() before step()")
        process, fresh, given = self.process, self._over.copy(), np.asarray(actions)
        shape, last = (self.num_envs, self._config.action_dim), self._config.decisions - 1
        if fresh.any() and given.shape == shape:
            given = np.where(fresh[:, None], 0.0, given)  # actions of finished episodes are ignored, whatever they are
        values = checked_actions(given, shape, self._bank.disease.action_names)
        decision = (last + 1 - self._episodes.left[:, 0]).long().clamp_max(last)
        noise = self._noise[torch.arange(self.num_envs), decision]
        outcome = process.step(self._episodes, torch.from_numpy(values)[:, None], noise[:, None])
        self._episodes = episodes = outcome.next
        done = outcome.severity, outcome.monitored, outcome.cost, outcome.dt, episodes.time
        columns = self._columns(episodes.x, *done)
        rewards, terminated = outcome.reward[:, 0].double().numpy(), outcome.terminated[:, 0].numpy()
        if fresh.any():
            episodes = self._begin(fresh, [None] * self.num_envs, self._own, None)
            for name, value in self._start_infos(episodes).items():
                columns[name][fresh] = value[fresh]
            rewards[fresh], terminated[fresh] = 0.0, False
        self._over = terminated.copy()
        truncated = np.zeros(self.num_envs, bool)
        return self._observation(episodes), rewards, terminated, truncated, self._infos(columns)

    @property
    def patients(self) -> tuple[str, ...]:
        """Id of each environment's patient in its episode."""
        return self.process.bank.patients

    def _expand_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if whole_number(seed) is not None or not isinstance(seed, Iterable):
            first = checked_seed(seed)
            return [checked_seed(first + i) for i in range(self.num_envs)]
        return [None if one is None else checked_seed(one) for one in self._each(list(seed), "seeds")]

    def _each(self, value: Any, name: str) -> list[Any]:
        """One value per environment, from one for all or a list."""
        if not (isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value)):
            return [value] * self.num_envs
        if len(value) != self.num_envs:
            raise MedGymError(f"{len(value)} {name} for {self.num_envs} environments; give one each, or one for all")
        return list(value)

    def _checked_options(self, options: Any) -> tuple[list[int], np.ndarray | None]:
        """The position of each environment's patient, and the first states (num_envs, n), physical, or None.

        Raises:
            MedGymError: No dictionary, an unknown name, two patients for one environment, a state out of its bounds.
        """
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise MedGymError(f"options is {options!r}; give a dictionary, for example {{'patient': 0}}")
        for name in options:
            if name not in _OPTIONS:
                raise unknown_name("reset option", name, _OPTIONS)
        index, patients = self._bank.patient_index, []
        given = (self._each(options.get(name), f"options[{name!r}]") for name in ("patient", "patient_index"))
        for own, *named in zip(self._own, *given):
            found = {index.one(name) for name in named if name is not None} or {own}
            if len(found) > 1:
                raise MedGymError(
                    f"options name two patients of {index.whose}: patient {named[0]!r} and position {named[1]!r}; use "
                    "the bank of the dataset they come from, or give one of them"
                )
            patients.append(found.pop())
        state = options.get("state")
        return patients, None if state is None else self._checked_states(state)

    def _checked_states(self, state: Any) -> np.ndarray:
        """The first state of each environment (num_envs, n): the observed components, or those and the derived ones."""
        disease, n = self._bank.disease, len(self._bank.disease.variables)
        observed = disease.components[: disease.observed_dim]
        try:
            values = np.asarray(state, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape not in [(*rows, width) for rows in ((), (self.num_envs,)) for width in (n, len(observed))]:
            derived = ", ".join(c.name for c in observed[n:])
            raise MedGymError(
                f"options['state'] has shape {values.shape}; give {n} values in physical units "
                f"({', '.join(c.name for c in observed[:n])})"
                + (f", or {len(observed)} with {derived}" if derived else "")
            )
        for j, c in enumerate(observed[: values.shape[-1]]):
            if not ((values[..., j] >= c.lower) & (values[..., j] <= c.upper)).all():
                raise MedGymError(f"options['state']: {c.name} must lie in [{c.lower:g}, {c.upper:g}] {c.unit}")
        return np.broadcast_to(values, (self.num_envs, values.shape[-1]))

    def _begin(
        self, which: np.ndarray, seeds: Sequence[int | None], patients: Sequence[int], states: np.ndarray | None
    ) -> Episodes:
        """Start new episodes in the environments of the mask `which`; where all of them stand then."""
        chosen = np.flatnonzero(which).tolist()
        for i in chosen:
            given = seeds[i]
            self._seeds[i] = self._generators[i].integers(MAX_SEED) if given is None else given
        treated = [new if begins else old for new, old, begins in zip(patients, self._current, which)]
        if treated != self._current:
            self._current, self.process = treated, DecisionProcess(self._bank.select(treated), self._config)
        begun = DecisionProcess(self._bank.select([treated[i] for i in chosen]), self._config)
        drawn = draw_noise(self._seeds[chosen, None], begun.bank, self._config)
        self._noise[chosen] = drawn.process[:, 0]
        start = begun.start(1, drawn.initial, drawn.exogenous, drawn.view)
        if states is not None:
            first = torch.as_tensor(self._bank.normalize(states), dtype=start.x.dtype)[:, None]
            x = begun.bank.clamp(torch.cat([first, start.x[..., first.shape[-1] :]], -1))
            start = replace(start, x=x)
        if self._episodes is not None and not which.all():
            going, rows = vars(self._episodes), (torch.tensor(chosen),)
            named = {name: going[name].index_put(rows, new) for name, new in vars(start).items() if new is not None}
            start = Episodes(**named)
        self._episodes, self._over[chosen] = start, False
        return start

    def _observation(self, episodes: Episodes) -> np.ndarray:
        return self.process.observe(episodes)[:, 0].numpy()

    def _start_infos(self, episodes: Episodes) -> dict[str, np.ndarray]:
        """Info columns at the start: nothing done yet, severity without treatment."""
        x, zero = episodes.x, torch.zeros_like(episodes.time)
        untreated = x.new_zeros(*zero.shape, len(self._bank.disease.treatments))
        return self._columns(x, self.process.severity(x, untreated), self._bank.monitored(x), zero, zero, zero)

    def _columns(
        self, x: Tensor, severity: Tensor, monitored: Tensor, cost: Tensor, dt: Tensor, time: Tensor
    ) -> dict[str, np.ndarray]:
        disease = self._bank.disease
        named = {"cost": cost, "dt": dt, "time": time}
        named |= {disease.severity.name: severity, disease.cost.component: monitored}
        state = self._bank.denormalize(x[:, 0])[..., : disease.observed_dim].float().numpy()
        return {name: value[:, 0].double().numpy() for name, value in named.items()} | {"state": state}

    def _infos(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = columns | {"seed": self._seeds.copy()}
        return {**columns, **{f"_{name}": np.ones(self.num_envs, bool) for name in columns}}
