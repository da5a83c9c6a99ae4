"""Whole episodes: their noise, their rollout, and their dense path.

Every episode has an integer seed of its own and draws all its noise from that seed, so that one episode can be
replayed alone: `SepsisEnv.reset(seed=s)` and a row of a dataset with seed s are the same episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import callers_defaults, own_defaults
from medgym_offline.envs.paths import gather_rows, hold_path, rectangles
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.errors import MedGymError
from medgym_offline.seeds import derive_seed

__all__ = ["EpisodeNoise", "Rollout", "dense", "draw_noise", "episode_seeds", "rollout"]

# Drawn per decision whatever the timing, so that the same seed means the same noise under fixed and adaptive timing.
_ACTION_DRAWS = 4


@dataclass(frozen=True)
class EpisodeNoise:
    """Standard normal noise of P x B episodes.

    Attributes:
        initial: Of the first state (P, B, D).
        process: Of the residual, per decision (P, B, K, D).
        action: Of the action, per decision (P, B, K, A).
    """

    initial: Tensor
    process: Tensor
    action: Tensor


@dataclass(frozen=True)
class Rollout:
    """P x B episodes of at most K decisions; after the end of an episode rows repeat its last state with dt = 0.

    Attributes:
        observations: (P, B, K+1, 9); row k is what decision k saw, row k+1 what it led to.
        actions: As executed, after noise and clipping (P, B, K, A).
        rewards, costs: Of each decision (P, B, K).
        dt: Hours of each decision (P, B, K).
        time: Hour at which it ended (P, B, K).
        sofa, lactate: At that hour (P, B, K).
        terminated: Whether the episode has ended by then (P, B, K), bool.
        valid: Whether the decision took place (P, B, K), bool.
        states: Normalised (P, B, K+1, D).
        treatments: Held during each decision (P, B, K, 3) in [0, 1].
        displacement: Of the residual noise by the end of each decision (P, B, K, D).
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor
    dt: Tensor
    time: Tensor
    sofa: Tensor
    lactate: Tensor
    terminated: Tensor
    valid: Tensor
    states: Tensor
    treatments: Tensor
    displacement: Tensor


def episode_seeds(root: int, purpose: str, patients: Sequence[str], episodes: int) -> np.ndarray:
    """Seeds (P, B), int64, of `episodes` episodes per patient, from (root, purpose, patient id, episode number)."""
    rows = [[derive_seed(root, purpose, patient, b) for b in range(episodes)] for patient in patients]
    return np.array(rows, dtype=np.int64).reshape(len(patients), episodes)


def draw_noise(seeds: np.ndarray, decisions: int, state_dim: int, action_dim: int) -> EpisodeNoise:
    """Noise of episodes from their seeds.

    An episode's numbers depend on its seed and the state's size only: a longer budget of decisions extends the
    sequence, and fixed timing uses the first action columns of what adaptive timing uses.

    Args:
        seeds: (P, B) non-negative integers.
        decisions: K.
        state_dim: D.
        action_dim: A, 3 or 4.
    """
    seeds = np.asarray(seeds)
    if seeds.ndim != 2 or seeds.dtype.kind not in "iu":
        raise MedGymError(
            f"seeds have shape {seeds.shape} and type {seeds.dtype}; expected integers (patients, episodes)"
        )
    width = state_dim + _ACTION_DRAWS
    initial = np.empty((*seeds.shape, state_dim), np.float32)
    block = np.empty((*seeds.shape, decisions, width), np.float32)
    for index in np.ndindex(*seeds.shape):
        source = np.random.default_rng(int(seeds[index]))
        initial[index] = source.standard_normal(state_dim, dtype=np.float32)
        block[index] = source.standard_normal((decisions, width), dtype=np.float32)
    process, action = np.split(block, [state_dim], axis=-1)
    return EpisodeNoise(
        torch.from_numpy(initial),
        torch.from_numpy(np.ascontiguousarray(process)),
        torch.from_numpy(np.ascontiguousarray(action[..., :action_dim])),
    )


