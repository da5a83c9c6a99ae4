"""Generation that is interrupted goes on, ends with the same bytes, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medgym_offline.datasets import GeneratedDataset, Recipe, generate, shards
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.errors import DatasetError
from medgym_offline.files import cache_folder, sha256_file


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 1)


class _Stopped:
    """Plays shards and is interrupted before the one numbered `at`; counts those played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None):
        self.at, self.played = at, 0
        self._play = shards.play_shard
        monkeypatch.setattr(shards, "play_shard", self)

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        if self.played == self.at:
            raise KeyboardInterrupt
        self.played += 1
        return self._play(*arguments)


def work() -> list[str]:
    home = cache_folder() / "generate"
    return sorted(p.name for p in home.rglob("*") if p.is_file()) if home.is_dir() else []


def test_an_interrupted_run_goes_on(recipe, small_shards, tmp_path, monkeypatch, capsys):
    whole = generate(recipe, root=tmp_path / "whole", progress=False)
    assert work() == []
    play = shards.play_shard
    stopped = _Stopped(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        generate(recipe, root=tmp_path / "again", progress=False)
    assert stopped.played == 3
    assert len([name for name in work() if name.startswith("p")]) == 3
    assert not any((tmp_path / "again").rglob("*.hdf5"))
    monkeypatch.setattr(shards, "play_shard", play)
    rest = _Stopped(monkeypatch, at=None)
    again = generate(recipe, root=tmp_path / "again", progress=True)
    assert rest.played == 1
    assert "going on after 3 of 4 shards" in capsys.readouterr().err
    assert sha256_file(again.path / DATA_FILE) == sha256_file(whole.path / DATA_FILE)
    assert again.manifest["content_hash"] == whole.manifest["content_hash"]
    assert work() == []


def test_a_damaged_shard_is_played_again(recipe, small_shards, tmp_path, monkeypatch):
    play = shards.play_shard
    _Stopped(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        generate(recipe, root=tmp_path, progress=False)
    path = next((cache_folder() / "generate").rglob("p0001*.safetensors"))
    path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.setattr(shards, "play_shard", play)
    rest = _Stopped(monkeypatch, at=None)
    generate(recipe, root=tmp_path, progress=False)
    assert rest.played == 2


def test_two_processes_give_the_same_bytes(made: GeneratedDataset, recipe: Recipe, tmp_path: Path) -> None:
    again = generate(recipe, root=tmp_path, progress=False, workers=2)
    assert sha256_file(again.path / DATA_FILE) == sha256_file(made.path / DATA_FILE)


def test_one_process_at_a_time(recipe: Recipe, tmp_path: Path) -> None:
    with (
        shards.work_folder(tmp_path / recipe.id),
        pytest.raises(DatasetError, match="another process is generating this dataset") as caught,
    ):
        generate(recipe, root=tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert generate(recipe, root=tmp_path, progress=False).episodes == 12
