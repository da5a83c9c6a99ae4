import shutil
from pathlib import Path

import pytest

from medgym_offline.leaderboard import read_submission
from tests.leaderboard.workshop import run


@pytest.fixture
def folder(shop, tmp_path):
    """A good submission of two seeds."""
    made = shop.root / "submission"
    if not made.exists():
        done = run("submit", shop.result(0), shop.result(1), "--name", "My Method", "--output", made)
        assert done.code == 0, done.err
    return Path(shutil.copytree(made, tmp_path / "submission"))


@pytest.fixture
def entry(shop):
    """A real entry of one seed."""
    if not (shop.root / "one").exists():
        assert run("submit", shop.result(0), "--name", "Method", "--output", shop.root / "one").code == 0
    return read_submission(shop.root / "one").entry
