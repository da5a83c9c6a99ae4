"""The decision process: P patients, B episodes each, one batched step.

    state x, time s, decisions left k   --- action --->   treatment u held for dt hours   --->   x', s + dt, k - 1

Everything is a stack over patients: tensors are (P, B, ...), the simulator is a bank of P patients, and no number of
one episode depends on another. Noise comes in from outside (see :mod:`medgym_offline.envs.rollout`), one standard
normal vector per decision, so the process itself draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import FULL, Sight, default_observation
from medgym_offline.envs.reward import Held, authors_reward, integrate, severity
from medgym_offline.envs.timing import ProcessConfig, action_to_interval, decision_interval, on_tick
from medgym_offline.envs.views import Lens
from medgym_offline.errors import DiseaseError, MedGymError

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["DecisionProcess", "Episodes", "Outcome", "ProcessConfig"]


@dataclass(frozen=True)
class Episodes:
    """Where P x B episodes stand.

    Attributes:
        x: State (P, B, D), normalized.
        time: Since the start (P, B).
        left: Decisions left (P, B), whole numbers as floats.
        calm: For how long severity has been below the remission threshold (P, B); 0 where remission is off.
        exogenous: The episodes' events and errors of measurement (P, B, F); None where the disease has none.
        view: Measurements (P, B, slots, 4), see :mod:`medgym_offline.envs.views`; None under the view "full".
    """

    x: Tensor
    time: Tensor
    left: Tensor
    calm: Tensor
    exogenous: Tensor | None = None
    view: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What one decision of P x B episodes led to. Episodes that had ended before are inert: dt, reward and cost 0.

    Attributes:
        next: Where the episodes stand now.
        treatment: Treatment held (P, B, treatments) in [0, 1].
        dt: For how long (P, B).
        reward: Reward of the decision (P, B).
        cost: Safety cost of the decision (P, B).
        severity: At the end, under the treatment held (P, B).
        monitored: Component that safety watches at the end (P, B), in its unit.
        terminated: The horizon (or remission) has been reached (P, B), bool.
        displacement: What the residual noise added to the state by the end (P, B, D), normalized.
        costs_path, costs_peak: Integral and largest rate of each cost along the path (P, B, number of costs), if the
            process has `path_costs`.
    """

    next: Episodes
    treatment: Tensor
    dt: Tensor
    reward: Tensor
    cost: Tensor
    severity: Tensor
    monitored: Tensor
    terminated: Tensor
    displacement: Tensor
    costs_path: Tensor | None = None
    costs_peak: Tensor | None = None


