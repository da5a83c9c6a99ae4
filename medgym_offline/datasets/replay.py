"""Verification by replay: the behavior plays patients' episodes again from their seeds, and they come out as stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import recipe_behavior
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.rows import Check
from medgym_offline.datasets.shards import SHARD_EPISODES, play_shard
from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.datasets.trust import recipe_seeds
from medgym_offline.datasets.viewing import REPLAY_TOLERANCE
from medgym_offline.errors import MedGymError

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["check_replay"]

_ACTED = ("actions", "behavior_log_prob")
"""Columns that the behavior decides; the others are what the simulators make of it."""


def check_replay(
    rows: Transitions, seeds: np.ndarray, bank: SimulatorBank, recipe: Recipe, manifest: dict[str, Any], count: int
) -> Iterator[Check]:
    """Checks: seeds are the recipe's, the behavior is the one named, and the episodes come out again.

    Args:
        rows: All rows, in order.
        seeds: (E,) of the episodes.
        bank: The bank the dataset was made with, in its world.
        recipe: As the manifest states it.
        manifest: Of the dataset.
        count: Patients to play again, spread over the dataset: up to `SHARD_EPISODES` first episodes of each.
    """
    present = rows.present
    expected = recipe_seeds(manifest, rows.present_ids)
    layout = np.repeat(present, recipe.episodes)
    same = np.array_equal(seeds, expected) and np.array_equal(rows.patient[rows.episode_starts()], layout)
    detail = f"{recipe.episodes} episodes of each of {len(present)} patients, seeded from {recipe.seed}"
    yield Check("seeds", same, detail if same else f"seeds or patients are not those of the recipe ({detail})")
    try:
        behavior = recipe_behavior(recipe, bank)
    except MedGymError as error:
        yield Check("behavior", False, str(error))
        return
    if behavior.digest != manifest["behavior"]["sha256"]:
        yield Check("behavior", False, f"policy {behavior.name} is not the one the dataset was made with")
        return
    places = np.unique(np.linspace(0, len(present) - 1, min(count, len(present))).round().astype(int))
    chosen = present[places].tolist()
    part = bank.select(chosen)
    own = expected.reshape(len(present), recipe.episodes)[places, :SHARD_EPISODES]
    again = play_shard(part, behavior.select(part.patients), recipe, own, chosen).columns
    stored = rows.select(rows.episode % recipe.episodes < SHARD_EPISODES, patients=chosen)
    gaps = {name: _gap(again[name], getattr(stored, name)) for name in COLUMNS if name != "episode"}
    for check, acted in (("replay", False), ("behavior", True)):
        worst = max((name for name in gaps if (name in _ACTED) == acted), key=lambda name: gaps[name])
        detail = f"{own.size} episodes of {len(chosen)} patients again from their seeds, by policy {behavior.name}"
        detail += f"; largest difference {gaps[worst]:.1e} ({worst})"
        yield Check(check, gaps[worst] <= REPLAY_TOLERANCE, detail)


def _gap(again: np.ndarray, stored: np.ndarray) -> float:
    """Largest difference, relative where values are large: a log-probability divides by the noise's variance."""
    if again.shape != stored.shape:
        return float("inf")
    one, other = again.astype(np.float64), stored.astype(np.float64)
    gap = np.abs(one - other) / np.maximum(1.0, np.abs(other))
    gap[np.isnan(one) & np.isnan(other)] = 0.0  # no probability, then as now
    return float(np.nan_to_num(gap, nan=np.inf).max())
