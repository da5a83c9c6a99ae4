"""Open-loop ceilings of some of a study's patients, in shards: how much room adaptive timing has at the smallest K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.engine import blocks, run
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import bootstrap_interval
from medgym_offline.online.runs import EngineOptions
from medgym_offline.simulators.schedules import CeilingConfig
from medgym_offline.studies.recipe import Sets, StudyRecipe, spread
from medgym_offline.studies.scoring import units_folder

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["GAINS", "ceiling_gains", "gains_in_order", "search_ceilings"]

GAINS = (("fixed", "constant"), ("adaptive", "fixed"), ("adaptive", "constant"), ("fine", "fixed"))
"""Classes of schedules compared: (better, worse)."""


def gains_in_order(ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """`gains` of a result of `search_ceilings` in the order of `GAINS`; a file sorts them by name."""
    return {name: ceilings["gains"][name] for name in (f"{better} over {worse}" for better, worse in GAINS)}


def _search(bank: SimulatorBank, config: CeilingConfig) -> dict[str, Any]:
    """Ceilings of one block of patients; runs in a worker."""
    from medgym_offline.simulators.ceilings import ceilings

    found = ceilings(bank, config, show=False)
    return {"harm": {n: s.harm.double().numpy() for n, s in found.classes.items()}, "seconds": found.seconds}


def search_ceilings(
    bank: SimulatorBank, recipe: StudyRecipe, sets: Sets, folder: Path, options: EngineOptions, progress: bool = True
) -> dict[str, Any] | None:
    """Harm of every class of schedules, patient by patient, in the own world; None where the recipe wants none.

    Args:
        bank: The whole bank; searched through its solution map where it has one, scored by the solver.
        recipe: Steps, and which patients.
        sets: Of the study.
        folder: Keeps finished blocks.
        options: Engine and workers.
        progress: Show progress on standard error.

    Returns:
        `decisions`, `world`, `patients`, `harm` (class -> mean harm per patient, in order), `config`, and `gains` of
        :func:`ceiling_gains`.
    """
    if not recipe.ceiling_steps:
        return None
    patients = spread(sets.release, recipe.ceiling_patients)
    config = CeilingConfig(
        decisions=min((*recipe.budget_decisions, recipe.decisions)),
        steps=recipe.ceiling_steps,
        refine=recipe.ceiling_refine,
        seed=recipe.seed,
    )
    own = bank.world("own")
    ids = [[patients[i] for i in block] for block in blocks(len(patients), recipe.shard)]
    key = {"bank": bank.content_hash, "config": asdict(config), "patients": list(patients), "shard": recipe.shard}
    found = run(
        _search,
        {f"ceilings-{number:03d}": (own.select(block), config) for number, block in enumerate(ids)},
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        folder=units_folder(folder, key),
        key=key,
        title="open-loop ceilings",
        progress=progress,
    )
    parts = list(found.values())
    harm = {name: np.concatenate([part["harm"][name] for part in parts]) for name in parts[0]["harm"]}
    return {
        "decisions": config.decisions,
        "world": own.current_world,
        "patients": list(patients),
        "config": asdict(config),
        "harm": {name: values.round(6).tolist() for name, values in harm.items()},
        "gains": ceiling_gains(harm, Bootstrap()),
    }


def ceiling_gains(harm: dict[str, np.ndarray], bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Gain of one class over another, per cent of the worse one's harm: mean with interval, median, quantiles.

        gain_p = 100 (1 - J_better,p / J_worse,p)

    Args:
        harm: Class -> (P,).
        bootstrap: Of the interval of the mean.
    """
    out = {}
    for better, worse in GAINS:
        gain = 100.0 * (1.0 - harm[better] / harm[worse])
        low, high = bootstrap_interval(gain, bootstrap)
        out[f"{better} over {worse}"] = {
            "mean": float(gain.mean()),
            "low": low,
            "high": high,
            "median": float(np.median(gain)),
            "q90": float(np.quantile(gain, 0.9)),
            "per_patient": gain.round(5).tolist(),
        }
    return out
