"""Training of a bank's behavior policies, which generate its datasets, over an engine, in three stages.

    1  dr, pop           one job each and timing
    2  ind, ind-scratch  a job per block of patients; ind starts from dr
    3  early             ind-medium, pop-medium, dr-replay: needs the experts

Jobs of one stage run side by side. Their results are files in the run's folder, so a killed run goes on from there,
and inside a job from its last checkpoint.

Scope "ind" is trained in two stages, because a policy trained from scratch on one patient's simulator mostly learns
that simulator's errors (its gain vanished in another world in a study), while one fine-tuned from a policy that knows
all patients keeps two thirds of it:

    dr   one policy on every patient's own simulator
    ind  a copy of it per patient: spread reset, critic warmed up, then trained on the patient's simulator

Early-stopped ones (`medgym_offline.online.recipe.EARLY`) are part of the way from random to expert.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.devices import check_device
from medgym_offline.engine import blocks, check_engine, report, run
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import MedGymError, unknown_name
from medgym_offline.files import code_version
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import TrainState
from medgym_offline.online.networks import GaussianActor, stacked_actor
from medgym_offline.online.recipe import EARLY, SCOPES, TIMINGS, BehaviorRecipe, behavior_path, load_recipe
from medgym_offline.online.train import TrainResult, live_numbers, train
from medgym_offline.online.watching import Gap, Passing, keep_patient, keep_way, nearest_to_share, way_of

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["BehaviorRun", "EngineOptions", "fingerprint", "train_behavior", "train_behavior_files"]

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


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainJob:
    """Training of one stack: one policy for all patients (scopes pop, dr), or the policies of one block of patients.

    Attributes:
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
    """Train; returns the update reached and the state's tensors (but a replay buffer's)."""

    def watch(state: TrainState) -> bool:
        report(state.update / job.config.updates, **live_numbers(state.log))
        if job.config.shared:
            keep_way(state, job.config.updates)
        return job.patience > 0 and keep_patient(state, job.patience)

    bank = job.bank.to(job.device)
    result = train(bank, job.process, job.config, job.initial, checkpoint=job.checkpoint, progress=False, watch=watch)
    state = result.state.without_replay().to("cpu")
    if job.patience:
        stopped = state.kept["stopped_at"] >= 0
        state.actor = torch.where(stopped.unsqueeze(1), state.kept["stopped_actor"], state.actor)
    return {"update": state.update, "tensors": state.tensors()}


def _joined_state(parts: Sequence[Mapping[str, Any]]) -> TrainState:
    """The state of a whole stack from those of its blocks; logs of unequal length are padded with NaN."""
    longest = max(int(part["update"]) for part in parts)
    tensors = {}
    for name in parts[0]["tensors"]:
        values, log = [part["tensors"][name] for part in parts], name.startswith("log.")
        if log:
            values = [torch.cat([v, v.new_full((longest - len(v), v.shape[1]), torch.nan)]) for v in values]
        tensors[name] = torch.cat(values, 1 if log else 0)
    return TrainState.from_tensors(longest, tensors)


@dataclass(frozen=True)
class EarlyJob:
    """Early-stopped policies of a block of patients (their `train` from scratch) or of all (the `way` of a shared one).

    Attributes:
        bank: Simulators that random, expert and the candidates are scored on.
        process: Decision process.
        expert: Fully trained policy.
        seed, episodes: Of the scoring.
        shares: Wanted shares of the gap.
        train: For a policy per patient: the training that passes them.
        way: For a shared policy: update -> parameters `(1, n)`.
        device: Torch device.
    """

    bank: SimulatorBank
    process: ProcessConfig
    expert: StackedActor
    seed: int
    episodes: int
    shares: tuple[float, ...]
    train: TrainConfig | None = None
    way: Mapping[int, Tensor] | None = None
    device: str = "cpu"


def early(job: EarlyJob) -> dict[str, Any]:
    """Early-stopped policies, a list entry for each of `shares`.

    Returns `theta` (each `(P, n)`), `share` reached and `update` (each `(P,)`, or one number when shared), and the
    returns `random` and `expert` `(P,)`. A policy per patient is trained from scratch until all have passed the share.
    """
    bank = job.bank.to(job.device)
    gap = Gap.measure(bank, job.process, job.expert, job.seed, job.episodes)
    if job.train is None:
        assert job.way is not None
        update, theta, share = (list(v) for v in zip(*nearest_to_share(gap, job.way, job.shares)))
    else:
        passing, updates = [Passing(gap, share) for share in job.shares], job.train.updates

        def watch(state: TrainState) -> bool:
            report(state.update / updates, **live_numbers(state.log))
            stops = [one(state) for one in passing]  # every one looks at the state, so no lazy `all`
            return all(stops)

        train(bank, job.process, job.train, progress=False, watch=watch)
        update, theta, share = ([getattr(one, n) for one in passing] for n in ("update", "theta", "share"))
    return {"theta": theta, "share": share, "update": update, "random": gap.random, "expert": gap.expert}


