"""The native vector environment: many episodes over many patients in one batched program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.views import FULL
from medgym_offline.envs import interface
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.rollout import draw_noise
from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
from medgym_offline.errors import MedGymError, ProtocolError
from medgym_offline.patients import whole_number
from medgym_offline.simulators.bank import Backend, SimulatorBank

# Gymnasium 1.1 and later name the mode by an enumeration, which its wrappers look at; 1.0 has only this behavior.
_MODES: Any = getattr(gymnasium.vector, "AutoresetMode", None)
_NEXT_STEP: Any = "NextStep" if _MODES is None else _MODES.NEXT_STEP

__all__ = ["TreatmentVectorEnv"]


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
        timing, decisions, reward, noise, bank, world, remission, backend, disease, view: As in the single environment.

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
        timing: Timing = "adaptive",
        decisions: int | None = None,
        reward: RewardKind = "integral",
        noise: bool = True,
        bank: str | SimulatorBank | None = None,
        world: str | None = None,
        remission: bool = False,
        backend: Backend | None = None,
        disease: str | None = None,
        max_episode_steps: int | None = None,
        view: str = FULL,
    ) -> None:
        of = disease or (bank.disease.name if isinstance(bank, SimulatorBank) else DEFAULT)
        config = ProcessConfig(
            timing=timing,
            decisions=decisions,  # type: ignore[arg-type]
            reward=reward,
            noise=noise,
            remission=remission,
            disease=of,
            view=view,
        )
        if max_episode_steps is not None and max_episode_steps < config.decisions:
            raise ProtocolError(
                f"max_episode_steps is {max_episode_steps}, below {config.decisions} decisions; episodes end at the "
                "horizon and are not truncated: set decisions instead"
            )
        opened = interface.open_bank(bank, world, backend, of)
        if patient is not None and patients is not None:
            raise MedGymError("both patient and patients are given; give one of them")
        chosen = opened.patient_index.resolve(patients if patient is None else [patient])
        count = len(chosen) if num_envs is None else whole_number(num_envs)
        if count is None or count < 1:
            raise MedGymError(f"num_envs is {num_envs!r}; give a whole number of at least 1")
        self.num_envs, self._bank, self._config = count, opened, config
        self._own, self._current = [chosen[i % len(chosen)] for i in range(count)], list[int]()
        self._episodes: Episodes | None = None
        self._seat(self._own)
        self._episodes = None
        self.single_observation_space = interface.observation_space(self.process.bank, view)
        self.single_action_space = interface.action_space(config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._noise = torch.zeros(self.num_envs, config.decisions, opened.state_dim)
        self._over = np.zeros(self.num_envs, bool)

    @own_defaults()
    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment (see the class for seeds and options)."""
        seeds, given = self._expand_seeds(seed), interface.checked_options(options)
        patients, states = self._chosen_patients(given), self._checked_states(given.get("state"))
        self._episodes = None
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
        if (root := whole_number(seed)) is not None:
            super().reset(seed=root)
        self._begin(np.ones(self.num_envs, bool), seeds, patients, states)
        assert self._episodes is not None
        columns = {n: self._rows(v) for n, v in interface.start_infos(self.process, self._episodes).items()}
        return self._observation(), self._infos(columns)

    @own_defaults()
    @torch.no_grad()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out one decision per environment; environments whose episode is over start a new one."""
        if self._episodes is None:
            raise ResetNeeded("no episode has begun; call reset() before step()")
        process, episodes, fresh = self.process, self._episodes, self._over.copy()
        given = np.asarray(actions)
        shape = (self.num_envs, process.config.action_dim)
        if fresh.any() and given.shape == shape:
            given = np.where(fresh[:, None], 0.0, given)  # actions of finished episodes are ignored, whatever they are
        values = interface.checked_actions(given, shape, process.bank)
        decision = process.config.decisions - self._rows(episodes.left).long()
        noise = self._noise[torch.arange(self.num_envs), decision.clamp_max(process.config.decisions - 1)]
        outcome = process.step(episodes, self._grid(torch.from_numpy(values)), self._grid(noise))
        self._episodes = outcome.next
        columns = {name: self._rows(v) for name, v in interface.infos(process, outcome).items()}
        rewards = self._rows(outcome.reward).double().numpy()
        terminated = self._rows(outcome.terminated).numpy()
        if fresh.any():
            self._begin(fresh, [None] * self.num_envs, self._own, None)
            for name, value in interface.start_infos(self.process, self._episodes).items():
                columns[name][fresh] = self._rows(value)[fresh]
            rewards[fresh], terminated[fresh] = 0.0, False
        self._over = terminated.copy()
        return self._observation(), rewards, terminated, np.zeros(self.num_envs, bool), self._infos(columns)

    @property
    def running(self) -> np.ndarray:
        """Which environments are within an episode, (num_envs,) bool; the others start one with the next step."""
        return np.full(self.num_envs, self._episodes is not None) & ~self._over

    @property
    def patients(self) -> tuple[str, ...]:
        """Id of each environment's patient in its episode."""
        return tuple(self._bank.patients[i] for i in self._current)

    def _expand_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if whole_number(seed) is not None or not isinstance(seed, Iterable):
            first = interface.checked_seed(seed)
            return [interface.checked_seed(first + i) for i in range(self.num_envs)]
        seeds = [None if one is None else interface.checked_seed(one) for one in seed]
        if len(seeds) != self.num_envs:
            raise MedGymError(f"{len(seeds)} seeds for {self.num_envs} environments; give one each, or one number")
        return seeds

    def _chosen_patients(self, options: dict[str, Any]) -> list[int]:
        """Position of the patient that each environment is to treat, from the options."""
        each: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for name in ("patient", "patient_index"):
            value = options.get(name)
            if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value):
                if len(value) != self.num_envs:
                    raise MedGymError(
                        f"options[{name!r}] has {len(value)} entries for {self.num_envs} environments; give one each, "
                        "or one for all"
                    )
                for entry, one in zip(each, value):
                    entry |= {} if one is None else {name: one}
            elif value is not None:
                each = [entry | {name: value} for entry in each]
        index = self._bank.patient_index
        return [interface.chosen_patient(index, entry, own) for entry, own in zip(each, self._own)]

    def _checked_states(self, state: Any) -> np.ndarray | None:
        """The first state that the options give each environment, (num_envs, n)."""
        if state is None:
            return None
        rows = np.asarray(state, dtype=object)
        if rows.ndim == 2 and len(rows) != self.num_envs:
            raise MedGymError(f"options['state'] has {len(rows)} rows for {self.num_envs} environments")
        first = self.process.start(self.num_envs).x[:1]
        interface.checked_start(rows if rows.ndim < 2 else rows[None], self.process.bank, first)
        return np.broadcast_to(rows.astype(np.float64), (self.num_envs, rows.shape[-1]))

    def _seat(self, patients: Sequence[int]) -> None:
        """Let each environment treat the patient at its position; episodes that are under way go on.

        Environment i is row (p_i, b_i) of the process; rows of nobody are padding, at the horizon from the beginning.
        """
        before = {}
        if self._episodes is not None:
            before = {n: self._rows(v) for n, v in vars(self._episodes).items() if v is not None}
        if patients != self._current:
            treating: dict[int, list[int]] = {}
            for i, patient in enumerate(patients):
                treating.setdefault(patient, []).append(i)
            self._row, self._column = np.zeros((2, self.num_envs), np.int64)
            for p, group in enumerate(treating.values()):
                self._row[group], self._column[group] = p, np.arange(len(group))
            self._shape = len(treating), max(map(len, treating.values()))
            self.process = DecisionProcess(self._bank.select(treating), self._config)
            self._current = list(patients)
        blank = self.process.start(self._shape[1], exogenous=self._no_events(), view=self._no_measurements())
        self._episodes = replace(blank, time=torch.full_like(blank.time, self._config.horizon))
        if before:
            grids = {name: self._grid(rows, getattr(self._episodes, name)) for name, rows in before.items()}
            self._episodes = replace(self._episodes, **grids)

    def _begin(
        self, which: np.ndarray, seeds: Sequence[int | None], patients: Sequence[int], states: np.ndarray | None
    ) -> None:
        """Start new episodes in the environments of the mask `which`."""
        seated = [new if begins else old for new, old, begins in zip(patients, self._current, which)]
        if self._episodes is None or seated != self._current:
            self._seat(seated)
        assert self._episodes is not None
        process, config = self.process, self.process.config
        chosen = np.flatnonzero(which).tolist()
        for i in chosen:
            given = seeds[i]
            self._seeds[i] = self._generators[i].integers(interface.MAX_SEED) if given is None else given
        treated = self._bank.select([self._current[i] for i in chosen])
        drawn = draw_noise(self._seeds[chosen, None], treated, config)
        self._noise[chosen] = drawn.process[:, 0]
        initial = torch.zeros(self.num_envs, process.bank.state_dim)
        initial[chosen] = drawn.initial[:, 0]
        events, view = (self._spread(part, chosen) for part in (drawn.exogenous, drawn.view))
        start = process.start(self._shape[1], self._grid(initial), events, view)
        if states is not None:
            first, padded = process.start(self._shape[1], None, events, view), np.tile(states[0], (*self._shape, 1))
            padded[self._row, self._column] = states
            start = replace(first, x=interface.checked_start(padded, process.bank, first.x))
        mask = self._grid(torch.from_numpy(which))
        old = self._episodes

        def begun(name: str) -> Any:
            new, before = getattr(start, name), getattr(old, name)
            return None if new is None else torch.where(mask.view(*mask.shape, *[1] * (new.ndim - 2)), new, before)

        self._episodes = Episodes(**{name: begun(name) for name in vars(start)})
        self._over[chosen] = False

    def _no_events(self) -> Tensor | None:
        events = self._bank.disease.exogenous
        return None if events is None else torch.zeros(*self._shape, len(events.names))

    def _no_measurements(self) -> Tensor | None:
        lens = self.process.lens
        return None if lens is None else torch.zeros(*self._shape, lens.slots, 4)

    def _spread(self, drawn: Tensor | None, chosen: Sequence[int]) -> Tensor | None:
        """What was drawn (n, 1, ...) for the environments `chosen`, in their places; others are zero."""
        if drawn is None:
            return None
        rows = drawn.new_zeros(self.num_envs, *drawn.shape[2:])
        rows[chosen] = drawn[:, 0]
        return self._grid(rows)

    def _grid(self, rows: Tensor, padding: Tensor | None = None) -> Tensor:
        """Rows in the order of environments (N, ...) to the process's (P, B, ...); padding is zero if not given."""
        full = rows.new_zeros(*self._shape, *rows.shape[1:]) if padding is None else padding.clone()
        full[self._row, self._column] = rows
        return full

    def _rows(self, grid: Any) -> Any:
        """Inverse of :meth:`_grid`, for tensors and arrays; always a copy."""
        return grid[self._row, self._column]

    def _observation(self) -> np.ndarray:
        assert self._episodes is not None
        return self._rows(self.process.observe(self._episodes)).numpy()

    def _infos(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = columns | {"seed": self._seeds.copy()}
        return {**columns, **{f"_{name}": np.ones(self.num_envs, bool) for name in columns}}
