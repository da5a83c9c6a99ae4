"""Programs of torch.export: equal to what they were made from, and nothing in a file runs but its graph."""

import io
import json
import pickle
import zipfile
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from medgym_offline.errors import PolicyError
from medgym_offline.policies import load_policy
from tests.helpers import refused
from tests.policies.test_files import Trap

pytestmark = pytest.mark.skipif(find_spec("torch.export.pt2_archive") is None, reason="torch saves another archive")
OBSERVATIONS = torch.linspace(-2, 2, 3 * 7 * 9).reshape(3, 7, 9)


class Odd(nn.Module):
    """Operators beyond those of our own networks: reshapes with a symbolic size, norms, tables, choices."""

    table: Tensor

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 12), nn.GELU())
        self.register_buffer("table", torch.rand(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x).reshape(x.shape[0], 2, 6).flatten(1)
        first = torch.where(scores.softmax(-1).amax(-1, keepdim=True) > 0.1, scores[:, :1], scores[:, 1:2])
        return torch.cat([self.table[scores.argmax(-1)], first.clamp(-1, 1)], -1)


def saved(module, path):
    program = torch.export.export(module, (torch.zeros(3, 9),), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.export.save(program, path)
    return path


def edited(path, change):
    """The archive with other contents."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def graph_of(files):
    name = next(n for n in files if "/models/" in n)
    return name, json.loads(files[name])


def test_a_program_of_somebody_else(tmp_path):
    module = Odd().eval()
    policy = load_policy(saved(module, tmp_path / "odd.pt2"))
    with torch.no_grad():
        wanted = module(OBSERVATIONS.flatten(0, 1)).view(3, 7, 4)
    torch.testing.assert_close(policy.act(OBSERVATIONS), wanted)
    assert policy.act(OBSERVATIONS[:1, :1]).shape == (1, 1, 4)


def pickled(marker):
    buffer = io.BytesIO()
    torch.save(Trap(marker), buffer)
    return buffer.getvalue()


def _weights(files, marker):
    name = next(n for n in files if n.endswith("model_weights_config.json"))
    config = json.loads(files[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    files[f"{name.rpartition('/')[0]}/{entry['path_name']}"] = pickled(marker)
    files[name] = json.dumps(config).encode()


def _operator(target):
    def change(files, marker):
        name, model = graph_of(files)
        model["graph_module"]["graph"]["nodes"][0]["target"] = target
        files[name] = json.dumps(model).encode()

    return change


def _beyond(files, marker):
    name = next(n for n in files if n.endswith("model_weights_config.json"))
    config = json.loads(files[name])
    next(iter(config["config"].values()))["tensor_meta"]["storage_offset"]["as_int"] = 2**40
    files[name] = json.dumps(config).encode()


def _short(files, marker):
    name, model = graph_of(files)
    del model["graph_module"]["signature"]
    files[name] = json.dumps(model).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_weights, "a Python pickle"),
        (_operator("torch.ops.aten.from_file.default"), "from_file"),
        (_operator("torch.ops.aten.linear.default.__class__"), "none of the operators"),
        (_operator("os.system"), "os.system"),
        (_operator("torch.ops.higher_order.while_loop"), "while_loop"),
        (_beyond, "damaged torch.export program"),
        (_short, "damaged torch.export program"),
    ],
)
def test_a_hostile_or_damaged_file_is_one_line(change, message, tmp_path):
    marker = tmp_path / "ran"
    path = edited(saved(Odd(), tmp_path / "odd.pt2"), lambda files: change(files, marker))
    refused(PolicyError, message, lambda: load_policy(path))
    assert not marker.exists()


def test_pickles_beside_the_graph_are_never_opened(tmp_path):
    marker = tmp_path / "ran"

    def change(files):
        inputs = next(n for n in files if "sample_inputs" in n)
        files[inputs] = pickled(marker)
        files[inputs.replace("model.pt", "other.pt")] = pickle.dumps(Trap(marker))

    policy = load_policy(edited(saved(Odd(), tmp_path / "odd.pt2"), change))
    assert policy.act(OBSERVATIONS).shape == (3, 7, 4)
    assert not marker.exists()
