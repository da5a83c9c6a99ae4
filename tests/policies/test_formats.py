"""One contract over every format of a policy: what comes back from a file acts as what was written."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.export import export_onnx, export_program, export_torchscript
from medgym_offline.policies.files import patient_file_stem, patient_of_stem
from medgym_offline.policies.files import save_policy as save
from medgym_offline.policies.foreign import EXTRA_FILE
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.loading import load_policy
from medgym_offline.sequences import NETWORKS, window_width
from medgym_offline.stack import StackedMLP, Steps
from tests.helpers import refused

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
IDS = ("mimic-iii/1", "mimic-iv/2", "c")
OBSERVATIONS = torch.randn(3, 20, 9, generator=torch.Generator().manual_seed(0))
KINDS = ("tanh", "relu", "silu", "codebook")
EXPORTS = {".pt": export_torchscript}
EXPORTS |= {".pt2": export_program} if find_spec("torch.export.pt2_archive") else {}
EXPORTS |= {".onnx": export_onnx} if find_spec("onnxruntime") else {}


def actor(kind, shared, width=4):
    ids, count = (None, 1) if shared else (IDS, 3)
    if kind == "codebook":
        net = StackedMLP(count, (9, 8, 6), "relu", seeds=range(count))
        book = 2.0 * torch.rand((count, 6, width), generator=torch.Generator().manual_seed(1)) - 1.0
        return StackedActor(net, ids, 20, provenance={"algorithm": "test"}, codebook=book)
    net = StackedMLP(count, (9, 8, 8, width), kind, seeds=range(count))
    spread = torch.linspace(-2, -1, count * width).view(count, width)
    return StackedActor(net, ids, 20, spread, {"algorithm": "test"})


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shared", "width"), [(False, 4), (True, 3)])
def test_own_files_hold_everything(tmp_path, suffix, kind, shared, width):
    policy = actor(kind, shared, width)
    again = load_policy(save(policy, tmp_path / f"p{suffix}"))
    assert torch.equal(again.act(OBSERVATIONS), policy.act(OBSERVATIONS))
    if policy.log_std is not None:
        actions = policy.act(OBSERVATIONS) * 0.5
        assert torch.equal(again.log_prob(OBSERVATIONS, actions), policy.log_prob(OBSERVATIONS, actions))
    for field in ("patients", "decisions", "timing", "scope", "action_dim", "observation_dim"):
        assert getattr(again, field) == getattr(policy, field)
    assert again.provenance["algorithm"] == "test"
    half = load_policy(save(policy, tmp_path / f"half{suffix}", torch.float16))
    assert half.act(OBSERVATIONS).shape == (3, 20, width)
    # The same policy is the same bytes, and nothing is left behind.
    assert save(policy, tmp_path / f"q{suffix}").read_bytes() == (tmp_path / f"p{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", EXPORTS)
@pytest.mark.parametrize(("kind", "shared"), [*zip(KINDS, (False, True, True, False)), ("codebook", True)])
def test_exports_act_alike(tmp_path, suffix, kind, shared):
    export = EXPORTS[suffix]
    policy = actor(kind, shared)
    wanted = policy.act(OBSERVATIONS)
    found = load_policy(export(policy, tmp_path / ("exported" + suffix * shared)))
    assert (found.decisions, found.timing) == (20, "adaptive")
    if not shared:
        assert set(found.patients) == set(IDS)
        found = found.select(IDS)
        one = load_policy(export(policy, tmp_path / f"one{suffix}", patient="mimic-iv/2"))
        torch.testing.assert_close(one.act(OBSERVATIONS[1:2]), wanted[1:2], rtol=0, atol=1e-6)
        refused(MedGymError, "mimic-iv/2", lambda: export(policy, tmp_path / f"x{suffix}", patient="mimic-iv/22"))
    torch.testing.assert_close(found.act(OBSERVATIONS), wanted, rtol=0, atol=1e-6)
    assert isinstance(found.act(OBSERVATIONS.numpy()), np.ndarray)


def remembering(kind, shared, width=4, history=3):
    ids, count = (None, 1) if shared else (IDS, 3)
    sizes = (window_width(9, width, history), 8, 8, width)
    net = NETWORKS[kind](count, sizes, "relu", seeds=range(count), steps=Steps(history, width))
    return HistoryPolicy(StackedActor(net, ids, 20, provenance={"algorithm": "test"}), history)


NETS = [("mlp", False, 3), ("gru", True, 4), ("gru", False, 3), ("transformer", True, 4)]


@pytest.mark.parametrize("suffix", EXPORTS)
@pytest.mark.parametrize(("kind", "shared", "width"), NETS)
def test_what_is_remembered_lies_outside_the_file(tmp_path, suffix, kind, shared, width):
    """Decision after decision, in a batch of any size, with what was played in place of what was answered."""
    policy = remembering(kind, shared, width)
    found = load_policy(EXPORTS[suffix](policy, tmp_path / ("exported" + suffix * shared)))
    assert isinstance(found, HistoryPolicy)
    for field in ("history", "decisions", "timing", "observation_dim", "action_dim"):
        assert getattr(found, field) == getattr(policy, field)
    assert found.provenance["algorithm"] == "test"
    found = found if shared else found.select(IDS)
    for episodes in (20, 7):
        for one in (found, policy):
            one.reset(np.zeros((3, episodes)))
        for k in range(5):
            seen = OBSERVATIONS[:, :episodes].roll(k, 2)
            seen[..., -2] = 1.0 - 0.1 * k
            answer = found.act(seen)
            torch.testing.assert_close(answer, policy.act(seen), rtol=0, atol=1e-5)
            for one in (found, policy):
                one.took(answer + 0.1)


CONTRADICTIONS = [{"history": 5}, {"history": 1}, {"history": "3"}, {"timing": "fixed"}, {"disease": "asthma"}]


@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_a_header_that_contradicts_its_network_is_one_line(tmp_path, change):
    path = export_torchscript(remembering("mlp", True), tmp_path / "p.pt")
    extra = {EXTRA_FILE: ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    torch.jit.save(module, str(path), _extra_files={EXTRA_FILE: json.dumps(json.loads(extra[EXTRA_FILE]) | change)})
    refused(MedGymError, r"p\.pt: ", lambda: load_policy(path))


def test_files_of_patients_have_names_of_their_own(tmp_path):
    alike = ("a/b", "a__b", "a_/b", "a/_b", "a___b", "a//b", "a%2Fb", "a%5F%5Fb", ".a", "_", "__", "/", "a_b", "a.b")
    stems = [patient_file_stem(name) for name in alike]
    assert [patient_of_stem(stem) for stem in stems] == list(alike)
    assert not any("/" in stem or stem.startswith(".") for stem in stems)
    stack = StackedActor(StackedMLP(len(alike), (9, 8, 4), seeds=range(len(alike))), alike)
    again = load_policy(export_torchscript(stack, tmp_path / "folder"))
    observations = OBSERVATIONS[:1].expand(len(alike), -1, -1)
    torch.testing.assert_close(again.select(alike).act(observations), stack.act(observations), rtol=0, atol=1e-6)
