"""What is refused before d3rlpy is needed, and the line that says how to install it."""

import sys

from tests.leaderboard.conftest import _workshop, shop
from tests.leaderboard.workshop import DATASET, refused

__all__ = ["_workshop", "shop"]


def test_without_d3rlpy_one_line_says_how_to_install_it(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    line = refused("train", "d3rlpy-iql", "--dataset", DATASET, "--output", "runs/iql")
    assert line.endswith('pip install "medgym-offline[d3rlpy]"')
    assert "d3rlpy-iql needs d3rlpy" in line
