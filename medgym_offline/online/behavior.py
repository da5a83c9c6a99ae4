"""Training of a bank's behavior policies, which generate its datasets, over an engine, in three stages.

    1  dr, pop           one job each and timing; for new people also context, and a job per cluster of clu
    2  ind, ind-scratch  a job per block of patients; ind starts from dr
    3  early             ind-medium, pop-medium, dr-replay: needs the experts

Jobs of one stage run side by side. Their results are files in the run's folder, so a killed run goes on from there,
and inside a job from its last checkpoint.

Scope "ind" is trained in two stages, because a policy trained from scratch on one patient's simulator mostly learns
that simulator's errors (its gain vanished in another world in a study), while one fine-tuned from a policy that knows
all patients keeps two thirds of it:

    dr   one policy on every patient's own simulator
    ind  a copy of it per patient: spread reset, critic warmed up, then trained on the patient's simulator

Early-stopped ones (`medgym_offline.online.config.EARLY`) are part of the way from random to expert.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict, Unpack

from medgym_offline.config import to_values
from medgym_offline.diseases.base import FULL
from medgym_offline.engine import blocks, run
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.files import code_version, command_line
from medgym_offline.online.actors import fingerprint, stacked_actor, tensor_hash
from medgym_offline.online.config import (
    EARLY,
    PEOPLE,
    RELEASE,
    SHARED,
    BehaviorRecipe,
    behavior_path,
    load_behavior,
    load_recipe,
    require_trained,
)
from medgym_offline.online.jobs import EngineOptions, early, joined_state, train_block
from medgym_offline.online.learner import TrainState
from medgym_offline.online.networks import GaussianActor
from medgym_offline.online.train import training_facts
from medgym_offline.patients import people_hash
from medgym_offline.policies.files import TrainResult

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["BehaviorRun", "RELEASE", "behavior_path", "load_behavior", "train_behavior", "train_behavior_files"]

Name = tuple[str, str]
"""(scope or early policy, timing)."""
Trained: TypeAlias = "TrainResult[dict[str, Tensor]]"


# -- a run -------------------------------------------------------------------------------------------------------------


class RunOptions(TypedDict, total=False):
    """What both entry points take besides names: see :func:`train_behavior`."""

    recipe: BehaviorRecipe | None
    checkpoints: str | Path | None
    options: EngineOptions | None
    split: str | None
    view: str


class BehaviorRun:
    """Trains what is asked for, and what that needs, once.

    Args:
        bank: Simulators of P patients.
        recipe: Settings; the release's by default.
        checkpoints: Folder for finished jobs and checkpoints; None keeps nothing.
        options: Engine and device.
        progress: Show progress on standard error.
        split: Learn from this side of the bank's people alone.
        view: What policies see.
        people: Who shares policies, of the scopes `clu` and `context`.

    Attributes:
        results: (scope, timing) -> result.
        early: (early policy, timing) -> policy.
    """

    def __init__(
        self,
        bank: SimulatorBank,
        recipe: BehaviorRecipe | None = None,
        checkpoints: str | Path | None = None,
        options: EngineOptions | None = None,
        progress: bool = True,
        *,
        split: str | None = None,
        view: str = FULL,
        people: Sequence[Clusters | Contexts] = (),
    ):
        self.bank = bank if split is None else bank.select(list(bank.people(split)))
        self.split, self.sharing = split, {one.scope: one for one in people}
        self.recipe, self.progress, self.view = recipe or load_recipe(disease=bank.disease.name), progress, view
        self.folder = None if checkpoints is None else Path(checkpoints)
        self.options = options or EngineOptions()
        self.results: dict[Name, Trained] = {}
        self.early: dict[Name, StackedActor] = {}
        self._blocks = [list(block) for block in blocks(len(self.bank), self.recipe.shard)]

    def train(self, wanted: Iterable[Name]) -> None:
        """Train the policies `wanted`; they are then in `results` (scopes) and `early`."""
        names = list(dict.fromkeys(wanted))
        for _, timing in names:
            self._process(timing)  # an infeasible budget is refused before the first minute of training
        sources: dict[Name, list[str]] = {}
        for name, timing in names:
            if name in EARLY:
                sources.setdefault((EARLY[name][0], timing), []).append(name)
        trained = {n for n in names if n[0] not in EARLY} | {(_expert(scope), timing) for scope, timing in sources}
        trained |= {source for source in sources if source[0] in SHARED}
        trained |= {("dr", timing) for scope, timing in trained if scope == "ind"}
        for scope, _ in trained:
            self._require(scope)
        self._stage("shared policies", sorted(n for n in trained if n[0] in SHARED))
        self._stage("individual policies", sorted(n for n in trained if n[0] not in SHARED))
        self._early(sources)

    def _require(self, scope: str) -> None:
        """Refuse, before anything is trained, a scope that would look at others, or lacks what tells people apart."""
        if scope == "pop" and self.split is not None:
            raise MedGymError(
                "scope 'pop' learns on the population simulator, which was fitted to the people of both sides of the "
                "split; take 'dr', one policy on the simulators of one side, or give no split"
            )
        if scope in PEOPLE:
            if self.split != "train":
                raise MedGymError(f"scope {scope!r} is for new people: it learns from train people; give split 'train'")
            if scope not in self.sharing:
                raise MedGymError(f"scope {scope!r} needs people_of({scope!r}, bank, ...) of medgym_offline.people")
            self.sharing[scope].groups(self.bank.patients)

    def _groups(self, scope: str) -> dict[str, tuple[SimulatorBank, Tensor | None]]:
        """Simulators that one policy learns on, and what it is told of each person, by the end of the job's name.

        The name holds who they are: a run's folder can then hold jobs of several clusterings, or records.
        """
        if scope == "pop":
            return {"": (self.bank.population(), None)}
        if scope not in PEOPLE:
            return {"": (self.bank, None)}
        return {
            f"-{(people_hash(ids) if told is None else tensor_hash(told))[:12]}": (self.bank.select(ids), told)
            for ids, told in self.sharing[scope].groups(self.bank.patients)
        }

    def _stage(self, title: str, names: list[Name]) -> None:
        todo = {name: self._jobs(name) for name in names if name not in self.results}
        found = self._run(train_block, {key: job for jobs in todo.values() for key, job in jobs.items()}, title)
        for name, jobs in todo.items():
            self.results[name] = self._result(name, jobs, joined_state([found[key] for key in jobs]))

    def _run(self, function: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], title: str) -> dict[str, Any]:
        if not jobs:
            return {}
        patients = hashlib.sha256("\n".join(self.bank.patients).encode()).hexdigest()
        key = {  # what decides the results of every job
            "recipe": to_values(self.recipe),
            "bank": {"name": self.bank.name, "hash": self.bank.content_hash, "world": self.bank.current_world},
            "patients": {"count": len(self.bank), "sha256": patients},
            "device": self.options.device.split(":")[0],
            **({} if self.view == FULL else {"view": self.view}),
        }
        where, of = self.options, f"{self.bank.name}: {title}"
        place = {"engine": where.engine, "workers": where.workers, "address": where.address, "folder": self.folder}
        return run(function, jobs, key=key, title=of, progress=self.progress, **place)  # type: ignore[arg-type]

    def _process(self, timing: str) -> ProcessConfig:
        return self.recipe.process(timing, self.bank.disease.name, self.view)  # type: ignore[arg-type]

    def _cut(self, key: str, bank: SimulatorBank) -> dict[str, SimulatorBank]:
        """Simulators of the blocks of patients, by the names of their jobs."""
        return {f"{key}-{n:03d}": bank.select(block) for n, block in enumerate(self._blocks)}

    def _jobs(self, name: Name) -> dict[str, tuple[Any, ...]]:
        """Jobs of one scope and timing: arguments of :func:`train_block`."""
        scope, timing = name
        if scope in SHARED:
            groups = {f"{scope}-{timing}{end}": group for end, group in self._groups(scope).items()}
        else:
            bank = self.bank.world("true") if scope == "oracle" else self.bank
            groups = {key: (some, None) for key, some in self._cut(f"{scope}-{timing}", bank).items()}
        initial = self.results["dr", timing].policy if scope == "ind" else None
        config = self.recipe.config(scope, None if initial is None else fingerprint(cast("StackedActor", initial)))
        rest = (self.recipe.patience, self.options.device)

        def job(key: str, bank: SimulatorBank, told: Tensor | None) -> tuple[Any, ...]:
            state = self.folder and str(self.folder / "checkpoints" / f"{key}.state.safetensors")
            return bank, self._process(timing), config, initial, state, *rest, told

        return {key: job(key, *group) for key, group in groups.items()}

    def _result(self, name: Name, jobs: Mapping[str, tuple[Any, ...]], state: TrainState) -> Trained:
        ids, config = [patient for job in jobs.values() for patient in job[0].patients], next(iter(jobs.values()))[2]
        provenance = training_facts(config, self._process(name[1]), state, ids)
        provenance["final"] = {n: round(float(v[-10:].nanmean()), 5) for n, v in sorted(state.log.items())}
        if "stopped_at" in state.kept:
            provenance["stopped_early"] = state.kept["stopped_at"].tolist()
        actor = self._actor(state.actor, name, provenance)
        return TrainResult(actor, state.log, provenance["stopped"], state=state)

    def _actor(self, theta: Tensor, name: Name, provenance: dict[str, Any]) -> StackedActor:
        """The policy with parameters `theta` of a scope and timing, with what was made of what."""
        scope, timing = name
        process, hidden = self._process(timing), self.recipe.config(scope).hidden
        made = {
            "scope": scope,
            "algorithm": self.recipe.algorithm,
            "seed": self.recipe.seed,
            "recipe": to_values(self.recipe),
            "recipe_hash": self.recipe.content_hash,
            "bank": self.bank.name,
            "bank_hash": self.bank.content_hash,
            "world": self.bank.current_world,
            "code": code_version(),
            "command": command_line(),
            **({"people": {"split": self.split, "sha256": people_hash(self.bank.patients)}} if self.split else {}),
            **(self.sharing[scope].facts() if scope in PEOPLE else {}),
        }
        patients: Sequence[str] | None = self.bank.patients
        if scope in SHARED:
            patients = None if len(theta) == 1 else [f"{scope} {number}" for number in range(len(theta))]
        told = next(iter(self._groups(scope).values()))[1]
        width = process.observation_dim + (0 if told is None else told.shape[1])
        shape = GaussianActor((width, hidden, hidden, process.action_dim))
        actor = stacked_actor(shape, theta, patients, process, made | provenance)
        return self.sharing[scope].finish(actor) if scope in PEOPLE else actor

    def _early(self, sources: Mapping[Name, list[str]]) -> None:
        """Early policies: (scope whose training they are taken from, timing) -> their names."""
        jobs: dict[Name, dict[str, tuple[Any, ...]]] = {}
        for source, members in sources.items():
            (scope, timing), shares = source, [EARLY[name][1] for name in members]
            way = self.results[source].state.kept if scope in SHARED else None
            expert, key = self.results[_expert(scope), timing].policy, f"early-{scope}-{timing}"
            rest = (self.recipe, scope, shares, way, self.options.device)
            banks, process = self._cut(key, self.bank) if way is None else {key: self.bank}, self._process(timing)
            jobs[source] = {name: (bank, process, expert.select(bank.patients), *rest) for name, bank in banks.items()}
        found = self._run(early, {key: job for some in jobs.values() for key, job in some.items()}, "early policies")
        for source, members in sources.items():
            parts = [found[key] for key in jobs[source]]
            ends = {end: float(np.mean(np.concatenate([part[end] for part in parts]))) for end in ("random", "expert")}
            for number, name in enumerate(members):
                provenance = {
                    "scope": name,
                    "taken_from": source[0],
                    "wanted_share": EARLY[name][1],
                    "share": [round(float(v), 3) for part in parts for v in np.ravel(part["share"][number])],
                    "update": [int(v) for part in parts for v in np.ravel(part["update"][number])],
                    **{f"{end}_return": round(value, 3) for end, value in ends.items()},
                }
                theta = torch.cat([part["theta"][number] for part in parts])
                self.early[name, source[1]] = self._actor(theta, source, provenance)


def _expert(source: str) -> str:
    """The scope whose fully trained policy is the expert of those taken from the training of `source`."""
    return "ind" if source == "ind-scratch" else source


# -- entry points ------------------------------------------------------------------------------------------------------


def train_behavior(
    bank: SimulatorBank,
    timing: str,
    scope: str = "ind",
    *,
    progress: bool = True,
    people: Clusters | Contexts | None = None,
    **given: Unpack[RunOptions],
) -> Trained:
    """Train the behavior policy of one scope and timing.

    Args:
        bank: Simulators of P patients.
        timing: "adaptive" or "fixed".
        scope: "pop", "dr", "ind" (fine-tuned from dr, which is trained first) or "ind-scratch"; for new people "clu" or
            "context", which need `people` and the split "train".
        progress: Show progress on standard error.
        people: Who shares a policy (`medgym_offline.people.people_of`), of scope "clu" or "context". The policy is for
            everybody in it, seen or new.
        given: `recipe`: settings; the release's by default. `checkpoints`: folder for finished parts and checkpoints; a
            killed run resumes from there. `options`: engine, workers, device. `split`: train on the simulators of this
            side of the bank's people alone ("train" or "test"); not with "pop". `view`: what actor and critic see.

    Returns:
        The policies with provenance (recipe and its hash, seed, bank and its content hash, code version, command),
        and the training log.

    Raises:
        UnknownNameError: For an unknown scope or timing.
        MedGymError: If `checkpoints` belongs to another recipe; as `EngineOptions`; a scope for new people
            without train people, or with `people` that were not made of these.
    """
    behavior_path(bank.name, scope, timing)
    require_trained(scope)
    made = BehaviorRun(bank, progress=progress, **given, people=[] if people is None else [people])
    made.train([(scope, timing)])
    return made.results[scope, timing]


def train_behavior_files(
    bank: SimulatorBank,
    wanted: Sequence[Name] = RELEASE,
    output: str | Path | None = None,
    progress: bool = True,
    *,
    fresh: bool = False,
    half: bool = False,
    people: Sequence[Clusters | Contexts] = (),
    **given: Unpack[RunOptions],
) -> list[Path]:
    """Train behavior policies and write `<bank>-<scope>-<timing>.safetensors`; what several need is trained once.

    Args:
        bank: Simulators of P patients.
        wanted: Pairs (scope or early policy, timing).
        output: Folder; the release's `generation/behaviors` by default.
        progress: Show progress on standard error.
        fresh: Forget what `checkpoints` holds.
        half: Store every policy in float16, half the size; training itself is the same. Early-stopped ones always are.
        people: Of each scope for new people that is wanted.
        given: `recipe`, `checkpoints`, `options`, `split`, `view` as of :func:`train_behavior`.

    Returns:
        The files written.
    """
    from medgym_offline.policies.files import save_policy

    # Every name is looked at before the first minute of training.
    paths = {(scope, timing): behavior_path(bank.name, scope, timing, output) for scope, timing in wanted}
    made = BehaviorRun(bank, progress=progress, people=people, **given)
    if fresh and made.folder is not None:
        shutil.rmtree(made.folder, ignore_errors=True)
    made.train(paths)
    written = []
    for name, path in paths.items():
        actor = made.early[name] if name in made.early else made.results[name].policy
        small = half or name in made.early
        written.append(save_policy(actor, path, torch.float16 if small else torch.float32))
    return written
