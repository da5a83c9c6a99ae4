"""Training of a bank's behaviour policies over an engine, in three stages.

    1  dr, pop           one job each and timing
    2  ind, ind-scratch  a job per block of patients; ind starts from dr
    3  early             ind-medium, pop-medium, dr-replay: needs the experts

Jobs of one stage run side by side. Their results are files in the run's folder, so a killed run goes on from there,
and inside a job from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.devices import check_device
from medgym_offline.engine import blocks, check_engine, run
from medgym_offline.errors import MedGymError
from medgym_offline.files import code_version
from medgym_offline.online.actors import stacked_actor
from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.recipe import EARLY, BehaviorRecipe
from medgym_offline.online.shards import EarlyJob, TrainJob, early, joined_state, train_block
from medgym_offline.online.state import TrainState
from medgym_offline.online.train import TrainResult

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["BehaviorRun", "EngineOptions", "fingerprint"]

Name = tuple[str, str]
"""(scope or early policy, timing)."""
SHARED = ("dr", "pop")


@dataclass(frozen=True)
class EngineOptions:
    """Where training runs: see :func:`medgym_offline.engine.run`; `device` other than the CPU needs engine "local"."""

    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raise for a wrong choice before any work is done.

        Raises:
            MedGymError: As `check_engine` and `check_device`, and for a GPU shared by several processes.
        """
        check_engine(self.engine, self.workers, self.address)
        if check_device(self.device) != "cpu" and self.engine != "local":
            raise MedGymError(f"device {self.device!r} needs engine 'local': one process uses the whole GPU")


