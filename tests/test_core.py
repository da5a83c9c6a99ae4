"""Seeds, files, errors, stacked networks and public names."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import medgym_offline
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, cache_folder
from medgym_offline.seeds import derive_seed, generator, torch_generator
from medgym_offline.stack import StackedMLP, clip_gradients
from tests.helpers import refused


def test_streams_differ_by_every_part_of_their_name_and_repeat():
    names = [(0, "a", "p"), (1, "a", "p"), (0, "b", "p"), (0, "a", "q"), (0, "a", "p", 0), (0, "ap")]
    seeds = [derive_seed(*n) for n in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= s < 2**63 for s in seeds)
    assert (generator(3, "x", 5).random(4) == generator(3, "x", 5).random(4)).all()
    assert torch.equal(*(torch.rand(3, generator=torch_generator(3, "x")) for _ in range(2)))


HELP = "import medgym_offline.cli as c, contextlib\nwith contextlib.suppress(SystemExit): c.main(['train', '--help'])"
LIGHT = {
    "import gymnasium, medgym_offline as m; dir(m); assert 'medgym/Toy-v0' in gymnasium.registry": "torch minari h5py",
    "import medgym_offline; assert medgym_offline.list_datasets()": "torch h5py datasets",
    "import medgym_offline.envs": "torch",
    "from medgym_offline.evaluation import Evaluation, compare, write_report": "torch scipy minari",
    HELP: "torch minari h5py scipy huggingface_hub",
}


@pytest.mark.parametrize("code", LIGHT)
def test_what_is_read_or_listed_imports_nothing_heavy(code):
    heavy = {*LIGHT[code].split(), "matplotlib", "polars"}
    code += f"\nimport sys; assert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gradients_are_clipped_patient_by_patient():
    stack = StackedMLP(2, (3, 4, 1))
    x = torch.randn(2, 6, 3)
    (stack(x) * torch.tensor([1.0, 1000.0]).view(2, 1, 1)).sum().backward()
    parameters = list(stack.parameters())
    before = parameters[0].grad[0].clone()
    norm = clip_gradients(parameters, 50.0)
    assert norm[0] < 50.0 < norm[1]
    assert torch.equal(parameters[0].grad[0], before)
    after = np.sqrt(sum(float(p.grad[1].square().sum()) for p in parameters))
    assert after == pytest.approx(50.0, rel=1e-4)


def test_every_module_imports_and_hides_no_exported_name():
    """A module that nothing imports yet must not be broken unseen.

    And a lazily exported function must not share its name with a submodule, whose import would hide it.
    """
    modules = pkgutil.walk_packages(medgym_offline.__path__, "medgym_offline.", onerror=pytest.fail)
    found = [importlib.import_module(module.name) for module in modules]
    assert "medgym_offline.diseases.toy.model" in [module.__name__ for module in found]
    for package in found:
        for exported in getattr(package, "__all__", ()) if hasattr(package, "__path__") else ():
            assert not isinstance(getattr(package, exported), types.ModuleType), f"{package.__name__}.{exported}"


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
@pytest.mark.parametrize("at", ["inside", "between"])
def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path, at, monkeypatch):
    """Killed inside the block, or between the two renames of a replaced folder: then the old one is put back first."""
    target, other = tmp_path / "folder", tmp_path / ".folder-other.tmp"
    target.mkdir()
    other.mkdir()
    (target / "old").write_text("whole")
    if not os.fork():
        die, rename = partial(os.kill, os.getpid(), signal.SIGKILL), os.rename
        if at == "between":
            monkeypatch.setattr(os, "rename", lambda old, new: (rename(old, new), die()))
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("half")
            if at == "inside":
                die()
        os._exit(1)
    assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    assert target.exists() == (at == "inside")
    with pytest.raises(RuntimeError, match="fails"), atomic_path(target):
        raise RuntimeError("the next run fails")
    assert (target / "old").read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == [other, target]


def test_temporaries_of_living_processes_are_left_alone(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
    assert target.read_text() == "first"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path / "file"))
    assert cache_folder("datasets") == tmp_path / "file" / "datasets"
    refused(MedGymError, "set MEDGYM_CACHE", lambda: cache_folder("generate", write=True))
    monkeypatch.delenv("MEDGYM_CACHE")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("no home")))
    refused(MedGymError, "set MEDGYM_CACHE", cache_folder)
