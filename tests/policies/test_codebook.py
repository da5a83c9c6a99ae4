"""Policies that choose from a codebook: acting, selecting, files and exports, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medgym_offline.errors import PolicyError
from medgym_offline.policies import (
    PolicyCollection,
    StackedActor,
    export_onnx,
    export_torchscript,
    load_policy,
    save_policy,
)
from medgym_offline.stack import StackedMLP

IDS = ("mimic-iii/1", "mimic-iv/2", "c")
OBSERVATIONS = torch.randn(3, 40, 9, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def chooser(width: int = 4, shared: bool = False, words: int = 6, one_book: bool = False) -> StackedActor:
    count = 1 if shared else 3
    net = StackedMLP(count, (9, 8, words), "relu", seeds=range(count))
    generator = torch.Generator().manual_seed(1)
    codebook = 2.0 * torch.rand((1 if one_book else count, words, width), generator=generator) - 1.0
    return StackedActor(net, None if shared else IDS, 20, provenance={"algorithm": "test"}, codebook=codebook)


@pytest.mark.parametrize("one_book", [False, True])
@pytest.mark.parametrize("width", [3, 4])
def test_acts_with_the_codeword_of_the_largest_output(width: int, one_book: bool) -> None:
    policy = chooser(width, one_book=one_book)
    assert (policy.action_dim, policy.timing) == (width, {3: "fixed", 4: "adaptive"}[width])
    actions = policy.act(OBSERVATIONS)
    weights = {k: v.double().numpy() for k, v in policy.net.state_dict().items()}
    assert policy.codebook is not None
    seen = set()
    for p in range(3):
        for b in range(40):
            h = np.maximum(OBSERVATIONS[p, b].double().numpy() @ weights["layers.0.weight"][p], 0.0)
            best = int(np.argmax(h @ weights["layers.1.weight"][p] + weights["layers.1.bias"][p, 0]))
            assert torch.equal(actions[p, b], policy.codebook[0 if one_book else p, best])
            seen.add((p, best))
    assert len(seen) > 6  # more than two codewords per patient are used
    assert isinstance(policy.act(OBSERVATIONS.numpy()), np.ndarray)


@pytest.mark.parametrize("one_book", [False, True])
def test_select_and_concatenate(one_book: bool) -> None:
    policy = chooser(one_book=one_book)
    wanted = policy.act(OBSERVATIONS)
    chosen = policy.select(["c", "mimic-iii/1"])
    assert torch.equal(chosen.act(OBSERVATIONS[[2, 0]]), wanted[[2, 0]])
    together = StackedActor.concatenate([policy.select([p]) for p in IDS])
    assert together.patients == IDS
    assert torch.equal(together.act(OBSERVATIONS), wanted)
    continuous = StackedActor(StackedMLP(1, (9, 8, 4), "relu"), ["x"], 20)
    four = chooser(words=4)
    with pytest.raises(PolicyError, match="different shape"):
        StackedActor.concatenate([four, continuous])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("shared", [False, True])
def test_round_trip(tmp_path: Path, suffix: str, shared: bool) -> None:
    policy = chooser(3, shared)
    again = load_policy(save_policy(policy, tmp_path / f"p{suffix}"))
    assert isinstance(again, StackedActor)
    assert torch.equal(again.act(OBSERVATIONS), policy.act(OBSERVATIONS))
    assert (again.action_dim, again.timing, again.decisions) == (3, "fixed", 20)
    half = load_policy(save_policy(policy, tmp_path / f"half{suffix}", torch.float16))
    assert half.act(OBSERVATIONS).shape == (3, 40, 3)


@pytest.mark.parametrize("shared", [False, True])
def test_torchscript_export_chooses_the_same_codewords(tmp_path: Path, shared: bool) -> None:
    policy = chooser(shared=shared)
    again = load_policy(export_torchscript(policy, tmp_path / "exported"))
    assert isinstance(again, PolicyCollection) != shared
    assert again.decisions == 20
    if not shared:
        again = again.select(IDS)  # type: ignore[attr-defined]
    assert torch.equal(again.act(OBSERVATIONS), policy.act(OBSERVATIONS))


@pytest.mark.parametrize("kind", ["codebook", "tanh", "relu", "silu"])
@pytest.mark.parametrize("shared", [False, True])
def test_onnx_export_acts_alike(tmp_path: Path, kind: str, shared: bool) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    count = 1 if shared else 3
    if kind == "codebook":
        policy = chooser(shared=shared)
    else:
        net = StackedMLP(count, (9, 8, 8, 4), kind, seeds=range(count))
        policy = StackedActor(net, None if shared else IDS, 20)
    again = load_policy(export_onnx(policy, tmp_path / ("p.onnx" if shared else "folder")))
    assert again.decisions == 20
    if not shared:
        again = again.select(IDS)  # type: ignore[attr-defined]
    assert (again.act(OBSERVATIONS) - policy.act(OBSERVATIONS)).abs().max() < 1e-6
    if not shared:
        one = load_policy(export_onnx(policy, tmp_path / "one.onnx", patient="c"))
        assert (one.act(OBSERVATIONS[2:]) - policy.act(OBSERVATIONS)[2:]).abs().max() < 1e-6


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    net = StackedMLP(3, (9, 8, 6), "relu")
    with pytest.raises(PolicyError, match=r"codebook has shape \(3, 5, 4\), expected \(3 or 1, 6, A\)"):
        StackedActor(net, IDS, codebook=torch.zeros(3, 5, 4))
    with pytest.raises(PolicyError, match="outside"):
        StackedActor(net, IDS, codebook=torch.full((3, 6, 4), 1.5))
    with pytest.raises(PolicyError, match="width 5"):
        StackedActor(net, IDS, codebook=torch.zeros(3, 6, 5))
    with pytest.raises(PolicyError, match="log_std"):
        StackedActor(net, IDS, codebook=torch.zeros(3, 6, 4), log_std=torch.zeros(1, 6))
    path = save_policy(chooser(), tmp_path / "p.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for broken in (tensors["codebook"][:, :5], tensors["codebook"][0], tensors["codebook"] * torch.nan):
        save_file({**tensors, "codebook": broken.contiguous()}, path, metadata=metadata)
        with pytest.raises(PolicyError) as error:
            load_policy(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
