"""Reference returns of a dataset: what 0 and 100 of a normalised score mean."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import SCOPES, Behavior, play, process_config, resolve_behavior
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.errors import PolicyError
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["REFERENCE_EPISODES", "reference_returns"]

REFERENCE_EPISODES = 10
"""Episodes per patient and policy."""


def _candidates(recipe: Recipe, bank: SimulatorBank, behavior: Behavior) -> dict[str, tuple[Behavior, Recipe]]:
    """The policies to score: random, zero, the behaviour, and every behaviour shipped for the bank."""
    found: dict[str, tuple[Behavior, Recipe]] = {}
    for name in ("random", "zero"):
        found[name] = resolve_behavior(name, bank, recipe.timing, recipe.decisions), recipe
    found["behavior"] = behavior, recipe
    for timing in ("adaptive", "fixed"):
        other = dataclasses.replace(recipe, timing=timing)
        for scope in SCOPES:
            try:
                shipped = resolve_behavior(scope, bank, timing, recipe.decisions)
            except PolicyError:
                continue  # not shipped for this bank
            if shipped.digest != behavior.digest:
                found[f"{scope}-{timing}"] = shipped, other
    return found


def reference_returns(
    recipe: Recipe,
    bank: SimulatorBank,
    whole: SimulatorBank,
    behavior: Behavior,
    *,
    episodes: int = REFERENCE_EPISODES,
    shard: int = 10,
    progress: bool = True,
) -> dict[str, Any]:
    """Mean undiscounted returns in the patients' own simulators, with residual and initial noise, actions unperturbed.

    `expert` is the best of the policies shipped for the bank (either timing: with the "integral" reward returns do
    not depend on how time is cut) and the dataset's own. All policies meet the same noise.

    Args:
        recipe: Of the dataset.
        bank: Its patients.
        whole: The whole bank, for policies that are made from it.
        behavior: The dataset's behaviour policy.
        episodes: Per patient and policy.
        shard: Patients rolled out together.
        progress: Show progress on standard error.

    Returns:
        `returns` {random, zero, behavior, expert}, `expert` (the name of the best), `candidates` (all scores),
        `episodes` (per patient), `patients`, `reward`.
    """
    from medgym_offline.envs.rollout import episode_seeds

    candidates = _candidates(recipe, whole, behavior)
    # The name, not the path: the same bank in another folder has the same references.
    seeds = episode_seeds(recipe.seed, f"reference:{whole.name}", bank.patients, episodes)
    scores: dict[str, float] = {}
    shards = [range(i, min(i + shard, len(bank))) for i in range(0, len(bank), shard)]
    with Progress("reference returns", total=len(candidates) * len(shards), enabled=progress) as bar:
        for name, (policy, how) in candidates.items():
            totals = []
            for rows in shards:
                rolled = play(bank.select(list(rows)), policy, process_config(how), seeds[rows.start : rows.stop], 0.0)
                totals.append(rolled.rewards.double().sum(-1).mean(-1).numpy())
                bar.advance(1, policy=name)
            scores[name] = round(float(np.concatenate(totals).mean()), 4)
    learned = [name for name in candidates if not candidates[name][0].digest.startswith("builtin:")]
    # A bank without any trained policy has no expert; the best of what there is keeps the score defined.
    expert = max(learned or scores, key=lambda name: scores[name])
    returns = {name: scores[name] for name in ("random", "zero", "behavior")} | {"expert": scores[expert]}
    return {
        "returns": returns,
        "expert": f"{behavior.name}-{recipe.timing}" if expert == "behavior" else expert,
        "candidates": scores,
        "episodes": episodes,
        "patients": len(bank),
        "reward": recipe.reward,
    }
