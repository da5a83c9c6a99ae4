"""Programs of torch.export: nothing in a file runs but its graph."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from medgym_offline.errors import PolicyError
from medgym_offline.policies.loading import load_policy
from tests.helpers import refused
from tests.policies.test_files import Odd, Trap, program
from tests.policies.test_formats import EXPORTS

pytestmark = pytest.mark.skipif(".pt2" not in EXPORTS, reason="torch saves another archive")
RAN = Path("ran")
"""What a trap leaves in the working directory."""


def edited(folder, part, change):
    """A program in `folder` whose JSON of such a name was changed; `change` gets the bytes of the other files too."""
    path = program(folder / "odd.pt2", Odd().eval())
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if part in name)
    content = json.loads(files[name])
    change(content, files)
    with zipfile.ZipFile(path, "w") as archive:
        for other, held in (files | {name: json.dumps(content).encode()}).items():
            archive.writestr(other, held)
    return path


def pickled():
    buffer = io.BytesIO()
    torch.save(Trap(RAN), buffer)
    return buffer.getvalue()


def weights_are_a_pickle(config, files):
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    files[next(name for name in files if name.endswith(entry["path_name"]))] = pickled()


def weights_lie_beyond(config, files):
    next(iter(config["config"].values()))["tensor_meta"]["storage_offset"]["as_int"] = 2**40


def has_no_signature(model, files):
    del model["graph_module"]["signature"]


def calls(target):
    return lambda model, files: model["graph_module"]["graph"]["nodes"][0].update(target=target)


HOSTILE = [
    ("model_weights_config.json", weights_are_a_pickle, "a Python pickle"),
    ("/models/", calls("torch.ops.aten.from_file.default"), "from_file"),
    ("/models/", calls("torch.ops.aten.linear.default.__class__"), "none of the operators"),
    ("/models/", calls("os.system"), "os.system"),
    ("/models/", calls("torch.ops.higher_order.while_loop"), "while_loop"),
    ("model_weights_config.json", weights_lie_beyond, "damaged torch.export program"),
    ("/models/", has_no_signature, "damaged torch.export program"),
]


@pytest.mark.parametrize(("part", "change", "message"), HOSTILE)
def test_a_hostile_or_damaged_file_is_one_line(part, change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = edited(tmp_path, part, change)
    refused(PolicyError, message, lambda: load_policy(path))
    assert not RAN.exists()


def test_pickles_beside_the_graph_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(_, files):
        inputs = next(n for n in files if "sample_inputs" in n)
        files |= {inputs: pickled(), inputs.replace("model.pt", "other.pt"): pickle.dumps(Trap(RAN))}

    policy = load_policy(edited(tmp_path, "/models/", change))
    assert policy.act(torch.zeros(3, 7, 9)).shape == (3, 7, 4)
    assert not RAN.exists()
