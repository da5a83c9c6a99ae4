from __future__ import annotations

from pathlib import Path

import pytest

from tests.leaderboard.workshop import Workshop, build

_built: dict[str, Workshop] = {}


@pytest.fixture(scope="session")
def _workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", "")
        patch.setenv("MEDGYM_CACHE", "")
        if "shop" not in _built:
            _built["shop"] = build(tmp_path_factory.mktemp("workshop"))
    return _built["shop"]


@pytest.fixture
def shop(_workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workshop:
    """The workshop, with its datasets visible and an empty working directory."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(_workshop.minari))
    monkeypatch.setenv("MEDGYM_CACHE", str(_workshop.root / "cache"))
    monkeypatch.chdir(tmp_path)
    return _workshop
