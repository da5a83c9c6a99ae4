"""The single-patient Gymnasium environment; its class docstring is the specification."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from medgym_offline.envs.vector_env import TreatmentVectorEnv, checked_actions, checked_seed

__all__ = ["TreatmentEnv"]


class TreatmentEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    Treat one simulated patient. At each decision the agent sets the doses, and (adaptive timing) for how long to hold
    them before looking again; the patient's simulator says where that leads. Decisions are scarce: at most K until the
    horizon, so asking early for short intervals leaves long ones for later. `medgym/<Disease>-v0` is this environment
    for a disease; components, treatments, units, limits and the horizon T are the disease's (`mgo.disease(name)`, and
    the page of the disease in the docs). A research benchmark, not decision support for care.

    ## Action space

    `Box(-1, 1, float32)`: one component per treatment, u = (a + 1)/2 in [0, 1] mapped to the dose by the treatment's
    transform (from its lowest dose to the bank's highest); under adaptive timing one more, the interval:
    dt = shortest + (a + 1)/2 * (longest - shortest). A rate is held for the whole interval, a bolus given at its start.

    With t the time and k the decisions that remain, dt is clipped to [max(shortest, t - longest (k - 1)), min(longest,
    t)], so that the rest can always be filled; the last decision takes all that remains. A dt that would leave less
    than the shortest takes that too (or leaves exactly the shortest, where the interval would exceed the longest). dt
    is rounded to the disease's ticks. Under fixed timing dt = T/K.

    ## Observation space

    `Box(d,)` float32, the columns of `mgo.disease(name).observation`. If the disease says no more, these are the
    observed and derived components, normalized by the bank's affine maps, the same for all patients; then the remaining
    time / T and the remaining decisions / K. Hidden components are not observed. Another `view` of the disease shows
    what its instruments measure (`mgo.disease(name).seen(view)`).

    ## Reward

    Of one decision of length dt, S the severity of the disease (capped where the disease says so) and v its burden of
    treating:

    - `"integral"` (default): `-0.1 * integral over the interval of [S(x(tau)) + v]`, by quadrature on cells of at most
      the disease's length. The undiscounted return does not depend on how time is cut.
    - `"state"`: the same of the severity as it is without treatment, and no burden: nothing is paid for not treating.
    - `"paper"`: `-S_end - v`, per decision.
    - `"authors"`: `0.1 dt (-S_end - v) + 4 (S_start - S_end) - 0.15 dt - 0.02/(dt + 0.001) + 0.3`, both severities
      under the dose now given.

    ## Starting state

    The patient's first state plus N(0, s^2) on the observed components (normalized; s is the disease's), clamped to
    bounds. `reset(options={"state": [...]})` starts from the given values instead, exactly: the observed components in
    physical units, or those and the derived ones. `reset(options={"patient": ...})` treats another patient of the bank
    in this episode. Options without a meaning here are an error.

    ## Transition

    `x' = clamp(F(x, u, dt) + W)`, F the bank's flow, `W ~ N(0, sigma^2 dt)`. Events and errors of measurement, where
    the disease has them, come from the episode's seed.

    ## Episode end

    *Terminated* when the horizon is reached, never by counting steps: remaining time is part of the observation, so
    this is a true terminal of a finite-horizon problem. With `remission=True` also when S has stayed below a level for
    a time, both the disease's (an error where it has none).
    *Truncated* never.

    ## Info

    NumPy values: `cost` (safety cost of the decision), `dt` and `time` (`time` is when the decision ended),
    severity and monitored component at that time under the disease's own names, `state` (observed and derived
    components, physical units), `seed` (of this episode: `reset(seed=info["seed"])` replays it). At reset `cost`, `dt`
    and `time` are 0 and the severity is without treatment.

    ## Arguments

    ```python
    import gymnasium, medgym_offline

    env = gymnasium.make("medgym/Sepsis-v0", patient=0, timing="adaptive", decisions=20, reward="integral")
    ```

    | argument    | default      | meaning                                                             |
    |-------------|--------------|---------------------------------------------------------------------|
    | `patient`   | `0`          | position or id in the bank                                          |
    | `timing`    | `"adaptive"` | `"adaptive"` or `"fixed"`                                           |
    | `decisions` | `None`       | K, most decisions in an episode; None is the disease's              |
    | `reward`    | `"integral"` | `"integral"`, `"state"`, `"paper"` or `"authors"`                   |
    | `noise`     | `True`       | `False`: no initial perturbation, no residual noise                 |
    | `bank`      | `None`       | name or path of a simulator bank, or a `SimulatorBank`              |
    | `world`     | `None`       | `"own"`, `"crossfit"`, `"true"`; None is the disease's default      |
    | `remission` | `False`      | whether lasting recovery ends the episode                           |
    | `backend`   | `None`       | `"map"` or `"ode"`; None is the bank's own                          |
    | `disease`   | by the id    | name of the disease; without an id the bank's                       |
    | `view`      | `"full"`     | what is observed: `"full"`, or a view of the disease                |

    Raises `MedGymError` on unknown names, an infeasible budget, and actions that are not finite, of the wrong shape or
    outside the box.

    ## Seeds

    `reset(seed=s)` plays the episode of seed s: the same noise as the episode with that seed in a dataset or in
    `medgym_offline.envs.rollout`. A dataset stores with each episode what repeats it, its patient by id and position:
    `reset(seed=metadata["seed"], options=metadata["options"])`. A reset without seed draws the next episode's seed
    from a generator that the last seed given began, or chance.

    ## Version history

    - v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, patient: int | str = 0, **arguments: Any) -> None:
        self._envs = TreatmentVectorEnv(1, patient=patient, **arguments)
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self._over = True

    @property
    def patient(self) -> str:
        """Id of the patient of this episode."""
        return self._envs.patients[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; options "state" and "patient" (or "patient_index") set who and how ill (see the class)."""
        given = None if seed is None else checked_seed(seed)
        observations, infos = self._envs.reset(seed=given, options=options)
        super().reset(seed=given)
        self._over = False
        return observations[0], self._info(infos)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Carry out one decision."""
        if self._over:
            raise ResetNeeded("the episode is over or has not begun; call reset() before step()")
        config = self._envs.process.config
        values = checked_actions(action, (config.action_dim,), config.definition.action_names)
        observations, rewards, terminated, _, infos = self._envs.step(values[None])
        self._over = bool(terminated[0])
        return observations[0], float(rewards[0]), self._over, False, self._info(infos)

    def _info(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        # NumPy's numbers, which have a type: collectors of other libraries make room for each by it.
        return {name: value[0] for name, value in columns.items() if not name.startswith("_")}
