"""A disease that the generic code has never heard of goes the whole way: records to entry."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medgym_offline as mgo
from medgym_offline.cli import app
from medgym_offline.datasets import Recipe, generate, load_dataset, verify
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.train import train as train_online
from medgym_offline.policies import load_policy, save_policy
from medgym_offline.policies.export import export_onnx, export_torchscript


def test_records_say_who_needs_more_insulin(toy_bank):
    own, true = (toy_bank.current(world).params.tensors() for world in ("own", "true"))
    order = np.corrcoef(own["sensitivity"].log().flatten(), true["sensitivity"].log().flatten())[0, 1]
    assert order > 0.8
    assert toy_bank.worlds == ("own", "crossfit", "true")


def test_the_truth_is_the_minimal_model(toy_bank):
    """Untreated glucose follows the exact solution G(t) = Gb + (G0 - Gb) exp(-p1 t)."""
    truth = toy_bank.world("true")
    p = truth.current().params.tensors()
    x = truth.initial_state().unsqueeze(1)
    start = truth.denormalize(x)[:, 0, 0]
    end = truth.denormalize(truth.flow(x, torch.zeros(4, 1, 1), torch.full((4, 1), 5.0)))[:, 0, 0]
    basal = p["basal"][:, 0]
    torch.testing.assert_close(end, basal + (start - basal) * torch.exp(-5.0 * p["p1"][:, 0]), rtol=2e-3, atol=0.2)


def test_from_records_to_an_entry(toy_bank, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    bank_file, behavior_file = tmp_path / "toy-quick.safetensors", tmp_path / "behavior.safetensors"
    toy_bank.save(bank_file)
    process = ProcessConfig(disease="toy")
    found = train_online(toy_bank, process, TrainConfig(updates=2, episodes=8, hidden=16), progress=False)
    save_policy(found.policy, behavior_file)
    recipe = Recipe(
        id="medgym/toy-chain-v0",
        description="A chain.",
        bank=str(bank_file),
        behavior=str(behavior_file),
        decisions=6,
        episodes=6,
        perturbation=0.3,
        world="true",
    )
    made = generate(recipe, progress=False)
    assert verify(made.id, progress=False).ok
    rows = load_dataset(made.id, progress=False)
    assert (rows.disease, rows.observation_dim, rows.action_dim) == ("toy", 3, 2)
    stored = json.loads((made.path / "data" / "metadata.json").read_text(encoding="utf-8"))
    assert stored["medgym"]["disease"] == "toy"
    results = []
    for algorithm in ("bc", "cql"):
        policy = train(algorithm, rows, "ind", 0, OfflineConfig(updates=20, hidden=16, batch=16), progress=False).policy
        path = save_policy(policy, tmp_path / f"{algorithm}.pt")
        assert load_policy(path).disease == "toy"
        result = mgo.evaluate(path, bank=toy_bank, episodes=3, dataset=rows)
        assert set(result.worlds) == {"own", "crossfit", "true"}
        assert {"severity_mean", "safe_path", "support_distance"} <= set(result.metrics)
        results.append(tmp_path / algorithm)
        result.write(results[-1])
        shutil.copy(path, results[-1])
    done = CliRunner().invoke(
        app, ["submit", str(results[0]), "--name", "BC on the toy", "--output", str(tmp_path / "e")]
    )
    assert done.exit_code == 0, done.output
    entry = next((tmp_path / "e").rglob("entry.json"))
    assert json.loads(entry.read_text(encoding="utf-8"))["disease"] == "toy"


@pytest.mark.parametrize("export", [export_torchscript, export_onnx])
def test_exported_policies_carry_their_disease(export, toy_bank, tmp_path):
    found = train_online(
        toy_bank,
        ProcessConfig(disease="toy"),
        TrainConfig(updates=1, episodes=2, hidden=8, shared=True),
        progress=False,
    )
    path = export(found.policy, tmp_path / ("p.pt" if export is export_torchscript else "p.onnx"))
    policy = load_policy(path)
    assert (policy.disease, policy.observation_dim, policy.action_dim) == ("toy", 3, 2)
    with pytest.raises(MedGymError, match="was made for toy, bank 'sepsis-v0' is of sepsis"):
        mgo.evaluate(path, bank="sepsis-v0", patients=1, episodes=1)
