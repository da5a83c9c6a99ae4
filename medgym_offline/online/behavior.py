"""Behaviour policies of a release: the policies that generate its datasets.

Scope "ind" is trained in two stages, because a policy trained from scratch on one patient's simulator mostly learns
that simulator's errors (its gain vanished on held-out simulators in a study), while one fine-tuned from a policy that
knows all patients keeps two thirds of it:

    dr   one policy on every patient's own simulator
    ind  a copy of it per patient: spread reset, critic warmed up, then trained on the patient's simulator
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import PolicyError, unknown_name
from medgym_offline.files import code_version, release_folder
from medgym_offline.online.recipe import SCOPES, BehaviorRecipe, load_recipe
from medgym_offline.online.train import TrainResult, train

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["behavior_path", "load_behavior", "train_behavior", "train_behavior_files"]

TIMINGS = ("adaptive", "fixed")


def behavior_path(
    bank_name: str, scope: str = "ind", timing: str = "adaptive", folder: str | Path | None = None
) -> Path:
    """Where the behaviour policy of (bank, scope, timing) lies: `<bank>-<scope>-<timing>.safetensors`.

    Raises:
        UnknownNameError: For an unknown scope or timing.
    """
    if scope not in SCOPES:
        raise unknown_name("behaviour scope", scope, SCOPES)
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


def _fingerprint(actor: StackedActor) -> str:
    """SHA-256 of a policy's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(actor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _summary(result: TrainResult) -> dict[str, Any]:
    """Means over simulators of the last ten updates, for the provenance."""
    return {name: round(float(values[-10:].nanmean()), 5) for name, values in sorted(result.log.items())}


def train_behavior(
    bank: SimulatorBank,
    timing: str,
    scope: str = "ind",
    *,
    recipe: BehaviorRecipe | None = None,
    initial: StackedActor | None = None,
    checkpoints: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train the behaviour policy of one scope and timing.

    Args:
        bank: Simulators of P patients.
        timing: "adaptive" or "fixed".
        scope: "pop", "dr", "ind" (fine-tuned from dr) or "ind-scratch".
        recipe: Settings; the release's by default.
        initial: For scope "ind", the dr policy to start from; trained first when left out.
        checkpoints: Folder for checkpoints; a killed run resumes from there.
        progress: Show progress on standard error.

    Returns:
        The policies with provenance (recipe and its hash, seed, bank and its content hash, code version, command),
        and the training log.

    Raises:
        UnknownNameError: For an unknown scope or timing.
    """
    recipe = recipe or load_recipe()
    target = behavior_path(bank.name, scope, timing)
    process = ProcessConfig(timing=timing, decisions=recipe.decisions, reward=recipe.reward)  # type: ignore[arg-type]
    if scope == "ind" and initial is None:
        shared = train_behavior(bank, timing, "dr", recipe=recipe, checkpoints=checkpoints, progress=progress)
        initial = shared.actor
    origin = None if initial is None else _fingerprint(initial)
    config = recipe.config(scope, origin)
    checkpoint = None if checkpoints is None else Path(checkpoints) / f"{target.stem}.state.safetensors"
    simulators = bank.population() if scope == "pop" else bank
    result = train(simulators, process, config, initial, checkpoint=checkpoint, progress=progress)
    result.actor.provenance.update(
        {
            "scope": scope,
            "algorithm": recipe.algorithm,
            "seed": recipe.seed,
            "recipe": recipe.to_dict(),
            "recipe_hash": recipe.content_hash,
            "bank": bank.name,
            "bank_hash": bank.content_hash,
            "world": bank.current_world,
            "code": code_version(),
            "command": " ".join(sys.argv),
            "final": _summary(result),
        }
    )
    return result


def train_behavior_files(
    bank: SimulatorBank,
    timings: Sequence[str] = TIMINGS,
    scopes: Sequence[str] = ("ind", "pop", "dr"),
    output: str | Path | None = None,
    progress: bool = True,
    *,
    recipe: BehaviorRecipe | None = None,
    checkpoints: str | Path | None = None,
) -> list[Path]:
    """Train behaviour policies and write `<bank>-<scope>-<timing>.safetensors`; dr is trained once per timing.

    Args:
        bank: Simulators of P patients.
        timings, scopes: Which policies.
        output: Folder; the release's `generation/behaviors` by default.
        progress: Show progress on standard error.
        recipe: Settings; the release's by default.
        checkpoints: Folder for checkpoints, to resume a killed run.

    Returns:
        The files written.
    """
    from medgym_offline.policies.files import save_policy

    recipe = recipe or load_recipe()
    # Every name is looked at before the first minute of training.
    paths = {(t, s): behavior_path(bank.name, s, t, output) for t in timings for s in scopes}
    written = []
    for timing in timings:
        shared: StackedActor | None = None
        # dr first, because ind starts from it.
        for scope in sorted(scopes, key=lambda name: (name != "dr", name)):
            if scope == "ind" and shared is None:
                shared = train_behavior(
                    bank, timing, "dr", recipe=recipe, checkpoints=checkpoints, progress=progress
                ).actor
            start = shared if scope == "ind" else None
            result = train_behavior(
                bank, timing, scope, recipe=recipe, initial=start, checkpoints=checkpoints, progress=progress
            )
            shared = result.actor if scope == "dr" else shared
            save_policy(result.actor, paths[timing, scope])
            written.append(paths[timing, scope])
    return written
