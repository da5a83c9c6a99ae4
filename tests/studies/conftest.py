"""One small study of two patients of a shipped bank that several tests read; no test knows its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medgym_offline.online.runs import EngineOptions
from medgym_offline.simulators import SimulatorBank, load_simulators
from medgym_offline.studies.online import run_online_study
from medgym_offline.studies.recipe import StudyRecipe

SETTINGS = {"updates": 2, "episodes": 4, "hidden": 8, "value_warmup": 1, "radius": 0.1}

RECIPE = StudyRecipe(
    name="test",
    algorithms=("trpo", "trpo-lag"),
    decisions=4,
    budget_decisions=(3, 4),
    behaviors="trained",
    episodes=2,
    backend="map",
    case_episodes=2,
    case_percentiles=(0.0, 100.0),
    shard=2,
    ceiling_steps=2,
    ceiling_refine=0,
    settings=dict.fromkeys(("pop", "dr", "ind", "ind-scratch"), SETTINGS),
)


@pytest.fixture(scope="session")
def two() -> SimulatorBank:
    """Two patients with a solution map, which is several times faster than the solver in so small a batch."""
    return load_simulators("sepsis-v0").select([0, 1])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="session")
def result(two: SimulatorBank, folder: Path) -> dict[str, Any]:
    return run_online_study(RECIPE, folder, bank=two, options=EngineOptions(), progress=False)
