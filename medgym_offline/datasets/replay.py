"""Verification by replay: episodes come out again from their seeds, in the environment and by the behavior policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.behaviors import Behavior, action_log_prob, play, process_config, recipe_behavior
from medgym_offline.datasets.hdf5 import info_names
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.rows import Check
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.datasets.trust import recipe_seeds
from medgym_offline.datasets.viewing import REPLAY_TOLERANCE
from medgym_offline.errors import MedGymError

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["check_replay"]


def check_replay(
    transitions: Transitions,
    seeds: np.ndarray,
    bank: SimulatorBank,
    recipe: Recipe,
    manifest: dict[str, Any],
    count: int,
    checks: list[Check],
) -> None:
    """Append checks: seeds are the recipe's; sampled episodes come out again, from the environment and the behavior.

    Args:
        transitions: All rows, in order.
        seeds: (E,) of the episodes.
        bank: The bank the dataset was made with, in its world.
        recipe: As the manifest states it.
        manifest: Of the dataset.
        count: Episodes to replay, spread over the dataset.
        checks: Appended to.
    """
    starts = transitions.episode_starts()
    patient = transitions.patient[starts]
    ids = [bank.patients[i] for i in transitions.present]
    expected = recipe_seeds(manifest, ids)
    layout = np.repeat(transitions.present, recipe.episodes)
    same = np.array_equal(seeds, expected) and np.array_equal(patient, layout)
    detail = f"{recipe.episodes} episodes of each of {len(ids)} patients, seeded from {recipe.seed}"
    checks.append(Check("seeds", same, detail if same else f"seeds or patients are not those of the recipe ({detail})"))
    sample = np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))
    ends = np.r_[starts[1:], len(transitions)]
    worst, where = 0.0, -1
    for number in sample:
        rows = transitions.select(slice(int(starts[number]), int(ends[number])))
        gap = _replay_gap(rows, int(seeds[number]), bank, recipe)
        if not gap <= worst:
            worst, where = gap, int(number)
    ok = worst <= REPLAY_TOLERANCE
    at = "" if ok else f" in episode {where}"
    checks.append(Check("replay", ok, f"{len(sample)} episodes in the environment, largest difference {worst:.1e}{at}"))
    _check_behavior(transitions, seeds, starts, ends, sample, bank, recipe, manifest, checks)


def _replay_gap(rows: Transitions, seed: int, bank: SimulatorBank, recipe: Recipe) -> float:
    """Largest difference between a stored episode and its replay in the single environment; inf if it ends earlier."""
    from medgym_offline.envs import TreatmentEnv

    env = TreatmentEnv(
        patient=int(rows.patient[0]),
        timing=recipe.timing,
        decisions=recipe.decisions,
        reward=recipe.played_reward,
        bank=bank,
        world=recipe.world,
    )
    observation, _ = env.reset(seed=seed)
    gap, over = 0.0, False
    for i in range(len(rows)):
        if over:
            return float("inf")
        gap = max(gap, float(np.abs(observation - rows.observations[i]).max()))
        observation, reward, over, _, info = env.step(rows.actions[i])
        # What the environment does not tell is compared where the behavior plays again.
        names = {key: name for key, name in info_names(bank.disease).items() if name in info}
        found = [reward, *(info[name] for name in names.values())]
        stored = [rows.rewards[i], *(getattr(rows, "costs" if key == "cost" else key)[i] for key in names)]
        gap = max(gap, float(np.abs(np.subtract(found, stored)).max()))
        gap = max(gap, float(np.abs(observation - rows.next_observations[i]).max()))
    return gap if over else float("inf")


def _turn(number: int, recipe: Recipe, behavior: Behavior) -> int:
    """Which policy of a mix plays episode `number` of the dataset: patients have `recipe.episodes` each."""
    return (number % recipe.episodes) % max(len(behavior.parts), 1)


def _check_behavior(
    transitions: Transitions,
    seeds: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    sample: np.ndarray,
    bank: SimulatorBank,
    recipe: Recipe,
    manifest: dict[str, Any],
    checks: list[Check],
) -> None:
    """The behavior policy, run again from the sampled seeds, takes the stored actions."""
    try:
        behavior = recipe_behavior(recipe, bank)
    except MedGymError as error:
        checks.append(Check("behavior", False, str(error)))
        return
    if behavior.digest != manifest["behavior"]["sha256"]:
        checks.append(Check("behavior", False, f"policy {behavior.name} is not the one the dataset was made with"))
        return
    worst = 0.0
    remaining = list(sample)
    while remaining:
        # One batch of one episode each of different patients, all of the same policy of a mix.
        turn = _turn(remaining[0], recipe, behavior)
        same = [number for number in remaining if _turn(number, recipe, behavior) == turn]
        of_patient = {int(transitions.patient[starts[number]]): number for number in reversed(same)}
        remaining = [number for number in remaining if number not in of_patient.values()]
        numbers = list(of_patient.values())
        rolled = play(
            bank.select(list(of_patient)),
            behavior.of_episode(turn),
            process_config(recipe, bank.disease.name),
            seeds[numbers][:, None],
            recipe.perturbation,
        )
        log_prob = action_log_prob(rolled, behavior.of_episode(turn), recipe.perturbation)
        for i, number in enumerate(numbers):
            actions = rolled.actions[i, 0][rolled.valid[i, 0]].numpy()
            rows = slice(int(starts[number]), int(ends[number]))
            if actions.shape != transitions.actions[rows].shape:
                worst = float("inf")
                continue
            valid = rolled.valid[i, 0]
            assert rolled.costs_path is not None
            assert rolled.costs_peak is not None
            played = {"costs_path": rolled.costs_path, "costs_peak": rolled.costs_peak, "behavior_log_prob": log_prob}
            for name, values in ({"actions": rolled.actions} | played).items():
                again, stored = (
                    values[i, 0][valid].double().numpy(),
                    getattr(transitions, name)[rows].astype(np.float64),
                )
                # Relative where large: a log-probability divides a difference of actions by the noise's variance.
                gap = np.abs(again - stored) / np.maximum(1.0, np.abs(stored))
                gap[np.isnan(again) & np.isnan(stored)] = 0.0  # no probability, then as now
                worst = max(worst, float(np.nan_to_num(gap, nan=np.inf).max()))
    detail = f"{len(sample)} episodes of policy {behavior.name} again from their seeds, largest difference {worst:.1e}"
    checks.append(Check("behavior", worst <= REPLAY_TOLERANCE, detail))
