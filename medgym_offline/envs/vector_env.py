"""The native vector environment: many episodes over many patients in one batched program."""

from __future__ import annotations

from collections.abc import Sequence
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

from medgym_offline.envs import interface
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.rollout import draw_noise
from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
from medgym_offline.errors import MedGymError, ProtocolError
from medgym_offline.simulators.bank import Backend, SimulatorBank

# Gymnasium 1.1 and later name the mode by an enumeration, which its wrappers look at; 1.0 has only this behaviour.
_MODES: Any = getattr(gymnasium.vector, "AutoresetMode", None)
_NEXT_STEP: Any = "NextStep" if _MODES is None else _MODES.NEXT_STEP

__all__ = ["SepsisVectorEnv"]


class SepsisVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` copies of :class:`~medgym_offline.envs.SepsisEnv`, stepped as one batch.

    Spaces, reward, start, end and infos are those of the single environment, batched. Environment i treats patient
    `i % len(patients)` of the list; its episodes depend on its own seed only, and equal those of a single environment
    with that seed (to float rounding), whatever else is in the batch.

    **Autoreset** is next-step, Gymnasium's default, declared in `metadata["autoreset_mode"]`: after an episode has
    terminated, the next `step` ignores that environment's action, starts a new episode and returns its first
    observation with reward 0 and no termination.

    **Seeds**: `reset(seed=s)` gives environment i the seed s + i, `reset(seed=[...])` one each; episodes after an
    autoreset draw their seeds from the environment's own stream. `options={"state": ...}` is (6 or 7,) for all or
    (num_envs, 6 or 7), in physical units.

    **Infos** hold `cost, dt, time, sofa, lactate, state, seed` as arrays of `num_envs` rows, each with its mask under
    the same name with an underscore.

    Args:
        num_envs: Number of environments; one per patient if not given.
        patients: Ids or positions of patients, or how many of the bank's first; all of them if not given.
        patient: One patient for all environments, as in the single environment.
        max_episode_steps: As a Gymnasium specification passes it; episodes are not truncated, so it cannot be below
            `decisions`.
        timing, decisions, reward, noise, bank, world, remission, backend: As in the single environment.

    Example:
        >>> import gymnasium, medgym_offline
        >>> envs = gymnasium.make_vec("medgym/Sepsis-v0", num_envs=64, timing="fixed")  # doctest: +SKIP
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": _NEXT_STEP}  # type: ignore[misc]

    def __init__(
        self,
        num_envs: int | None = None,
        patients: int | Sequence[int | str] | None = None,
        patient: int | str | None = None,
        timing: Timing = "adaptive",
        decisions: int = 20,
        reward: RewardKind = "integral",
        noise: bool = True,
        bank: str | SimulatorBank = "sepsis-v0",
        world: str = "own",
        remission: bool = False,
        backend: Backend | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        config = ProcessConfig(timing=timing, decisions=decisions, reward=reward, noise=noise, remission=remission)
        if max_episode_steps is not None and max_episode_steps < config.decisions:
            raise ProtocolError(
                f"max_episode_steps is {max_episode_steps}, below {config.decisions} decisions; episodes end at 96 h "
                "and are not truncated: set decisions instead"
            )
        opened = interface.open_bank(bank, world, backend)
        if patient is not None and patients is not None:
            raise MedGymError("both patient and patients are given; give one of them")
        chosen = opened.patient_index.resolve(patients if patient is None else [patient])
        self.num_envs = len(chosen) if num_envs is None else int(num_envs)
        if self.num_envs < 1:
            raise MedGymError(f"num_envs is {num_envs}; give a whole number of at least 1")
        # Environment i is row (i % P, i // P) of the process; rows beyond num_envs are padding and stay inert.
        self._stack = min(len(chosen), self.num_envs)
        self._batch = -(-self.num_envs // self._stack)
        self.process = DecisionProcess(opened.select(chosen[: self._stack]), config)
        ids = self.process.bank.patients
        self.patients = tuple(ids[i % self._stack] for i in range(self.num_envs))
        self.single_observation_space = interface.observation_space(self.process.bank)
        self.single_action_space = interface.action_space(config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._seeds = np.zeros(self.num_envs, np.int64)
        self._noise = torch.zeros(self.num_envs, config.decisions, self.process.bank.state_dim)
        self._episodes: Episodes | None = None
        self._over = np.zeros(self.num_envs, bool)

    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment (see the class for seeds and options)."""
        seeds = self._expand_seeds(seed)
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        zeros = torch.zeros(self._stack, self._batch)
        blank = self.process.start(self._batch)
        # Padding rows stand at the horizon from the beginning.
        self._episodes = replace(blank, time=zeros + self.process.config.horizon)
        state = None if not options else options.get("state")
        self._begin(np.ones(self.num_envs, bool), seeds, state)
        columns = interface.start_infos(self.process, self._episodes)
        return self._observation(), self._infos({name: self._rows(v) for name, v in columns.items()})

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
            self._begin(fresh, [None] * self.num_envs, None)
            for name, value in interface.start_infos(process, self._episodes).items():
                columns[name][fresh] = self._rows(value)[fresh]
            rewards[fresh], terminated[fresh] = 0.0, False
        self._over = terminated.copy()
        return self._observation(), rewards, terminated, np.zeros(self.num_envs, bool), self._infos(columns)

    def _expand_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            seeds: list[int | None] = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None if s is None else int(s) for s in seed]
        if len(seeds) != self.num_envs:
            raise MedGymError(f"{len(seeds)} seeds for {self.num_envs} environments; give one each, or one number")
        for one in seeds:
            if one is not None and not 0 <= one <= interface.MAX_SEED:
                raise MedGymError(f"seed is {one}; give whole numbers from 0 to 2^63 - 1")
        return seeds

    def _begin(self, which: np.ndarray, seeds: Sequence[int | None], state: Any) -> None:
        """Start new episodes in the environments of the mask `which`."""
        assert self._episodes is not None
        process, config = self.process, self.process.config
        chosen = np.flatnonzero(which).tolist()
        for i in chosen:
            given = seeds[i]
            self._seeds[i] = self._generators[i].integers(interface.MAX_SEED) if given is None else given
        drawn = draw_noise(self._seeds[None, chosen], config.decisions, process.bank.state_dim, config.action_dim)
        self._noise[chosen] = drawn.process[0]
        initial = torch.zeros(self.num_envs, process.bank.state_dim)
        initial[chosen] = drawn.initial[0]
        start = process.start(self._batch, self._grid(initial))
        if state is not None:
            rows = np.asarray(state, dtype=object)
            if rows.ndim == 2 and len(rows) != self.num_envs:
                raise MedGymError(f"options['state'] has {len(rows)} rows for {self.num_envs} environments")
            first = process.start(self._batch)
            if rows.ndim == 2:
                padded = np.concatenate([rows, np.repeat(rows[:1], self._stack * self._batch - len(rows), 0)])
                rows = padded.reshape(self._batch, self._stack, -1).swapaxes(0, 1)
            start = replace(first, x=interface.checked_start(rows, process.bank, first.x))
        mask = self._grid(torch.from_numpy(which))
        old = self._episodes
        self._episodes = Episodes(
            x=torch.where(mask[..., None], start.x, old.x),
            time=torch.where(mask, start.time, old.time),
            left=torch.where(mask, start.left, old.left),
            calm=torch.where(mask, start.calm, old.calm),
        )
        self._over[chosen] = False

    def _grid(self, rows: Tensor) -> Tensor:
        """Rows in the order of environments (N, ...) to the process's (P, B, ...); padding is zero."""
        full = rows.new_zeros(self._stack * self._batch, *rows.shape[1:])
        full[: self.num_envs] = rows
        return full.reshape(self._batch, self._stack, *rows.shape[1:]).transpose(0, 1)

    def _rows(self, grid: Any) -> Any:
        """Inverse of :meth:`_grid`, for tensors and arrays; always a copy."""
        moved = grid.transpose(0, 1) if isinstance(grid, Tensor) else grid.swapaxes(0, 1)
        flat = moved.reshape(-1, *grid.shape[2:])[: self.num_envs]
        return flat.clone() if isinstance(flat, Tensor) else flat.copy()

    def _observation(self) -> np.ndarray:
        assert self._episodes is not None
        return self._rows(self.process.observe(self._episodes)).numpy()

    def _infos(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = columns | {"seed": self._seeds.copy()}
        masks = {f"_{name}": np.ones(self.num_envs, bool) for name in columns}
        return {**columns, **masks}