def fingerprint(actor: StackedActor) -> str:
    """SHA-256 of a policy's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(actor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class BehaviorRun:
    """Trains what is asked for, and what that needs, once.

    Args:
        bank: Simulators of P patients.
        recipe: Settings.
        folder: Keeps finished jobs and checkpoints; None keeps nothing.
        options: Engine and device.
        initial: Start ind from this shared policy instead of the run's own dr.
        progress: Show progress on standard error.
    """

    def __init__(
        self,
        bank: SimulatorBank,
        recipe: BehaviorRecipe,
        folder: str | Path | None = None,
        options: EngineOptions | None = None,
        initial: StackedActor | None = None,
        progress: bool = True,
    ):
        self.bank, self.recipe, self.progress = bank, recipe, progress
        self.folder = None if folder is None else Path(folder)
        self.options = options or EngineOptions()
        self.options.check()
        self.initial = initial
        self.results: dict[Name, TrainResult] = {}
        self.early: dict[Name, StackedActor] = {}
        self._way: dict[Name, Mapping[str, Tensor]] = {}
        self._blocks = blocks(len(bank), recipe.shard)

    def train(self, wanted: Iterable[Name]) -> None:
        """Train the policies `wanted`; they are then in `results` (scopes) and `early`."""
        names = list(dict.fromkeys(wanted))
        for _, timing in names:
            self.recipe.process(
                timing, self.bank.disease.name
            )  # an infeasible budget is refused before the first minute of training
        experts = {(self._expert(name), timing) for name, timing in names if name in EARLY}
        trained = {(name, timing) for name, timing in names if name not in EARLY} | experts
        starts = {("dr", timing) for scope, timing in trained if scope == "ind" and self.initial is None}
        ways = {(EARLY[name][0], timing) for name, timing in names if name in EARLY and EARLY[name][0] in SHARED}
        shared = sorted({n for n in trained | starts | ways if n[0] in SHARED})
        self._stage("shared policies", shared, self._shared_jobs)
        self._stage("individual policies", sorted(n for n in trained if n[0] not in SHARED), self._block_jobs)
        self._early([name for name in names if name[0] in EARLY])

    @staticmethod
    def _expert(name: str) -> str:
        """The scope whose fully trained policy is the expert of an early one."""
        scope = EARLY[name][0]
        return "ind" if scope == "ind-scratch" else scope

    # -- stages 1 and 2 ------------------------------------------------------------------------------------------------

    def _stage(self, title: str, names: list[Name], jobs: Callable[[Name], dict[str, TrainJob]]) -> None:
        todo = {name: jobs(name) for name in names if name not in self.results}
        found = self._run(train_block, {k: (job,) for made in todo.values() for k, job in made.items()}, title)
        for name, made in todo.items():
            parts = [found[key] for key in made]
            self._way[name] = parts[0]["way"]
            job = next(iter(made.values()))
            self.results[name] = self._result(name, job, joined_state(parts), [u for p in parts for u in p["early"]])

    def _run(self, function: Callable[..., Any], shards: Mapping[str, tuple[Any, ...]], title: str) -> dict[str, Any]:
        if not shards:
            return {}
        return run(
            function,
            shards,
            engine=self.options.engine,
            workers=self.options.workers,
            address=self.options.address,
            folder=self.folder,
            key=self._key(),
            title=f"{self.bank.name}: {title}",
            progress=self.progress,
        )

    def _key(self) -> dict[str, Any]:
        """What decides the results of every job of this run."""
        patients = hashlib.sha256("\n".join(self.bank.patients).encode()).hexdigest()
        return {
            "recipe": self.recipe.to_dict(),
            "bank": {"name": self.bank.name, "hash": self.bank.content_hash, "world": self.bank.current_world},
            "patients": {"count": len(self.bank), "sha256": patients},
            "initial": None if self.initial is None else fingerprint(self.initial),
            "device": self.options.device.split(":")[0],
        }

    def _job(self, name: Name, bank: SimulatorBank, key: str, initial: StackedActor | None) -> TrainJob:
        scope, timing = name
        config = self.recipe.config(scope, None if initial is None else fingerprint(initial))
        checkpoint = None if self.folder is None else str(self.folder / "checkpoints" / f"{key}.state.safetensors")
        return TrainJob(
            bank,
            self.recipe.process(timing, self.bank.disease.name),
            config,
            initial,
            checkpoint,
            self.recipe.patience,
            self.options.device,
        )

    def _shared_jobs(self, name: Name) -> dict[str, TrainJob]:
        key = "-".join(name)
        return {key: self._job(name, self.bank.population() if name[0] == "pop" else self.bank, key, None)}

    def _block_jobs(self, name: Name) -> dict[str, TrainJob]:
        scope, timing = name
        start = None
        if scope == "ind":
            start = self.initial if self.initial is not None else self.results["dr", timing].actor
        made = {}
        for number, block in enumerate(self._blocks):
            key = f"{scope}-{timing}-{number:03d}"
            made[key] = self._job(name, self.bank.select(list(block)), key, start)
        return made

    def _result(self, name: Name, job: TrainJob, state: TrainState, early: list[int]) -> TrainResult:
        scope = name[0]
        ids = (self.bank.population() if scope == "pop" else self.bank).patients
        stopped = {ids[i]: int(u) for i, u in enumerate(state.stopped) if u >= 0}
        provenance = self._provenance(scope) | {
            "training": job.config.to_dict(),
            "process": job.process.to_dict(),
            "updates": state.update,
            "stopped": stopped,
            "final": {n: round(float(v[-10:].nanmean()), 5) for n, v in sorted(state.log.items())},
        }
        if early:
            provenance["stopped_early"] = early
        return TrainResult(self._actor(state.actor, name, provenance), state.log, state, stopped)

    def _actor(self, theta: Tensor, name: Name, provenance: dict[str, Any]) -> StackedActor:
        """The policy with parameters `theta` of a scope and timing."""
        scope, timing = name
        process, hidden = self.recipe.process(timing, self.bank.disease.name), self.recipe.config(scope).hidden
        shape = GaussianActor((process.observation_dim, hidden, hidden, process.action_dim))
        patients = None if scope in SHARED else self.bank.patients
        return stacked_actor(shape, theta, patients, process.decisions, provenance, process.disease)

    def _provenance(self, scope: str) -> dict[str, Any]:
        return {
            "scope": scope,
            "algorithm": self.recipe.algorithm,
            "seed": self.recipe.seed,
            "recipe": self.recipe.to_dict(),
            "recipe_hash": self.recipe.content_hash,
            "bank": self.bank.name,
            "bank_hash": self.bank.content_hash,
            "world": self.bank.current_world,
            "code": code_version(),
            "command": " ".join(sys.argv),
        }

    # -- stage 3 -------------------------------------------------------------------------------------------------------

    def _early(self, names: list[Name]) -> None:
        sources: dict[Name, list[str]] = {}
        for name, timing in names:
            sources.setdefault((EARLY[name][0], timing), []).append(name)
        jobs = {source: self._early_jobs(source, members) for source, members in sources.items()}
        found = self._run(early, {k: (job,) for made in jobs.values() for k, job in made.items()}, "early policies")
        for source, members in sources.items():
            for number, name in enumerate(members):
                self._keep_early(name, source[1], [found[key] for key in jobs[source]], number)

    def _early_jobs(self, source: Name, members: list[str]) -> dict[str, EarlyJob]:
        """Jobs of the early policies `members`, which are all taken from the training of `source`."""
        (scope, timing), recipe = source, self.recipe
        expert = self.results[self._expert(members[0]), timing].actor
        whole = EarlyJob(
            self.bank,
            recipe.process(timing, self.bank.disease.name),
            expert,
            recipe.seed,
            recipe.early_episodes,
            tuple(EARLY[name][1] for name in members),
            device=self.options.device,
        )
        key = f"early-{scope}-{timing}"
        if scope in SHARED:
            return {key: replace(whole, way=self._way[source])}
        config = replace(recipe.config(scope), updates=recipe.early_updates)
        made = {}
        for number, block in enumerate(self._blocks):
            ids = [self.bank.patients[i] for i in block]
            job = replace(whole, bank=self.bank.select(ids), expert=expert.select(ids), train=config)
            made[f"{key}-{number:03d}"] = job
        return made

    def _keep_early(self, name: str, timing: str, parts: list[dict[str, Any]], number: int) -> None:
        """Put the `number`-th policy of these parts (one, or one per block of patients) into `early`."""
        source, wanted = EARLY[name]

        def joined(field: str) -> list[float]:
            return [float(v) for part in parts for v in np.ravel(part[field])]

        provenance = self._provenance(source) | {
            "scope": name,
            "taken_from": source,
            "wanted_share": wanted,
            "share": [round(float(v), 3) for part in parts for v in np.ravel(part["share"][number])],
            "update": [int(v) for part in parts for v in np.ravel(part["update"][number])],
            "random_return": round(float(np.mean(joined("random"))), 3),
            "expert_return": round(float(np.mean(joined("expert"))), 3),
        }
        theta = torch.cat([part["theta"][number] for part in parts])
        self.early[name, timing] = self._actor(theta, (source, timing), provenance)