@own_defaults()
@torch.no_grad()
def rollout(
    process: DecisionProcess, act: Callable[[Tensor], Tensor], noise: EpisodeNoise, action_noise: float = 0.0
) -> Rollout:
    """Roll a policy out to the end of every episode.

    Args:
        process: Decisions over a bank of P patients.
        act: Observations (P, B, 9) to actions (P, B, A).
        noise: Of the P x B episodes; its K is the process's.
        action_noise: Standard deviation of the noise added to actions (0.05 in the release's data);
            the sum is clipped to [-1, 1].

    Raises:
        MedGymError: Noise that does not fit the process; actions of the wrong shape or not finite.
    """
    decisions = process.config.decisions
    if noise.process.shape[2] != decisions:
        raise MedGymError(f"noise is for {noise.process.shape[2]} decisions; the process has {decisions}")
    episodes = process.start(noise.initial.shape[1], noise.initial)
    observation = process.observe(episodes)
    rows: dict[str, list[Tensor]] = {name: [] for name in Rollout.__dataclass_fields__}
    rows["observations"].append(observation)
    rows["states"].append(episodes.x)
    record: dict[str, Tensor] = {}
    for k in range(decisions):
        valid = process.active(episodes)
        if bool(valid.any()):
            with callers_defaults():
                actions = act(observation).to(observation.dtype)
            if action_noise:
                actions = actions + action_noise * noise.action[:, :, k].to(actions)
            actions = actions.clamp(-1.0, 1.0)
            outcome = process.step(episodes, actions, noise.process[:, :, k])
            episodes = outcome.next
            observation = process.observe(episodes)
            now = {
                "actions": actions * valid[..., None],
                "sofa": outcome.sofa,
                "treatments": outcome.treatment,
                "rewards": outcome.reward,
                "costs": outcome.cost,
                "dt": outcome.dt,
                "lactate": outcome.lactate,
                "terminated": outcome.terminated,
                "displacement": outcome.displacement,
            }
            # What held at the end of an episode keeps holding in the rows after it, whatever the policy says there.
            for name in ("sofa", "treatments"):
                if record:
                    mask = valid if name == "sofa" else valid[..., None]
                    now[name] = torch.where(mask, now[name], record[name])
            record = now
        else:
            record = record | {
                n: torch.zeros_like(record[n]) for n in ("actions", "rewards", "costs", "dt", "displacement")
            }
        reached = {"observations": observation, "valid": valid, "states": episodes.x, "time": episodes.time}
        for name, value in (record | reached).items():
            rows[name].append(value)
    return Rollout(**{name: torch.stack(values, 2) for name, values in rows.items()})


@own_defaults()
@torch.no_grad()
def dense(process: DecisionProcess, episodes: Rollout, hours: Tensor) -> tuple[Tensor, Tensor]:
    """States and treatments of rolled-out episodes on a grid of hours, from the solution map.

    The value at hour t is the state at hour t, on the path that the reward saw; at the end of a decision it is the
    state that the next decision starts from.

    Args:
        process: The process that made the episodes.
        episodes: From :func:`rollout`.
        hours: Increasing hours (T,) in [0, horizon].

    Returns:
        States (P, B, T, D), normalised, and treatments in force (P, B, T, 3): at the end of a decision its own, at
        hour 0 the first. Beyond the end of an episode (remission) both keep their last value.
    """
    hours = hours.to(episodes.time)
    horizon = process.config.horizon
    if hours.ndim != 1 or len(hours) == 0 or not bool(((hours >= 0) & (hours <= horizon)).all()):
        raise MedGymError(f"hours must be a non-empty list within [0, {horizon:g}]")
    if not bool((hours.diff() > 0).all()):
        raise MedGymError("hours must increase")
    patients, batch, decisions = episodes.time.shape
    rows = patients, batch * decisions
    ends = episodes.time.reshape(rows)
    starts = ends - episodes.dt.reshape(rows)
    # Grid points in (start, end]; hour 0 is the first state, and comes for free.
    first = torch.searchsorted(hours, starts.contiguous(), right=True)
    counts = torch.searchsorted(hours, ends.contiguous(), right=True) - first
    x = episodes.states[:, :, :-1].reshape(*rows, -1)
    u = episodes.treatments.reshape(*rows, -1)
    reached = episodes.states[:, :, 1:].reshape(*rows, -1)
    displacement = episodes.displacement.reshape(*rows, -1)
    dt = episodes.dt.reshape(rows)
    # One column more than there are hours: padding of the rectangles lands there.
    total = len(hours)
    states = x.new_empty(patients, batch, total + 1, x.shape[-1])
    treatments = u.new_empty(patients, batch, total + 1, u.shape[-1])
    beyond = hours > episodes.time[:, :, -1:]
    patient = torch.arange(patients, device=x.device)[:, None, None]
    for chosen, width in rectangles(counts, process.bank.backend):
        begin, n = gather_rows(first, chosen)[..., None], gather_rows(counts, chosen)[..., None]
        step = torch.arange(width, device=x.device)
        at = begin + torch.minimum(step, (n - 1).clamp_min(0))
        hold = gather_rows(dt, chosen)
        since = (hours[at.clamp_max(total - 1)] - gather_rows(starts, chosen)[..., None]).clamp_min(0.0)
        since = torch.minimum(since, hold[..., None])
        held = gather_rows(u, chosen)
        start, push = gather_rows(x, chosen), gather_rows(displacement, chosen)
        path = hold_path(process.bank, start, held, hold, push, since, between=True)
        # At its end a hold is where the episode went, to the bit: interpolation would differ by rounding.
        at_end = (since == hold[..., None])[..., None]
        path = torch.where(at_end, gather_rows(reached, chosen)[..., None, :], path)
        column = torch.where(step < n, at, total)
        episode = (chosen // decisions)[..., None].expand_as(column)
        states[patient, episode, column] = path
        treatments[patient, episode, column] = held[..., None, :].expand(*column.shape, -1)
    states, treatments = states[:, :, :total], treatments[:, :, :total]
    if hours[0] == 0:
        states[:, :, 0] = episodes.states[:, :, 0]
        treatments[:, :, 0] = episodes.treatments[:, :, 0]
    if not bool(beyond.any()):
        return states, treatments
    states = torch.where(beyond[..., None], episodes.states[:, :, -1:], states)
    last = episodes.valid.sum(-1).clamp_min(1) - 1
    final = torch.gather(episodes.treatments, 2, last[..., None, None].expand(-1, -1, 1, u.shape[-1]))
    return states, torch.where(beyond[..., None], final, treatments)