# -- a run -------------------------------------------------------------------------------------------------------------


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
        self._blocks = blocks(len(bank), recipe.shard)

    def train(self, wanted: Iterable[Name]) -> None:
        """Train the policies `wanted`; they are then in `results` (scopes) and `early`."""
        names = list(dict.fromkeys(wanted))
        for _, timing in names:
            self._process(timing)  # an infeasible budget is refused before the first minute of training
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
            job = next(iter(made.values()))
            self.results[name] = self._result(name, job, _joined_state([found[key] for key in made]))

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

    def _process(self, timing: str) -> ProcessConfig:
        return self.recipe.process(timing, self.bank.disease.name)  # type: ignore[arg-type]

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
        patience, device = self.recipe.patience, self.options.device
        return TrainJob(bank, self._process(timing), config, initial, checkpoint, patience, device)

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

    def _result(self, name: Name, job: TrainJob, state: TrainState) -> TrainResult:
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
        if "stopped_at" in state.kept:
            provenance["stopped_early"] = state.kept["stopped_at"].tolist()
        return TrainResult(self._actor(state.actor, name, provenance), state.log, state, stopped)

    def _actor(self, theta: Tensor, name: Name, provenance: dict[str, Any]) -> StackedActor:
        """The policy with parameters `theta` of a scope and timing."""
        scope, timing = name
        process, hidden = self._process(timing), self.recipe.config(scope).hidden
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
            self._process(timing),
            expert,
            recipe.seed,
            recipe.early_episodes,
            tuple(EARLY[name][1] for name in members),
            device=self.options.device,
        )
        key = f"early-{scope}-{timing}"
        if scope in SHARED:
            return {key: replace(whole, way=way_of(self.results[source].state.kept))}
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


# -- entry points ------------------------------------------------------------------------------------------------------


def train_behavior(
    bank: SimulatorBank,
    timing: str,
    scope: str = "ind",
    *,
    recipe: BehaviorRecipe | None = None,
    initial: StackedActor | None = None,
    checkpoints: str | Path | None = None,
    progress: bool = True,
    options: EngineOptions | None = None,
) -> TrainResult:
    """Train the behavior policy of one scope and timing.

    Args:
        bank: Simulators of P patients.
        timing: "adaptive" or "fixed".
        scope: "pop", "dr", "ind" (fine-tuned from dr) or "ind-scratch".
        recipe: Settings; the release's by default.
        initial: For scope "ind", the shared policy to start from; dr is trained first when left out.
        checkpoints: Folder for finished parts and checkpoints; a killed run resumes from there.
        progress: Show progress on standard error.
        options: Engine, workers, device.

    Returns:
        The policies with provenance (recipe and its hash, seed, bank and its content hash, code version, command),
        and the training log.

    Raises:
        UnknownNameError: For an unknown scope or timing.
        MedGymError: If `checkpoints` belongs to another recipe, or as `EngineOptions.check`.
    """
    behavior_path(bank.name, scope, timing)
    if scope not in SCOPES:
        raise unknown_name("trained scope", scope, SCOPES)
    run = BehaviorRun(bank, recipe or load_recipe(), checkpoints, options, initial, progress)
    run.train([(scope, timing)])
    return run.results[scope, timing]


def train_behavior_files(
    bank: SimulatorBank,
    timings: Sequence[str] = TIMINGS,
    scopes: Sequence[str] = ("ind", "pop", "dr"),
    output: str | Path | None = None,
    progress: bool = True,
    *,
    recipe: BehaviorRecipe | None = None,
    checkpoints: str | Path | None = None,
    options: EngineOptions | None = None,
    wanted: Sequence[tuple[str, str]] | None = None,
    fresh: bool = False,
    report: bool = False,
    half: bool = False,
) -> list[Path]:
    """Train behavior policies and write `<bank>-<scope>-<timing>.safetensors`; what several need is trained once.

    Args:
        bank: Simulators of P patients.
        timings, scopes: Which policies: every scope (or early policy) with every timing.
        output: Folder; the release's `generation/behaviors` by default.
        progress: Show progress on standard error.
        recipe: Settings; the release's by default.
        checkpoints: Folder for finished parts and checkpoints, to resume a killed run.
        options: Engine, workers, device.
        wanted: Pairs (scope, timing) instead of `timings` and `scopes`, for instance :data:`RELEASE`.
        fresh: Forget what `checkpoints` holds.
        report: Write `<bank>-training.html` beside the policies (extra `report`).
        half: Store every policy in float16, half the size; training itself is the same. Early-stopped ones always are.

    Returns:
        The files written, policies first.
    """
    from medgym_offline.policies.files import save_policy

    pairs = list(wanted) if wanted is not None else [(scope, timing) for timing in timings for scope in scopes]
    # Every name is looked at before the first minute of training.
    paths = {(scope, timing): behavior_path(bank.name, scope, timing, output) for scope, timing in pairs}
    run = BehaviorRun(bank, recipe or load_recipe(), checkpoints, options, progress=progress)
    if fresh and checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    run.train(pairs)
    written = []
    for name, path in paths.items():
        early = name in run.early
        actor = run.early[name] if early else run.results[name].actor
        written.append(save_policy(actor, path, torch.float16 if early or half else torch.float32))
    if report:
        from medgym_offline.online.report import write_training_report

        written.append(write_training_report(run, paths[pairs[0]].with_name(f"{bank.name}-training.html")))
    return written