class DecisionProcess:
    """Decisions over a bank of simulators.

    Args:
        bank: Simulators of P patients.
        config: Timing, budget, reward and noise; the defaults of the bank's disease if not given.
        takeover: A time at which a decision falls; until then intervals are equal parts of the horizon. 0: none.

    Raises:
        DiseaseError: The process is of another disease than the bank.
    """

    def __init__(self, bank: SimulatorBank, config: ProcessConfig | None = None, takeover: float = 0.0) -> None:
        self.bank, self.takeover = bank, takeover
        self.config = config or ProcessConfig(disease=bank.disease.name)
        if self.config.disease != bank.disease.name:
            whose = f"the process is of disease {self.config.disease!r}, bank {bank.name!r} of {bank.disease.name!r}"
            raise DiseaseError(f"{whose}; give ProcessConfig(disease={bank.disease.name!r})")
        self.lens = None if self.config.view == FULL else Lens(self.config)

    @own_defaults()
    def start(
        self, episodes: int, noise: Tensor | None = None, exogenous: Tensor | None = None, view: Tensor | None = None
    ) -> Episodes:
        """First states of `episodes` episodes per patient: x0 + N(0, initial_noise^2) on the observed components.

        Args:
            episodes: B.
            noise: Standard normal (P, B, D); None, or a process without noise, starts at x0 itself.
            exogenous: Events of the episodes (P, B, F).
            view: Their measurements, from :func:`~medgym_offline.envs.rollout.draw_noise`.

        Returns:
            Episodes at time 0; components that are not observed are the simulator's own.
        """
        first = self.bank.initial_state()
        x = first[:, None, :].expand(-1, episodes, -1).clone()
        if noise is not None and self.config.noise:
            self._expect(noise, tuple(x.shape), "noise")
            n = len(self.bank.disease.variables)
            x[..., :n] += self.config.initial_noise * noise[..., :n].to(x)
            x = self.bank.clamp(x)
        zero = x.new_zeros(x.shape[:2])
        return Episodes(x, zero, torch.full_like(zero, self.config.decisions), zero, exogenous, view)

    def observe(self, episodes: Episodes) -> Tensor:
        """Observations (P, B, d), of the precision of the bank; the columns are `bank.disease.seen(config.view)`."""
        bank = self.bank
        clock = episodes.time, episodes.left, self.config.horizon, self.config.decisions
        sight = Sight(episodes.x, *clock, episodes.exogenous, bank.context, bank.disease, bank.scales)
        if self.lens is None:
            return (bank.disease.observe or default_observation)(sight)
        return self.lens.observe(sight, self._read(self.lens, episodes))

    def _read(self, lens: Lens, episodes: Episodes) -> Tensor:
        """The episodes' measurements with those of this moment."""
        if episodes.view is None:
            raise MedGymError(f"view {self.config.view!r} needs the episodes' measurements; take those of draw_noise")
        return lens.read(self.bank, episodes.view, episodes.x, episodes.time, episodes.left)

    def active(self, episodes: Episodes) -> Tensor:
        """Which episodes go on (P, B), bool."""
        running = episodes.time < self.config.horizon
        if self.config.remission:
            running = running & (episodes.calm < self.config.remission_time)
        return running

    @own_defaults()
    def decode(self, episodes: Episodes, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Treatment (P, B, treatments) in [0, 1] and interval (P, B) that actions (P, B, A) lead to.

        Finite actions outside [-1, 1] are clipped.

        Raises:
            MedGymError: Actions of the wrong shape, or not finite.
        """
        self._expect(actions, (*episodes.time.shape, self.config.action_dim), "actions")
        if not bool(torch.isfinite(actions).all()):
            p, b, a = torch.nonzero(~torch.isfinite(actions))[0].tolist()
            where = f"component {a} of patient {self.bank.patients[p]}, episode {b}, is {float(actions[p, b, a])}"
            raise MedGymError(f"action {where}; actions must be finite, in [-1, 1]")
        bounded = actions.to(episodes.x).clamp(-1.0, 1.0)
        count = len(self.bank.disease.treatments)
        wish = action_to_interval(bounded[..., count], self.config) if self.config.timing == "adaptive" else None
        dt = decision_interval(episodes.time, episodes.left, self.config, wish, self.takeover)
        return (bounded[..., :count] + 1.0) / 2.0, torch.where(self.active(episodes), dt, torch.zeros_like(dt))

    @own_defaults()
    def step(self, episodes: Episodes, actions: Tensor, noise: Tensor | None = None) -> Outcome:
        """Carry out one decision in every episode that goes on.

        Args:
            episodes: Where they stand.
            actions: (P, B, A) in [-1, 1]; clipped.
            noise: Standard normal (P, B, D) of this decision's residual; None, or a process without noise: none.

        Raises:
            MedGymError: Actions or noise of the wrong shape, actions that are not finite.
        """
        config, bank, disease = self.config, self.bank, self.bank.disease
        u, dt = self.decode(episodes, actions)
        x = episodes.x
        running = dt > 0
        if noise is not None and config.noise:
            self._expect(noise, tuple(x.shape), "noise")
            # W ~ N(0, sigma^2 dt): variance linear in time.
            displacement = bank.noise_scale[:, None, :] * dt.sqrt()[..., None] * noise.to(x)
        else:
            displacement = torch.zeros_like(x)
        held = Held(x, u, dt, displacement, episodes.time, episodes.exogenous)
        burden, calm, along = disease.severity.burden(u), episodes.calm, None
        if config.reward in ("integral", "state") or config.remission or config.path_costs:
            threshold = config.remission_severity if config.remission else None
            along = integrate(bank, held, config.cell, threshold, config.path_costs, config.reward != "state")
            end = along.end
            if config.remission:
                calm = torch.where(running, torch.minimum(along.calm, calm + dt), calm)
        else:
            end = bank.clamp(bank.flow(x, u, dt, episodes.time, episodes.exogenous) + displacement)
        end = torch.where(running[..., None], end, x)
        before, after, dose = bank.denormalize(x), bank.denormalize(end), bank.denormalize_treatment(u)
        reached = disease.severity.score(after, dose)
        if config.reward == "paper":
            reward = -reached - burden
        elif config.reward == "authors":
            reward = authors_reward(disease.severity.score(before, dose), reached, burden, dt)
        else:
            assert along is not None
            reward = -0.1 * (along.severity + (burden * dt if config.reward == "integral" else 0.0))
        monitored = after[..., disease.monitored]
        cost = disease.cost.at_end(before[..., disease.monitored], monitored)
        zero = torch.zeros_like(dt)
        time, left = episodes.time + dt, torch.where(running, episodes.left - 1.0, episodes.left)
        if disease.process.tick is not None:
            time = on_tick(time, config)  # sums of ticks that are no binary fractions
        following = replace(episodes, x=end, time=time, left=left, calm=calm)
        if self.lens is not None:
            following = replace(following, view=self.lens.follow(bank, self._read(self.lens, episodes), held))
        return Outcome(
            next=following,
            treatment=u,
            dt=dt,
            reward=torch.where(running, reward, zero),
            cost=torch.where(running, cost, zero),
            severity=reached,
            monitored=monitored,
            terminated=~self.active(following),
            displacement=displacement,
            costs_path=None if along is None else along.costs,
            costs_peak=None if along is None else along.peaks,
        )

    def severity(self, x: Tensor, u: Tensor) -> Tensor:
        """Severity of normalized states (..., D) under normalized treatments (..., treatments): (...)."""
        return severity(self.bank, x, u)

    @staticmethod
    def _expect(value: Tensor, shape: tuple[int, ...], name: str) -> None:
        if tuple(value.shape) != shape:
            raise MedGymError(f"{name} have shape {tuple(value.shape)}; expected {shape} (patients, episodes, ...)")
