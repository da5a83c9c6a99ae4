"""The single-patient Gymnasium environment; its class docstring is the specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded

from medgym_offline.defaults import own_defaults
from medgym_offline.envs import interface
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.rollout import EpisodeNoise, draw_noise
from medgym_offline.envs.timing import ProcessConfig, RewardKind, Timing
from medgym_offline.simulators.bank import Backend, SimulatorBank

__all__ = ["SepsisEnv"]


class SepsisEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    Treat one simulated patient with sepsis for 96 hours. At each decision the agent sets oxygen, vasopressor and
    fluids, and (adaptive timing) for how long to hold them before looking again; the simulator, learned from the
    record of one intensive-care stay, says where that leads. Decisions are scarce: at most K in 96 hours, so asking
    early for short intervals leaves long ones for later. A research benchmark, not decision support for care.

    ## Action space

    `Box(-1, 1, (4,), float32)` under adaptive timing, `(3,)` under fixed timing.

    | # | action        | -1    | 1            | in between, u = (a + 1)/2                                   |
    |---|---------------|-------|--------------|-------------------------------------------------------------|
    | 0 | `fio2`        | 21 %  | 100 %        | log1p of the dose, affine in u                              |
    | 1 | `vasopressor` | 0     | bank's d_max | log1p of mcg/kg/min norepinephrine equivalents (about 0.75) |
    | 2 | `fluids`      | 0     | bank's f_max | log1p of (mL/h)/100 (about 1100 mL/h)                       |
    | 3 | `interval`    | 0.5 h | 36 h         | dt = 0.5 + (a + 1)/2 * 35.5, then clipped as below          |

    With t the hours and k the decisions that remain, dt is clipped to [max(0.5, t - 36 (k - 1)), min(36, t)], so that
    the rest can always be filled; the last decision takes all that remains. A dt that would leave less than 0.5 h
    takes that too (or leaves exactly 0.5 h, where the hold would exceed 36 h). Under fixed timing dt = 96/K.

    ## Observation space

    `Box(9,)` float32. The state is normalised by the bank's affine maps, the same for all patients; its bounds are
    the normalised physical bounds.

    | # | observation           | unit before normalisation   | physical bounds |
    |---|-----------------------|-----------------------------|-----------------|
    | 0 | `spo2`                | %                           | 0 .. 100        |
    | 1 | `pao2`                | mmHg                        | 20 .. 600       |
    | 2 | `bilirubin`           | mg/dL                       | 0 .. 30         |
    | 3 | `gcs`                 | points                      | 3 .. 15         |
    | 4 | `urine`               | mL/day                      | 0 .. 5000       |
    | 5 | `lactate`             | mmol/L                      | 0 .. 20         |
    | 6 | `fluid_balance`       | litres since admission      | -10 .. 30       |
    | 7 | remaining time        | hours / 96                  | 0 .. 1          |
    | 8 | remaining decisions   | decisions / K               | 0 .. 1          |

    The simulator's hidden components (severity of shock) are not observed.

    ## Reward

    Of one decision of dt hours, S the smooth SOFA surrogate and v the normalised vasopressor:

    - `"integral"` (default): `-0.1 * integral over the hold of [S(x(tau)) + 0.2 v]`, by quadrature on cells of at most
      1 h. The undiscounted return does not depend on how time is cut.
    - `"paper"`: `-S_end - 0.2 v`, per decision.
    - `"authors"`: `0.1 dt (-S_end - 0.2 v) + 4 (S_start - S_end) - 0.15 dt - 0.02/(dt + 0.001) + 0.3`, both severities
      under the dose now given.

    ## Starting state

    The patient's first recorded state plus N(0, 0.05^2) on the six variables (normalised), clamped to bounds.
    `reset(options={"state": [...]})` starts from the given values instead, exactly: six values in physical units in
    the order above, or seven with the fluid balance in litres. `reset(options={"patient": ...})` treats another patient
    of the bank in this episode. Options without a meaning here are an error.

    ## Transition

    `x' = clamp(F(x, u, dt) + W)`, F the bank's solution map, `W ~ N(0, sigma^2 dt)`.

    ## Episode end

    *Terminated* when 96 h are reached, never by counting steps: remaining time is part of the observation, so this is
    a true terminal of a finite-horizon problem. With `remission=True` also when S has stayed below 2 for 12 h.
    *Truncated* never.

    ## Info

    NumPy values: `cost` (safety cost of the decision, from lactate at its end and its rise), `dt` and `time` (hours;
    `time` is when the decision ended), `sofa` and `lactate` (at that time; mmol/L), `state` (the first seven
    observations in physical units), `seed` (of this episode: `reset(seed=info["seed"])` replays it). At reset `cost`,
    `dt` and `time` are 0 and `sofa` is without treatment.

    ## Arguments

    ```python
    import gymnasium, medgym_offline

    env = gymnasium.make("medgym/Sepsis-v0", patient=0, timing="adaptive", decisions=20, reward="integral")
    ```

    | argument    | default       | meaning                                                                        |
    |-------------|---------------|--------------------------------------------------------------------------------|
    | `patient`   | `0`           | position or id in the bank                                                     |
    | `timing`    | `"adaptive"`  | `"adaptive"` or `"fixed"`                                                      |
    | `decisions` | `20`          | K, most decisions in an episode: 3 to 192                                      |
    | `reward`    | `"integral"`  | `"integral"`, `"paper"` or `"authors"`                                         |
    | `noise`     | `True`        | `False`: no initial perturbation, no residual noise                            |
    | `bank`      | `"sepsis-v0"` | name or path of a simulator bank, or a `SimulatorBank`                         |
    | `world`     | `"own"`       | which of the bank's worlds: `"own"`, `"held-out"`, `"true"`                    |
    | `remission` | `False`       | whether lasting recovery ends the episode                                      |
    | `backend`   | `None`        | `"map"` or `"ode"`; None is the bank's own                                     |

    Raises `MedGymError` on unknown names, an infeasible budget, and actions that are not finite, of the wrong shape or
    outside the box.

    ## Seeds

    `reset(seed=s)` plays the episode of seed s: the same noise as the episode with that seed in a dataset or in
    `medgym_offline.envs.rollout`. A dataset stores with each episode what repeats it, its patient by id and position:
    `reset(seed=metadata["seed"], options=metadata["options"])`. A reset without seed draws the next episode's seed
    from `np_random`.

    ## Version history

    - v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    @own_defaults()
    def __init__(
        self,
        patient: int | str = 0,
        timing: Timing = "adaptive",
        decisions: int = 20,
        reward: RewardKind = "integral",
        noise: bool = True,
        bank: str | SimulatorBank = "sepsis-v0",
        world: str = "own",
        remission: bool = False,
        backend: Backend | None = None,
    ) -> None:
        config = ProcessConfig(timing=timing, decisions=decisions, reward=reward, noise=noise, remission=remission)
        opened = interface.open_bank(bank, world, backend)
        self._bank = opened
        self._own = self._current = opened.index(patient)
        self.process = DecisionProcess(opened.select([self._own]), config)
        self.observation_space = interface.observation_space(self.process.bank)
        self.action_space = interface.action_space(config)
        self._episodes: Episodes | None = None
        self._noise: EpisodeNoise | None = None
        self._seed = 0

    @property
    def patient(self) -> str:
        """Id of the patient of this episode."""
        return self._bank.patients[self._current]

    @own_defaults()
    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; options "state" and "patient" (or "patient_index") set who and how ill (see the class)."""
        seed = None if seed is None else interface.checked_seed(seed)
        given = interface.checked_options(options)
        config, patient = self.process.config, interface.chosen_patient(self._bank.patient_index, given, self._own)
        other = patient != self._current
        process = DecisionProcess(self._bank.select([patient]), config) if other else self.process
        first = process.start(1)
        if "state" in given:
            first = replace(first, x=interface.checked_start(given["state"], process.bank, first.x))
        super().reset(seed=seed)
        self.process, self._current = process, patient
        self._seed = int(self.np_random.integers(interface.MAX_SEED)) if seed is None else seed
        self._noise = draw_noise(np.array([[self._seed]]), config.decisions, process.bank.state_dim, config.action_dim)
        self._episodes = episodes = first if "state" in given else process.start(1, self._noise.initial)
        return self._observation(), self._info(interface.start_infos(process, episodes))

    @own_defaults()
    @torch.no_grad()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one decision."""
        process, episodes = self.process, self._episodes
        if episodes is None or self._noise is None or not bool(process.active(episodes)):
            raise ResetNeeded("the episode is over or has not begun; call reset() before step()")
        values = interface.checked_actions(action, (process.config.action_dim,), process.bank)
        k = process.config.decisions - int(episodes.left)
        outcome = process.step(episodes, torch.from_numpy(values)[None, None], self._noise.process[:, :, k])
        self._episodes = outcome.next
        info = self._info(interface.infos(process, outcome))
        return self._observation(), float(outcome.reward), bool(outcome.terminated), False, info

    def _observation(self) -> np.ndarray:
        assert self._episodes is not None
        return self.process.observe(self._episodes)[0, 0].numpy()

    def _info(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        # NumPy's numbers, which have a type: collectors of other libraries make room for each by it.
        return {name: value[0, 0] for name, value in columns.items()} | {"seed": np.int64(self._seed)}
