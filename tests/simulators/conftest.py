"""Fields, flows and their audit are tested on the solver."""

import pytest


@pytest.fixture(scope="session")
def tiny_bank(solver_bank):
    return solver_bank
