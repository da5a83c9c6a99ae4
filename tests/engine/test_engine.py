"""Engines: the same results everywhere, and what a death costs."""

import importlib.util
import socket

import numpy as np
import pytest
import torch

from medgym_offline.engine import decode, encode, run
from medgym_offline.errors import MedGymError, MissingExtraError, UnknownNameError
from tests.engine.shards import always_killed, chain, counted, killed_once, refuses
from tests.helpers import refused

NAMES = ("a", "b", "c", "d")


def same(found, wanted):
    return [(name, encode(value)) for name, value in found.items()] == [(n, encode(v)) for n, v in wanted.items()]


@pytest.fixture(scope="module")
def undisturbed():
    return run(chain, {name: (name,) for name in NAMES}, progress=False)


def test_results_go_through_bytes_and_come_back():
    value = {"t": torch.arange(6.0).view(2, 3).T, "n": np.array([True, False]), "list": [1, (2.5, None, "x")], "e": {}}
    back = decode(encode(value))
    assert torch.equal(back["t"], value["t"])
    assert (back["n"].dtype, back["list"], type(back["list"][1])) == (bool, value["list"], tuple)
    assert encode(back) == encode(value)
    with pytest.raises(TypeError, match="returned a set"):
        encode({1, 2})
    with pytest.raises(ValueError, match="not a shard"):
        decode(encode(value)[:-1])


def test_a_killed_worker_costs_its_shard(undisturbed, tmp_path, capfd):
    shards = {name: (name, str(tmp_path), "d") for name in NAMES}
    found = run(killed_once, shards, engine="process", workers=2, progress=False)
    assert same(found, undisturbed)
    assert [len((tmp_path / name).read_text().split()) for name in NAMES] == [1, 1, 1, 2]
    assert "shard d died; again" in capfd.readouterr().err


def test_a_shard_lost_for_good_is_named_and_the_others_are_kept(undisturbed, tmp_path):
    shards = {name: (name, "b") for name in NAMES}
    with pytest.raises(MedGymError, match=r"shard b died .*3 of 4 shards are kept") as error:
        run(always_killed, shards, engine="process", workers=2, folder=tmp_path, key=1, progress=False)
    assert "\n" not in str(error.value)
    assert sorted(file.stem for file in tmp_path.glob("*.safetensors")) == ["a", "c", "d"]
    # With the cause gone, only the lost shard is computed.
    (tmp_path / "marks").mkdir()
    again = {name: (name, str(tmp_path / "marks"), "") for name in NAMES}
    found = run(killed_once, again, folder=tmp_path, key=1, progress=False)
    assert [path.name for path in (tmp_path / "marks").iterdir()] == ["b"]
    assert same(found, undisturbed)


def test_an_error_in_a_shard_is_raised_after_the_others(tmp_path):
    shards = {name: (name, "b", True) for name in NAMES}
    with pytest.raises(MedGymError, match="shard b: dose is -1"):
        run(refuses, shards, folder=tmp_path, key=1, progress=False)
    assert sorted(file.stem for file in tmp_path.glob("*.safetensors")) == ["a", "c", "d"]
    with pytest.raises(ZeroDivisionError):  # a bug stays a bug
        run(refuses, {"b": ("b", "b", False)}, progress=False)


def test_finished_shards_are_not_done_again_and_damaged_ones_are(tmp_path):
    (tmp_path / "marks").mkdir()
    shards = {name: (name, str(tmp_path / "marks")) for name in NAMES}
    for _ in range(2):
        assert run(counted, shards, folder=tmp_path / "run", key={"v": 1}, progress=False) == {n: n for n in NAMES}
    file = tmp_path / "run" / "c.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    run(counted, shards, folder=tmp_path / "run", key={"v": 1}, progress=False)
    assert {n: len((tmp_path / "marks" / n).read_text()) for n in NAMES} == {"a": 1, "b": 1, "c": 2, "d": 1}


def test_a_folder_of_another_recipe_is_refused_with_the_difference(tmp_path):
    run(chain, {"a": ("a",)}, folder=tmp_path, key={"training": {"radius": 0.01}, "seed": 0}, progress=False)
    with pytest.raises(MedGymError, match=r"another recipe \(training.radius: 0.01 -> 0.02\)"):
        run(chain, {"a": ("a",)}, folder=tmp_path, key={"training": {"radius": 0.02}, "seed": 0}, progress=False)


def test_wrong_choices_are_one_line(monkeypatch):
    with pytest.raises(UnknownNameError, match="unknown engine 'proces'; did you mean 'process'"):
        run(chain, {"a": ("a",)}, engine="proces")
    refused(MedGymError, "at least 1", lambda: run(chain, {"a": ("a",)}, engine="process", workers=0))
    refused(MedGymError, "for engine 'ray'", lambda: run(chain, {"a": ("a",)}, address="10.0.0.1:6379"))
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    refused(MissingExtraError, r"medgym-offline\[cluster\]", lambda: run(chain, {"a": ("a",)}, engine="ray"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_an_unreachable_cluster_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(MedGymError, match=f"no Ray cluster answers at 127.0.0.1:{port}") as error:
        run(chain, {"a": ("a",)}, engine="ray", address=f"127.0.0.1:{port}")
    assert "\n" not in str(error.value)
    refused(MedGymError, "HOST:PORT", lambda: run(chain, {"a": ("a",)}, engine="ray", address="somewhere"))
