"""Reference returns of a dataset: what 0 and 100 of a normalized score mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import SCOPES, Behavior, play, process_config, resolve_behavior
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.shards import SHARD
from medgym_offline.diseases.views import FULL
from medgym_offline.errors import PolicyError
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["REFERENCE_EPISODES", "reference_returns"]

REFERENCE_EPISODES = 10
"""Episodes per patient and policy."""

_SCORED: dict[str, float] = {}
"""What this process has scored: the datasets of a bank share most of their references."""


def _candidates(recipe: Recipe, bank: SimulatorBank, behavior: Behavior) -> dict[str, tuple[Behavior, Recipe]]:
    """The policies to score: random, zero, the behavior, and every behavior shipped for the bank."""
    found: dict[str, tuple[Behavior, Recipe]] = {}
    for name in ("random", "zero"):
        found[name] = resolve_behavior(name, bank, recipe.timing, recipe.decisions, recipe.view), recipe
    found["behavior"] = behavior, recipe
    for timing in ("adaptive", "fixed"):
        other = dataclasses.replace(recipe, timing=timing, view=FULL)  # what they were trained on
        for scope in SCOPES:
            try:
                shipped = resolve_behavior(scope, bank, timing, recipe.decisions)
            except PolicyError:
                continue  # not shipped for this bank
            if recipe.view != FULL or shipped.digest != behavior.digest:
                found[f"{scope}-{timing}"] = shipped, other
    return found


def reference_returns(
    recipe: Recipe, bank: SimulatorBank, chosen: Sequence[int], behavior: Behavior, progress: bool
) -> dict[str, Any]:
    """Mean undiscounted returns in the disease's default world, with residual and initial noise, actions unperturbed.

    `expert` is the best in that world of the policies shipped for the bank (either timing: with the "integral"
    reward returns do not depend on how time is cut) and the dataset's own. All policies meet the same noise. Where
    the data come from another world (the twin's truth) its returns stand beside: the expert is still chosen in the
    default one; where that is "own", the true one is not known at a bedside.

    Args:
        recipe: Of the dataset.
        bank: The whole bank, in the recipe's world.
        chosen: Indices of the dataset's patients.
        behavior: The dataset's behavior policy.
        progress: Show progress on standard error.

    Returns:
        `returns` {random, zero, behavior, expert}, `expert` (the name of the best), `candidates` (all scores),
        `episodes` (per patient), `patients`, `reward`, `world` (the default one), and, for data of another world,
        `data_world` {world, returns}.
    """
    from medgym_offline.envs.rollout import episode_seeds

    candidates = _candidates(recipe, bank, behavior)
    # The name, not the path: the same bank in another folder has the same references.
    ids = [bank.patients[i] for i in chosen]
    seeds = episode_seeds(recipe.seed, f"reference:{bank.name}", ids, REFERENCE_EPISODES)
    home = bank.disease.world if bank.disease.world in bank.worlds else "own"
    other = recipe.world != home
    with Progress("reference returns", len(candidates) + 4 * other, enabled=progress) as bar:

        def score(name: str, world: SimulatorBank) -> float:
            policy, how = candidates[name]
            settings = (how.timing, how.decisions, how.reward, how.seed, how.view, REFERENCE_EPISODES, list(chosen))
            key = json.dumps([world.content_hash, world.current_world, policy.digest, *settings])
            mean = _SCORED.get(key)
            if mean is None:
                totals = []
                for i in range(0, len(chosen), SHARD):
                    part, config = world.select(list(chosen[i : i + SHARD])), process_config(how, bank.disease.name)
                    rolled = play(part, policy, config, seeds[i : i + SHARD], 0.0)
                    totals.append(rolled.rewards.double().sum(-1).mean(-1).numpy())
                mean = round(float(np.concatenate(totals).mean()), 4)
                if policy.digest:  # without one, two policies could have one key
                    _SCORED[key] = mean
            bar.advance(1, policy=name)
            return mean

        at_home = bank.world(home)
        scores = {name: score(name, at_home) for name in candidates}
        learned = [name for name in candidates if not candidates[name][0].digest.startswith("builtin:")]
        # A bank without any trained policy has no expert; the best of what there is keeps the score defined.
        expert = max(learned or scores, key=lambda name: scores[name])
        scored = {name: name for name in ("random", "zero", "behavior")} | {"expert": expert}
        found: dict[str, Any] = {"returns": {key: scores[name] for key, name in scored.items()}}
        if other:
            there = {key: score(name, bank) for key, name in scored.items()}
            found["data_world"] = {"world": recipe.world, "returns": there}
    return found | {
        "expert": f"{behavior.name}-{recipe.timing}" if expert == "behavior" else expert,
        "candidates": scores,
        "episodes": REFERENCE_EPISODES,
        "patients": len(chosen),
        "reward": recipe.reward,
        "world": home,
    }
