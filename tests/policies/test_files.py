"""Policy files: what is written is read back, and everything else is refused in one line."""

import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medgym_offline.errors import MedGymError
from medgym_offline.policies import ModulePolicy, load_policy, save_policy
from tests.helpers import edit
from tests.policies.test_formats import EXPORTS, IDS, OBSERVATIONS, actor, remembering

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def unreadable(path, words, **options):
    """Loading is refused in one line that names the file."""
    with pytest.raises(MedGymError, match=words) as caught:
        load_policy(path, **options)
    assert str(path) in str(caught.value)
    assert re.fullmatch(".{,399}", str(caught.value))


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pkl", ".d3"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "torch-legacy"])
def test_a_pickle_is_refused_unopened(tmp_path, suffix, kind):
    marker, path = tmp_path / "executed", tmp_path / f"p{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(marker)))
    else:
        content = {"header": "{}", "tensors": Trap(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    unreadable(path, "run code")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap works"


WRONG = [
    ("mlp", {"format": "medgym-policy/9"}, {}, "'medgym-policy/9' is not 'medgym-policy/1'"),
    ("mlp", {"timing": "fixed"}, {}, "output width 4 with timing 'fixed'"),
    ("mlp", {"sizes": [9, 8, 4]}, {}, "do not have the shapes"),
    ("mlp", {"patients": ["a", "b"]}, {}, "2 networks"),
    ("mlp", {"patients": ["a", "a", "b"]}, {}, "same patient twice"),
    ("mlp", {"activation": "eval"}, {}, "unknown activation 'eval'"),
    ("mlp", {"decisions": -2}, {}, "'decisions' is -2"),
    ("mlp", {}, {"layers.0.bias": None}, "do not have the shapes"),
    ("mlp", {}, {"extra": torch.zeros(2)}, "do not have the shapes"),
    ("mlp", {}, {"layers.2.bias": torch.full((3, 1, 4), torch.nan)}, "layers.2.bias is not finite"),
    ("mlp", {}, {"log_std": torch.zeros(2, 4)}, "log_std has shape"),
    ("transformer", {"history": 4}, {}, "input width 39, expected 54 columns of history=4"),
    ("transformer", {"history": 1}, {}, "input width 39, expected 9 observation columns"),
    ("transformer", {"history": 0}, {}, "history"),
    ("transformer", {"network": "lstm"}, {}, "network"),
    ("transformer", {"network": "mlp"}, {}, "tensors do not have the shapes"),
    ("transformer", {"sizes": [39, 7, 8, 4]}, {}, "hidden widths of a transformer"),
    ("transformer", {"sizes": [39, 4]}, {}, r"'transformer' with sizes \[39, 4\]"),
]


@pytest.mark.parametrize(("kind", "header", "tensors", "words"), WRONG)
def test_header_and_tensors_are_checked(tmp_path, kind, header, tensors, words):
    path = tmp_path / "p.safetensors"
    policy = actor("tanh", False) if kind == "mlp" else remembering(kind, False)
    edit(save_policy(policy, path), path, header, **tensors)
    unreadable(path, words)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path, suffix, keep):
    path = save_policy(actor("tanh", False), tmp_path / f"p{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    unreadable(path, "")


def test_foreign_tensors_and_archives(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme.txt", "no policy")
    said = {"w.safetensors": "without the metadata", "w.pt": "without the policy header", "z.pt": ""}
    for name, words in (said | {"absent.pt": "no such policy"}).items():
        unreadable(tmp_path / name, words)


def test_size_limit_counts_unpacked_bytes(tmp_path):
    path = save_policy(actor("tanh", False), tmp_path / "p.safetensors")
    unreadable(path, "over the limit", max_bytes=100)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    assert bomb.stat().st_size < 100_000
    unreadable(bomb, "unpacks to more than", max_bytes=1_000_000)


def test_a_repeated_number_is_not_unpacked(tmp_path):
    """A few bytes of a checkpoint, with stride 0, may claim a matrix of terabytes."""
    path = save_policy(actor("tanh", True), tmp_path / "p.pt")
    content = torch.load(path, weights_only=True)
    content["tensors"]["layers.1.weight"] = torch.zeros(1).expand(1, 10**6, 10**6)
    torch.save(content, path)
    assert path.stat().st_size < 20_000
    unreadable(path, "tensors take more than 512 MB")


def script(path, module, inputs=9):
    torch.jit.save(torch.jit.trace(module, torch.zeros(2, inputs)), str(path))
    return path


def program(path, module):
    example, free = torch.zeros(3, 9), {0: torch.export.Dim("N")}
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=(free,)), path)
    return path


class Odd(nn.Module):
    """Operators beyond those of our own networks: reshapes with a symbolic size, norms, tables, choices."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 12), nn.GELU())
        self.register_buffer("table", torch.rand(12, 3))

    def forward(self, x):
        scores = self.net(x).reshape(x.shape[0], 2, 6).flatten(1)
        first = torch.where(scores.softmax(-1).amax(-1, keepdim=True) > 0.1, scores[:, :1], scores[:, 1:2])
        return torch.cat([self.table[scores.argmax(-1)], first.clamp(-1, 1)], -1)


FIXED = nn.Sequential(nn.Linear(9, 3), nn.Tanh())
SAVED = [(script, "p.pt")] + [(program, "p.pt2")] * (".pt2" in EXPORTS)


@pytest.mark.parametrize(("save", "name"), SAVED)
@pytest.mark.parametrize(("module", "timing"), [(FIXED, "fixed"), (Odd().eval(), "adaptive")])
def test_a_module_of_somebody_else_is_batched_over_patients(tmp_path, save, name, module, timing):
    policy = load_policy(save(tmp_path / name, module))
    assert isinstance(policy, ModulePolicy)
    assert (policy.timing, policy.patients, policy.decisions) == (timing, None, None)
    wanted = torch.stack([module(OBSERVATIONS[p]) for p in range(3)])
    torch.testing.assert_close(policy.act(OBSERVATIONS), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(policy.act(OBSERVATIONS[:1, :1]), wanted[:1, :1], rtol=0, atol=1e-6)
    assert isinstance(policy.act(OBSERVATIONS.numpy()), np.ndarray)


def one_row(x: torch.Tensor) -> torch.Tensor:
    """Right for one observation, whatever is asked."""
    return x.view(1, 9)[:, :4]


def test_torchscript_of_wrong_shape_is_refused(tmp_path):
    broken = nn.Linear(9, 4)
    nn.init.constant_(broken.bias, float("nan"))
    unreadable(script(tmp_path / "in.pt", nn.Linear(8, 4), 8), "fails on 2 observations of 9 columns")
    unreadable(script(tmp_path / "out.pt", nn.Linear(9, 5)), r"with \(2, 5\), not \(2, 3\) or \(2, 4\)")
    unreadable(script(tmp_path / "nan.pt", broken), "not finite")
    torch.jit.script(one_row).save(str(tmp_path / "one.pt"))
    unreadable(tmp_path / "one.pt", r"2 observations .*free batch axis")


def reader(x: torch.Tensor) -> torch.Tensor:
    return x[:, :4] + torch.from_file("/tmp/medgym-torchscript-marker", shared=True, size=4)


def test_torchscript_that_touches_files_is_refused(tmp_path):
    torch.jit.script(reader).save(str(tmp_path / "p.pt"))
    unreadable(tmp_path / "p.pt", "from_file")
    assert not Path("/tmp/medgym-torchscript-marker").exists()


def test_a_folder_of_our_files_becomes_one_stack_and_others_are_refused(tmp_path):
    for stack in (remembering("mlp", False), actor("tanh", False)):
        for patient in IDS:
            save_policy(stack.select([patient]), tmp_path / f"{patient.replace('/', '__')}.safetensors")
        again = load_policy(tmp_path).select(IDS)
        assert type(again) is type(stack)
        for seen in (OBSERVATIONS, OBSERVATIONS.flip(1)):
            assert torch.equal(again.act(seen), stack.act(seen))
    save_policy(remembering("mlp", False).select(["c"]), tmp_path / "c.safetensors")
    unreadable(tmp_path, "policies with a history are of one form in a folder")
    (tmp_path / "c.safetensors").rename(tmp_path / "d.safetensors")
    unreadable(tmp_path, "its name says d")
    (tmp_path / "empty").mkdir()
    unreadable(tmp_path / "empty", "no policy files")
    script(tmp_path / "empty" / "a.pt", nn.Linear(9, 4))
    script(tmp_path / "empty" / "b.pt", nn.Linear(9, 3))
    unreadable(tmp_path / "empty", "the policies of a and b differ")


def test_onnx_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "p.onnx").write_bytes(b"\x08\x09" + bytes(50))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    unreadable(tmp_path / "p.onnx", r"pip install .medgym-offline\[onnx\].")


def onnx_model(weight, shape=("n", 9), constant=False):
    """tanh(x @ weight) as an ONNX model, its weights an initializer or an attribute."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    tensor = onnx.numpy_helper.from_array(weight.astype(np.float32), "w")
    nodes = [node("Constant", [], ["w"], value=tensor)] if constant else []
    nodes += [node("MatMul", ["x", "w"], ["m"]), node("Tanh", ["m"], ["y"])]
    taken = value("x", onnx.TensorProto.FLOAT, list(shape))
    given = value("y", onnx.TensorProto.FLOAT, [shape[0], weight.shape[1]])
    graph = onnx.helper.make_graph(nodes, "policy", [taken], [given], [] if constant else [tensor])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("constant", [False, True])
def test_onnx_with_weights_in_a_second_file_is_refused(tmp_path, constant, monkeypatch):
    """Its bytes, and so its sha256, are the same whatever the weights: what is read must be one file."""
    weight, path = np.random.default_rng(0).normal(size=(9, 4)), tmp_path / "p.onnx"
    onnx, seen = pytest.importorskip("onnx"), set()
    for sign in (1.0, -1.0):
        for file in tmp_path.iterdir():
            file.unlink()
        model, split = onnx_model(sign * weight, constant=constant), {"location": "w.data", "size_threshold": 0}
        onnx.save(model, path, save_as_external_data=True, convert_attribute=constant, **split)
        seen.add(path.read_bytes())
        for where in (tmp_path, tmp_path.parent):
            monkeypatch.chdir(where)
            unreadable(path, r"second file \('w.data'\).*external_data=False")
        onnx.save(onnx.load(path), tmp_path / "whole.onnx")  # the remedy
        found = load_policy(tmp_path / "whole.onnx").act(OBSERVATIONS).numpy()
        np.testing.assert_allclose(found, np.tanh(OBSERVATIONS.numpy() @ (sign * weight)), atol=1e-5)
    assert len(seen) == 1


@pytest.mark.parametrize("batch", [1, 32])
def test_onnx_with_a_fixed_batch_names_the_axis(tmp_path, batch):
    (tmp_path / "p.onnx").write_bytes(onnx_model(np.ones((9, 4)), (batch, 9)).SerializeToString())
    unreadable(tmp_path / "p.onnx", rf"takes x \({batch}, 9\)\); .*free batch axis N: dynamic_axes")


def test_onnx_without_an_input_or_with_another_width_is_told_what_to_export(tmp_path):
    model = onnx_model(np.ones((9, 5)))
    (tmp_path / "wide.onnx").write_bytes(model.SerializeToString())
    unreadable(tmp_path / "wide.onnx", r"with \(2, 5\), not \(2, 3\) or \(2, 4\); export a function")
    del model.graph.node[:], model.graph.input[:]
    model.graph.initializer[0].name = "y"
    (tmp_path / "none.onnx").write_bytes(model.SerializeToString())
    unreadable(tmp_path / "none.onnx", r"takes nothing\); export a function from observations")
