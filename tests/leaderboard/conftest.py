import shutil
from pathlib import Path

import pytest

from medgym_offline.leaderboard import read_submission
from tests.leaderboard.workshop import build, run

_built = {}


@pytest.fixture(scope="session")
def _workshop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", "")
        patch.setenv("MEDGYM_CACHE", "")
        if "shop" not in _built:
            _built["shop"] = build(tmp_path_factory.mktemp("workshop"))
    return _built["shop"]


@pytest.fixture
def shop(_workshop, monkeypatch, tmp_path):
    """The workshop, with its datasets visible and an empty working directory."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(_workshop.minari))
    monkeypatch.setenv("MEDGYM_CACHE", str(_workshop.root / "cache"))
    monkeypatch.chdir(tmp_path)
    return _workshop


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
