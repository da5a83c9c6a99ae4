"""Whole episodes: their noise, their rollout, and their dense path.

Every episode has an integer seed of its own and draws all its noise from that seed, so that one episode can be
replayed alone: `TreatmentEnv.reset(seed=s)` and a row of a dataset with seed s are the same episode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import callers_defaults, own_defaults
from medgym_offline.diseases.base import FULL
from medgym_offline.envs.process import DecisionProcess, Episodes
from medgym_offline.envs.reward import Held, gather_rows, held_path, rectangles
from medgym_offline.envs.views import Lens
from medgym_offline.errors import MedGymError
from medgym_offline.seeds import derive_seed, generator

if TYPE_CHECKING:
    from medgym_offline.envs.timing import ProcessConfig
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["EpisodeNoise", "Rollout", "dense", "draw_noise", "episode_seeds", "observed", "rollout"]


_SAME = ("severity", "dt", "monitored", "terminated", "displacement", "costs_path", "costs_peak")
_RECORDED = {"rewards": "reward", "costs": "cost", "treatments": "treatment"} | {name: name for name in _SAME}
"""Field of a rollout -> that of an outcome."""
_STILL = ("observations", "states", "time", "severity", "monitored", "treatments", "terminated")
"""What stays as it is after the end of an episode; all else is 0."""


@dataclass(frozen=True)
class EpisodeNoise:
    """Standard normal noise of P x B episodes.

    Attributes:
        initial: Of the first state (P, B, D).
        process: Of the residual, per decision (P, B, K, D).
        action: Of the action, per decision (P, B, K, A).
        exogenous: Events and errors of measurement (P, B, F); None where the disease has none.
        view: Measurements before any is taken (P, B, slots, 4); None under the view "full".
    """

    initial: Tensor
    process: Tensor
    action: Tensor
    exogenous: Tensor | None = None
    view: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """P x B episodes of at most K decisions; after the end of an episode rows repeat its last state with dt = 0.

    Attributes:
        observations: (P, B, K+1, d); row k is what decision k saw, row k+1 what it led to.
        actions: As executed, after noise and clipping (P, B, K, A).
        intended: As the policy gave them, before noise and clipping (P, B, K, A).
        rewards, costs: Of each decision (P, B, K).
        dt: Interval of each decision (P, B, K).
        time: At which it ended (P, B, K).
        severity, monitored: At that time (P, B, K).
        terminated: Whether the episode has ended by then (P, B, K), bool.
        valid: Whether the decision took place (P, B, K), bool.
        states: Normalized (P, B, K+1, D).
        treatments: Held during each decision (P, B, K, treatments) in [0, 1].
        displacement: Of the residual noise by the end of each decision (P, B, K, D).
        exogenous: Of the episodes (P, B, F), or None.
        costs_path, costs_peak: (P, B, K, number of costs), or None if the process has no `path_costs`.
    """

    observations: Tensor
    actions: Tensor
    intended: Tensor
    rewards: Tensor
    costs: Tensor
    dt: Tensor
    time: Tensor
    severity: Tensor
    monitored: Tensor
    terminated: Tensor
    valid: Tensor
    states: Tensor
    treatments: Tensor
    displacement: Tensor
    exogenous: Tensor | None = None
    costs_path: Tensor | None = None
    costs_peak: Tensor | None = None

    def since(self, decision: int) -> Rollout:
        """The episodes without the decisions before number `decision`."""
        parts = {n: v[:, :, decision:] for n, v in vars(self).items() if v is not None and n != "exogenous"}
        return replace(self, **parts)


def episode_seeds(root: int, purpose: str, patients: Sequence[str], episodes: int) -> np.ndarray:
    """Seeds (P, B), int64, of `episodes` episodes per patient, from (root, purpose, patient id, episode number)."""
    rows = [[derive_seed(root, purpose, patient, b) for b in range(episodes)] for patient in patients]
    return np.array(rows, dtype=np.int64).reshape(len(patients), episodes)


def draw_noise(seeds: np.ndarray, bank: SimulatorBank, config: ProcessConfig) -> EpisodeNoise:
    """Noise of episodes from their seeds.

    An episode's numbers depend on its seed, its patient's context and the state's size only: a longer budget of
    decisions extends the sequence, and fixed timing uses the first action columns of what adaptive timing uses.

    Args:
        seeds: (P, B) non-negative integers.
        bank: The P patients.
        config: Budget and timing.
    """
    seeds, disease, decisions = np.asarray(seeds), bank.disease, config.decisions
    if seeds.ndim != 2 or seeds.dtype.kind not in "iu":
        raise MedGymError(
            f"seeds have shape {seeds.shape} and type {seeds.dtype}; expected integers (patients, episodes)"
        )
    # As many action columns whatever the timing, so that a seed means the same noise under both.
    state_dim, width = disease.state_dim, disease.state_dim + disease.action_dim("adaptive")
    lens = None if config.view == FULL else Lens(config)
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for row, known in zip(seeds.tolist(), bank.context.double().cpu().numpy()):
        for seed in row:
            source = np.random.default_rng(seed)
            parts["initial"].append(source.standard_normal(state_dim, dtype=np.float32))
            parts["block"].append(source.standard_normal((decisions, width), dtype=np.float32))
            if disease.exogenous is not None:
                # A stream of their own: what happens does not depend on the budget of decisions.
                own = generator(seed, "exogenous")
                parts["exogenous"].append(disease.exogenous.draw(own, known, config.horizon, 1)[0])
            if lens is not None:
                parts["view"].append(lens.draw(seed))
    drawn = {
        name: torch.from_numpy(np.array(rows, np.float32).reshape(*seeds.shape, *rows[0].shape))
        for name, rows in parts.items()
    }
    block = drawn.pop("block")
    action = block[..., state_dim : state_dim + config.action_dim].contiguous()
    return EpisodeNoise(process=block[..., :state_dim].contiguous(), action=action, **drawn)


@own_defaults()
@torch.no_grad()
def rollout(
    process: DecisionProcess, act: Callable[[Tensor], Tensor], noise: EpisodeNoise, action_noise: float = 0.0
) -> Rollout:
    """Roll a policy out to the end of every episode.

    Args:
        process: Decisions over a bank of P patients.
        act: Observations (P, B, d) to actions (P, B, A). If it, or the policy whose method it is, has `took`, that is
            called with the actions played, noise added and clipped.
        noise: Of the P x B episodes; its K is the process's.
        action_noise: Standard deviation of the noise added to actions (0.05 in the release's data);
            the sum is clipped to [-1, 1].

    Raises:
        MedGymError: Noise that does not fit the process; actions of the wrong shape or not finite.
    """
    decisions = process.config.decisions
    if noise.process.shape[2] != decisions:
        raise MedGymError(f"noise is for {noise.process.shape[2]} decisions; the process has {decisions}")
    events, view = (None if n is None else n.to(process.bank.lower) for n in (noise.exogenous, noise.view))
    episodes = process.start(noise.initial.shape[1], noise.initial, events, view)
    observation = process.observe(episodes)
    rows: dict[str, list[Tensor]] = defaultdict(list)
    rows["observations"].append(observation)
    rows["states"].append(episodes.x)
    took = getattr(getattr(act, "__self__", act), "took", None)
    for k in range(decisions):
        valid = process.active(episodes)
        if not bool(valid.any()):
            break
        with callers_defaults():
            intended = actions = act(observation).to(observation.dtype)
        if action_noise:
            actions = intended + action_noise * noise.action[:, :, k].to(actions)
        actions = actions.clamp(-1.0, 1.0)
        if took is not None:
            took(actions)
        outcome = process.step(episodes, actions, noise.process[:, :, k])
        episodes = outcome.next
        observation = process.observe(episodes)
        now = {name: getattr(outcome, of) for name, of in _RECORDED.items() if getattr(outcome, of) is not None}
        now |= {"actions": actions * valid[..., None], "intended": intended * valid[..., None], "valid": valid}
        now |= {"observations": observation, "states": episodes.x, "time": episodes.time}
        if k:
            # What held at the end of an episode keeps holding in the rows after it, whatever the policy says there.
            now["severity"] = torch.where(valid, now["severity"], rows["severity"][-1])
            now["treatments"] = torch.where(valid[..., None], now["treatments"], rows["treatments"][-1])
        for name, value in now.items():
            rows[name].append(value)
    missing = decisions - len(rows["valid"])
    for name, values in rows.items():
        values += [values[-1] if name in _STILL else torch.zeros_like(values[-1])] * missing
    return Rollout(**{name: torch.stack(values, 2) for name, values in rows.items()}, exogenous=events)


def observed(process: DecisionProcess, rolled: Rollout) -> Tensor:
    """Observations (P, B, K+1, d) of rolled-out episodes under the view "full", whatever they were rolled out under.

    Args:
        process: Of the same clock, with that view.
        rolled: P x B episodes.
    """
    zero = torch.zeros_like(rolled.time[..., :1])
    time = torch.cat([zero, rolled.time], -1)
    left = process.config.decisions - torch.cat([zero, rolled.valid.cumsum(-1).to(zero)], -1)
    episodes = (
        Episodes(rolled.states[:, :, k], time[..., k], left[..., k], zero[..., 0], rolled.exogenous)
        for k in range(time.shape[-1])
    )
    return torch.stack([process.observe(one) for one in episodes], 2)


@own_defaults()
@torch.no_grad()
def dense(process: DecisionProcess, episodes: Rollout, times: Tensor) -> tuple[Tensor, Tensor]:
    """States and treatments of rolled-out episodes on a grid of times.

    The value at t is the state at t, on the path that the reward saw; at the end of a decision it is the
    state that the next decision starts from.

    Args:
        process: The process that made the episodes.
        episodes: From :func:`rollout`.
        times: Increasing (T,), in [0, horizon].

    Returns:
        States (P, B, T, D), normalized, and treatments in force (P, B, T, treatments): at the end of a decision its
        own, at time 0 the first. Beyond the end of an episode (remission) both keep their last value.
    """
    times, horizon = times.to(episodes.time), process.config.horizon
    inside = times.ndim == 1 and len(times) > 0 and bool(times[0] >= 0) and bool(times[-1] <= horizon)
    if not inside or not bool((times.diff() > 0).all()):
        raise MedGymError(f"times must be a list of numbers that increase within [0, {horizon:g}]")
    patients, batch, decisions = episodes.time.shape

    def flat(part: Tensor) -> Tensor:
        return part.reshape(patients, batch * decisions, *part.shape[3:])

    ends, dt, reached = flat(episodes.time), flat(episodes.dt), flat(episodes.states[:, :, 1:])
    starts = ends - dt
    # Grid points in (start, end]; time 0 is the first state, and comes for free.
    first = torch.searchsorted(times, starts.contiguous(), right=True)
    counts = torch.searchsorted(times, ends.contiguous(), right=True) - first
    x, u, events = flat(episodes.states[:, :, :-1]), flat(episodes.treatments), episodes.exogenous
    if events is not None:
        events = flat(events[:, :, None].expand(-1, -1, decisions, -1))
    intervals = Held(x, u, dt, flat(episodes.displacement), starts, events)
    # One column more than there are times: padding of the rectangles lands there.
    total = len(times)
    states = x.new_empty(patients, batch, total + 1, x.shape[-1])
    treatments = u.new_empty(patients, batch, total + 1, u.shape[-1])
    patient = torch.arange(patients, device=x.device)[:, None, None]
    for chosen, width in rectangles(counts, process.bank.padding):
        begin, n = gather_rows(first, chosen)[..., None], gather_rows(counts, chosen)[..., None]
        step = torch.arange(width, device=x.device)
        at = begin + torch.minimum(step, (n - 1).clamp_min(0))
        some = intervals.rows(chosen)
        since = (times[at.clamp_max(total - 1)] - gather_rows(starts, chosen)[..., None]).clamp_min(0.0)
        since = torch.minimum(since, some.dt[..., None])
        path = held_path(process.bank, some, since, between=True)
        # At its end an interval is where the episode went, to the bit: interpolation would differ by rounding.
        at_end = (since == some.dt[..., None])[..., None]
        path = torch.where(at_end, gather_rows(reached, chosen)[..., None, :], path)
        column = torch.where(step < n, at, total)
        episode = (chosen // decisions)[..., None].expand_as(column)
        states[patient, episode, column] = path
        treatments[patient, episode, column] = some.u[..., None, :].expand(*column.shape, -1)
    states, treatments = states[:, :, :total], treatments[:, :, :total]
    if times[0] == 0:
        states[:, :, 0] = episodes.states[:, :, 0]
        treatments[:, :, 0] = episodes.treatments[:, :, 0]
    beyond = (times > episodes.time[:, :, -1:])[..., None]
    if not bool(beyond.any()):
        return states, treatments
    states = torch.where(beyond, episodes.states[:, :, -1:], states)
    return states, torch.where(beyond, episodes.treatments[:, :, -1:], treatments)
