"""A bank of the toy disease, fitted in a few seconds."""

import pytest

from medgym_offline.diseases.toy.cohort import build_toy
from medgym_offline.simulators.build import BankRecipe
from medgym_offline.simulators.distill import DistillConfig
from medgym_offline.simulators.fit import FitConfig

FIT = FitConfig(
    population_steps=30, individual_steps=20, population_lr=0.1, individual_lr=0.1, windows=3, hours=6, start_noise=0.0,
    pooling=0.01,
)  # fmt: skip


@pytest.fixture(scope="session")
def toy_bank():
    """Four people, worlds own, crossfit and true."""
    return build_toy(BankRecipe("toy-quick", 4, seed=1, fit=FIT, distill=DistillConfig(steps=0)), show=False)
