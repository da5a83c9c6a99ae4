"""Behaviour policies of a release: the policies that generate its datasets.

Scope "ind" is trained in two stages, because a policy trained from scratch on one patient's simulator mostly learns
that simulator's errors (its gain vanished on held-out simulators in a study), while one fine-tuned from a policy that
knows all patients keeps two thirds of it:

    dr   one policy on every patient's own simulator
    ind  a copy of it per patient: spread reset, critic warmed up, then trained on the patient's simulator

Early-stopped ones (`medgym_offline.online.recipe.EARLY`) are part of the way from random to expert.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medgym_offline.errors import PolicyError, unknown_name
from medgym_offline.files import release_folder
from medgym_offline.online.recipe import BEHAVIORS, EARLY, SCOPES, BehaviorRecipe, load_recipe
from medgym_offline.online.runs import BehaviorRun, EngineOptions
from medgym_offline.online.train import TrainResult

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["RELEASE", "TIMINGS", "behavior_path", "load_behavior", "train_behavior", "train_behavior_files"]

TIMINGS = ("adaptive", "fixed")
RELEASE: tuple[tuple[str, str], ...] = (
    *((scope, timing) for timing in TIMINGS for scope in ("ind", "pop", "dr")),
    *((name, "adaptive") for name in EARLY),
)
"""The behaviour policies that ship with a bank: (name, timing)."""


def behavior_path(
    bank_name: str, scope: str = "ind", timing: str = "adaptive", folder: str | Path | None = None
) -> Path:
    """Where the behaviour policy of (bank, scope, timing) lies: `<bank>-<scope>-<timing>.safetensors`.

    `scope` is any of `medgym_offline.online.recipe.BEHAVIORS`: "ind", "pop", "dr", "ind-scratch", or early-stopped:
    "ind-medium", "pop-medium", "dr-replay-25", "dr-replay-50", "dr-replay-75".

    Raises:
        UnknownNameError: For an unknown scope or timing.
    """
    if scope not in BEHAVIORS:
        raise unknown_name("behaviour scope", scope, BEHAVIORS)
    if timing not in TIMINGS:
        raise unknown_name("timing", timing, TIMINGS)
    home = Path(folder) if folder is not None else release_folder("generation") / "behaviors"
    return home / f"{bank_name}-{scope}-{timing}.safetensors"


def load_behavior(bank_name: str, scope: str = "ind", timing: str = "adaptive") -> StackedActor:
    """The behaviour policy shipped for a bank.

    Raises:
        UnknownNameError: For an unknown scope or timing.
        PolicyError: If none is shipped, naming those that are and the command that trains it.
    """
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.policies.files import load_policy

    path = behavior_path(bank_name, scope, timing)
    if not path.exists():
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors"))) or "none"
        raise PolicyError(
            f"no behaviour policy {path.stem!r} (shipped: {have}); "
            f"train it with: medgym-offline behavior train --bank {bank_name} --scope {scope} --timing {timing}"
        )
    policy = load_policy(path)
    if not isinstance(policy, StackedActor):
        raise PolicyError(f"{path}: not a stacked actor; a behaviour policy must be one")
    return policy


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
    """Train the behaviour policy of one scope and timing.

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
    """Train behaviour policies and write `<bank>-<scope>-<timing>.safetensors`; what several need is trained once.

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
