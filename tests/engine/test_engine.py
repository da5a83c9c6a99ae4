"""Engines: the same results everywhere, and what a death costs."""

import socket
import sys
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from medgym_offline.engine import decode, encode, run
from medgym_offline.errors import MedGymError, MissingExtraError, UnknownNameError
from tests.engine.shards import attempts, chain, computed, fails, killed
from tests.helpers import refused

ONE = {"a": ("a",)}


@pytest.fixture(scope="module")
def undisturbed():
    return computed(chain)


def kept(folder):
    return sorted(file.stem for file in folder.glob("*.safetensors"))


def test_results_go_through_bytes_and_come_back():
    value = {"t": torch.arange(6.0).view(2, 3).T, "n": np.array([True, False]), "list": [1, (2.5, None, "x")], "e": {}}
    back = decode(encode(value))
    assert torch.equal(back["t"], value["t"])
    assert (back["n"].dtype, back["list"], type(back["list"][1])) == (bool, value["list"], tuple)
    assert encode(back) == encode(value)
    refused(TypeError, "returned a set", lambda: encode({1, 2}))
    refused(ValueError, "not a shard", lambda: decode(encode(value)[:-1]))


def test_a_killed_worker_costs_its_shard(undisturbed, tmp_path, capfd):
    assert computed(killed, tmp_path, "d", engine="process", workers=2) == undisturbed
    assert attempts(tmp_path) == [1, 1, 1, 2]
    assert "shard d died; again" in capfd.readouterr().err


def test_a_shard_lost_for_good_is_named_and_the_others_are_kept(undisturbed, tmp_path):
    (tmp_path / "marks").mkdir()
    compute = partial(computed, killed, tmp_path / "marks", folder=tmp_path, key=1)
    lost = partial(compute, "b", 9, engine="process", workers=2)
    refused(MedGymError, r"shard b died .*3 of 4 shards are kept", lost)
    assert kept(tmp_path) == ["a", "c", "d"]
    # With the cause gone, only the lost shard is computed.
    before = attempts(tmp_path / "marks")
    assert compute() == undisturbed
    assert attempts(tmp_path / "marks") == [1, before[1] + 1, 1, 1]


def test_an_error_in_a_shard_is_raised_after_the_others(tmp_path):
    for error, words in ((MedGymError("dose is -1"), "shard b: dose is -1"), (ZeroDivisionError("a bug"), "^a bug$")):
        folder = tmp_path / type(error).__name__
        refused(type(error), words, partial(computed, fails, "b", error, folder=folder, key=1))
        assert kept(folder) == ["a", "c", "d"]


def test_finished_shards_are_not_done_again_and_damaged_ones_are(undisturbed, tmp_path):
    (tmp_path / "marks").mkdir()
    compute = partial(computed, killed, tmp_path / "marks", folder=tmp_path, key={"v": 1})
    assert compute() == compute() == undisturbed
    file = tmp_path / "c.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    assert compute() == undisturbed
    assert attempts(tmp_path / "marks") == [1, 1, 2, 1]


def test_a_folder_of_another_recipe_is_refused_with_the_difference(tmp_path):
    run(chain, ONE, folder=tmp_path, key={"training": {"radius": 0.01}, "seed": 0}, progress=False)
    other = partial(run, chain, ONE, folder=tmp_path, key={"training": {"radius": 0.02}, "seed": 0}, progress=False)
    refused(MedGymError, r"another recipe \(training.radius: 0.01 -> 0.02\)", other)


def test_wrong_choices_are_one_line(monkeypatch):
    words = "unknown engine 'proces'; did you mean 'process'"
    refused(UnknownNameError, words, lambda: run(chain, ONE, engine="proces"))
    refused(MedGymError, "at least 1", lambda: run(chain, ONE, engine="process", workers=0))
    refused(MedGymError, "for engine 'ray'", lambda: run(chain, ONE, address="10.0.0.1:6379"))
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(MissingExtraError, r"medgym-offline\[cluster\]", lambda: run(chain, ONE, engine="ray"))


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_an_unreachable_cluster_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nobody, words = f"127.0.0.1:{port}", f"no Ray cluster answers at 127.0.0.1:{port}"
    refused(MedGymError, words, lambda: run(chain, ONE, engine="ray", address=nobody))
    refused(MedGymError, "HOST:PORT", lambda: run(chain, ONE, engine="ray", address="somewhere"))
