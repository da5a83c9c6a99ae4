"""The units of work of behaviour training, as functions that an engine runs: in, a job; out, tensors and numbers.

A job is one policy for all patients (scopes pop, dr), or the policies of one block of patients (ind, ind-scratch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medgym_offline.engine import report
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.early import Gap, Passing, nearest_to_share
from medgym_offline.online.state import TrainState
from medgym_offline.online.train import train
from medgym_offline.online.watching import Patience, Snapshots, live_numbers, snapshot_updates

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["EarlyJob", "TrainJob", "early", "joined_state", "train_block"]


@dataclass(frozen=True)
class TrainJob:
    """Training of one stack.

    Args:
        bank: Simulators of the block's patients (or the population simulator).
        process, config, initial: As :func:`medgym_offline.online.train.train`.
        checkpoint: File to resume from, or None.
        patience: Early stop after so many updates without a better return; 0: never.
        device: Torch device.
    """

    bank: SimulatorBank
    process: ProcessConfig
    config: TrainConfig
    initial: StackedActor | None = None
    checkpoint: str | None = None
    patience: int = 0
    device: str = "cpu"


def train_block(job: TrainJob) -> dict[str, Any]:
    """Train; returns the state's tensors (but a replay buffer's), the update reached, snapshots and early stops."""

    def beside(suffix: str) -> Path | None:
        return None if job.checkpoint is None else Path(f"{job.checkpoint}.{suffix}")

    way = Snapshots(snapshot_updates(job.config.updates), beside("way")) if job.config.shared else None
    patience = Patience(job.patience, beside("patience")) if job.patience else None

    def watch(state: TrainState) -> bool:
        _report(state, job.config.updates)
        if way is not None:
            way(state)
        return patience is not None and patience(state)

    result = train(
        job.bank.to(job.device),
        job.process,
        job.config,
        job.initial,
        checkpoint=job.checkpoint,
        progress=False,
        watch=watch,
    )
    state = result.state.without_replay().to("cpu")
    if patience is not None:
        state.actor = patience.apply(state.actor)
    at = None if patience is None else patience.at()
    return {
        "update": state.update,
        "tensors": state.tensors(),
        "way": {} if way is None else {str(update): theta for update, theta in way.found().items()},
        "early": [] if at is None else at.tolist(),
    }


def _report(state: TrainState, updates: int) -> None:
    report(state.update / updates, **live_numbers({name: values[-1] for name, values in state.log.items()}))


@dataclass(frozen=True)
class EarlyJob:
    """Early-stopped policies of a block of patients (their `train` from scratch) or of all (the `way` of a shared one).

    Args:
        bank: Simulators that random, expert and the candidates are scored on.
        process: Decision process.
        expert: Fully trained policy.
        seed, episodes: Of the scoring.
        shares: Wanted shares of the gap.
        train: For a policy per patient: the training that passes them.
        way: For a shared policy: update -> parameters `(1, n)`.
        world: In which returns are measured.
        device: Torch device.
    """

    bank: SimulatorBank
    process: ProcessConfig
    expert: StackedActor
    seed: int
    episodes: int
    shares: tuple[float, ...]
    train: TrainConfig | None = None
    way: Mapping[str, Tensor] | None = None
    world: str = "own"
    device: str = "cpu"


def early(job: EarlyJob) -> dict[str, Any]:
    """Early-stopped policies, a list entry for each of `shares`.

    Returns `theta` (each `(P, n)`), `share` reached and `update` (each `(P,)`, or one number when shared), and the
    returns `random` and `expert` `(P,)`. A policy per patient is trained from scratch until all have passed the share.
    """
    bank = job.bank.to(job.device)
    gap = Gap.measure(bank.world(job.world), job.process, job.expert, job.seed, job.episodes)
    ends = {"random": gap.random, "expert": gap.expert}
    if job.train is None:
        assert job.way is not None
        way = {int(update): job.way[update] for update in sorted(job.way, key=int)}
        update, theta, share = zip(*nearest_to_share(gap, way, list(job.shares)))
        return {"theta": list(theta), "share": list(share), "update": list(update), **ends}
    passing, updates = [Passing(gap, share) for share in job.shares], job.train.updates

    def watch(state: TrainState) -> bool:
        _report(state, updates)
        stops = [one(state) for one in passing]  # every one looks at the state, so no lazy `all`
        return all(stops)

    train(bank, job.process, job.train, progress=False, watch=watch)
    return {
        "theta": [one.theta for one in passing],
        "share": [one.share for one in passing],
        "update": [one.update for one in passing],
        **ends,
    }


def joined_state(parts: Sequence[Mapping[str, Any]]) -> TrainState:
    """The state of a whole stack from those of its blocks; logs of unequal length are padded with NaN."""
    longest = max(int(part["update"]) for part in parts)
    tensors = {}
    for name in parts[0]["tensors"]:
        values = [part["tensors"][name] for part in parts]
        if name.startswith("log."):
            values = [
                torch.cat([v, v.new_full((longest - v.shape[0], v.shape[1]), torch.nan)]) if v.shape[0] < longest else v
                for v in values
            ]
        tensors[name] = torch.cat(values, 1 if name.startswith("log.") else 0)
    return TrainState.from_tensors(longest, tensors)
