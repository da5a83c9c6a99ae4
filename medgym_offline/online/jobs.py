"""The jobs of a run of behavior training: where they run, functions that an engine runs, joining what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medgym_offline.compute import check_device
from medgym_offline.engine import check_engine, report
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.online.config import (
    BehaviorRecipe,
    TrainConfig,
)
from medgym_offline.online.learner import TrainState
from medgym_offline.online.train import live_numbers, train
from medgym_offline.online.watching import Gap, Passing, keep_patient, keep_way, nearest_to_share, way_of

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["EngineOptions", "early", "joined_state", "train_block"]


@dataclass(frozen=True)
class EngineOptions:
    """Where training runs: see :func:`medgym_offline.engine.run`; `device` other than the CPU needs engine "local".

    Raises:
        MedGymError: As `check_engine` and `check_device`, and for a GPU shared by several processes.
    """

    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_engine(self.engine, self.workers, self.address)
        if check_device(self.device) != "cpu" and self.engine != "local":
            raise MedGymError(f"device {self.device!r} needs engine 'local': one process uses the whole GPU")


def train_block(
    bank: SimulatorBank,
    process: ProcessConfig,
    config: TrainConfig,
    initial: StackedActor | None,
    checkpoint: str | None,
    patience: int,
    device: str,
    embeddings: Tensor | None = None,
) -> dict[str, Any]:
    """Train one policy for all patients of a bank (or a cluster's), or the policies of one block of patients.

    Args:
        bank: Simulators of the block's patients (or the population simulator).
        process, config, initial, checkpoint: As :func:`medgym_offline.online.train.train`.
        patience: Early stop after so many updates without a better return; 0: never.
        device: Torch device.
        embeddings: As of :func:`medgym_offline.online.train.train`.

    Returns:
        The update reached and the state's tensors (but a replay buffer's).
    """

    def watch(state: TrainState) -> bool:
        report(state.update / config.updates, **live_numbers(state.log))
        if config.shared:
            keep_way(state, config.updates)
        return patience > 0 and keep_patient(state, patience)

    bank = bank.to(device)
    trained = train(
        bank, process, config, initial, checkpoint=checkpoint, progress=False, watch=watch, embeddings=embeddings
    )
    state = trained.state.without_replay().to("cpu")
    if patience:
        stopped = state.kept["stopped_at"] >= 0
        state.actor = torch.where(stopped.unsqueeze(1), state.kept["stopped_actor"], state.actor)
    return {"update": state.update, "tensors": state.tensors()}


def early(
    bank: SimulatorBank,
    process: ProcessConfig,
    expert: StackedActor,
    recipe: BehaviorRecipe,
    source: str,
    shares: Sequence[float],
    way: dict[str, Tensor] | None,
    device: str,
) -> dict[str, Any]:
    """Early-stopped policies of a block of patients, or of all.

    Args:
        bank: Simulators that random, expert and the candidates are scored on.
        process: Decision process.
        expert: Fully trained policy.
        recipe: Seed and episodes of the scoring; training of a policy per patient.
        source: Scope whose training they are taken from; of a policy per patient it is done here, from scratch, until
            all have passed the shares.
        shares: Wanted shares of the gap.
        way: What the state of a shared policy has kept.
        device: Torch device.

    Returns:
        Lists with an entry for each of `shares`: `theta` `(P, n)`, `share` reached and `update`, `(P,)` or one number
        when shared; and the returns `random` and `expert` `(P,)`.
    """
    bank = bank.to(device)
    place = bank.world(recipe.early_world or bank.current_world)
    gap = Gap.measure(place, process, expert, recipe.seed, recipe.early_episodes)
    if way is not None:
        found = nearest_to_share(gap, way_of(way), shares)
    else:
        passing = [Passing(gap, share) for share in shares]

        def watch(state: TrainState) -> bool:
            report(state.update / recipe.early_updates, **live_numbers(state.log))
            stops = [one(state) for one in passing]  # every one looks at the state, so no lazy `all`
            return all(stops)

        train(bank, process, replace(recipe.config(source), updates=recipe.early_updates), progress=False, watch=watch)
        found = [(one.update, one.theta, one.share) for one in passing]  # type: ignore[misc]
    update, theta, share = (list(values) for values in zip(*found))
    return {"theta": theta, "share": share, "update": update, "random": gap.random, "expert": gap.expert}


def joined_state(parts: Sequence[Mapping[str, Any]]) -> TrainState:
    """The state of a whole stack from those of its blocks; logs of unequal length are padded with NaN."""
    longest, tensors = max(part["update"] for part in parts), {}
    for name in parts[0]["tensors"]:
        values, log = [part["tensors"][name] for part in parts], name.startswith("log.")
        if log:
            values = [torch.cat([v, v.new_full((longest - len(v), v.shape[1]), torch.nan)]) for v in values]
        tensors[name] = torch.cat(values, 1 if log else 0)
    return TrainState.from_tensors(longest, tensors)
