import shutil
from pathlib import Path

import pytest

from medgym_offline.leaderboard.building import submit


@pytest.fixture
def folder(shop, tmp_path):
    """A good submission of two seeds."""
    made = shop.root / "submission"
    if not made.exists():
        submit([shop.result(0), shop.result(1)], "My Method", made)
    return Path(shutil.copytree(made, tmp_path / "submission"))


@pytest.fixture
def entry(shop, tmp_path):
    """A real entry of one seed."""
    return submit([shop.result(0)], "Method", tmp_path / "one").entry
