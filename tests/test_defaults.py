"""Torch's default type and device are the caller's: results do not depend on them, and they are left as they are."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medgym_offline.datasets import generate, load_dataset
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.sepsis.model import prior_bank
from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.evaluation import evaluate
from medgym_offline.offline import PROFILES, train
from medgym_offline.policies import StackedActor, export_torchscript, load_policy, save_policy
from medgym_offline.simulators import load_simulators
from medgym_offline.stack import StackedMLP
from tests.helpers import mapped_bank


def bits(*values):
    arrays = [v.detach().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for v in values]
    return tuple(str(a.dtype).encode() + a.tobytes() for a in arrays)


def everything(folder):
    """One result of each entry point, to the bit."""
    folder.mkdir()
    file = folder / "bank.safetensors"
    mapped_bank(1).save(file)
    bank = load_simulators(file)
    found = {"bank": (bank.content_hash, bits(bank.initial_state(), bank.noise_scale))}
    found["prior"] = prior_bank(patients=1, seed=3).content_hash
    for name, env in (("env", TreatmentEnv(bank=bank)), ("envs", TreatmentVectorEnv(bank=bank, num_envs=3))):
        first = env.reset(seed=1, options={"state": [90.0, 80.0, 1.0, 10.0, 1000.0, 2.0]})
        step = env.step(np.zeros(env.action_space.shape, np.float32))
        found[name] = bits(first[0], *first[1].values(), *step[:2], *step[4].values())
    actor = StackedActor(StackedMLP(1, (9, 8, 4), seeds=[1]))
    files = [save_policy(actor, folder / "p.safetensors"), save_policy(actor, folder / "p.pt")]
    files.append(export_torchscript(actor, folder / "script.pt"))
    observations = np.linspace(-1, 1, 18, dtype=np.float32).reshape(1, 2, 9)
    found["policies"] = [bits(load_policy(file).act(observations)) for file in files]
    for policy in ("random", "clinician", str(files[0]), str(files[2])):
        result = evaluate(policy, bank=bank, decisions=4, episodes=1, worlds=["own"])
        found[f"evaluate {Path(policy).name}"] = result.metrics
    recipe = Recipe("medgym/default-v0", "", str(file), "random", episodes=2, decisions=4, seed=3)
    found["generate"] = generate(recipe, root=folder, progress=False).manifest["content_hash"]
    rows = load_dataset(recipe.id, root=folder, progress=False)
    config = PROFILES["quick"].changed(["updates=2", "hidden=8"])
    found["train"] = bits(*train("gcql", rows, config=config, progress=False).policy.state_dict().values())
    return found


@pytest.fixture(params=[(torch.float64, None), (torch.float32, "meta")], ids=str)
def other(request):
    """Other defaults, as a caller's program may have set them."""
    torch.set_default_dtype(request.param[0])
    torch.set_default_device(request.param[1])
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plain")
        patch.setenv("MEDGYM_CACHE", str(folder / "cache"))
        return everything(folder / "all")


def state():
    return torch.get_default_dtype(), torch.empty(0).device.type


def test_results_do_not_depend_on_the_callers_defaults(wanted, other, tmp_path):
    before = state()
    assert everything(tmp_path / "all") == wanted
    assert state() == before


def test_a_callers_policy_acts_with_its_own_defaults(other):
    seen, before = set(), state()

    def act(observations):
        seen.add(state())
        return np.zeros((*observations.shape[:2], 3))

    evaluate(SimpleNamespace(act=act), bank=prior_bank(patients=1), decisions=3, episodes=1, worlds=["own"])
    assert seen == {before}
