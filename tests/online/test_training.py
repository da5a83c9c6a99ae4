"""Training end to end on unfitted simulators, with every algorithm: learning, independence, resume, damage."""

import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.errors import MedGymError, PolicyError, UnknownNameError
from medgym_offline.online.config import ALGORITHMS, TrainConfig
from medgym_offline.online.rollouts import training_noise
from medgym_offline.online.train import load_state, train
from medgym_offline.simulators import load_simulators
from tests.helpers import refused

FIXED = ProcessConfig(timing="fixed", decisions=5, cell=6.0)
ADAPTIVE = ProcessConfig(timing="adaptive", decisions=5, cell=6.0)
COMMON = {"updates": 4, "episodes": 4, "hidden": 8, "value_warmup": 1}
SOFT = TrainConfig("sac", **COMMON, soft_capacity=100, soft_batch=16, soft_steps=3)
SMALL = {
    "trpo": TrainConfig("trpo-lag", **COMMON),
    "ppo": TrainConfig("ppo-lag", **COMMON, policy_epochs=2, minibatch=8),
    "sac": SOFT,
}
LEARNING = {
    "trpo": TrainConfig("trpo-lag", updates=25, episodes=16, hidden=32, radius=0.05, initial_std=1.0),
    "ppo": TrainConfig("ppo", updates=20, episodes=16, hidden=16, initial_std=1.0, minibatch=16, policy_rate=3e-3),
    "sac": TrainConfig(
        "sac", updates=15, episodes=16, hidden=16, initial_std=1.0, soft_capacity=2000,
        soft_batch=64, soft_steps=40, soft_rate=3e-3, soft_tau=0.02,
    ),
}  # fmt: skip
every = pytest.mark.parametrize("name", ["trpo", "ppo", "sac"])
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.mark.parametrize(("name", "process"), [("trpo", FIXED), ("ppo", ADAPTIVE), ("sac", ADAPTIVE)])
def test_learning_beats_random_and_zero_for_every_patient(tiny_bank, name, process):
    learned = train(tiny_bank, process, LEARNING[name], progress=False)
    noise, width = torch.Generator().manual_seed(0), process.action_dim
    nothing = -torch.ones(width)
    nothing[3:] = 2 * (96 / 5 - 0.5) / 35.5 - 1

    def returns(act):
        """Mean return per patient over 16 episodes with seeds that training never used."""
        drawn = draw_noise(episode_seeds(99, "test", tiny_bank.patients, 16), tiny_bank, process)
        return rollout(DecisionProcess(tiny_bank, process), act, drawn).rewards.sum(-1).mean(-1)

    ours = returns(learned.policy.act)
    random = returns(lambda seen: 2 * torch.rand((*seen.shape[:2], width), generator=noise) - 1)
    zero = returns(lambda seen: nothing.expand(*seen.shape[:2], -1))
    assert (ours > random + 5).all(), (ours, random)
    assert name != "trpo" or (ours > zero + 1).all(), (ours, zero)
    log, updates = learned.log, LEARNING[name].updates
    assert log["return"].shape == (updates, 4)
    assert learned.stopped == {}
    assert (log["kl"][:2] == 0).all(), "the critic learns first"
    assert (log["kl"][2:] > 0).any(1).all()
    if name == "ppo":
        assert (log["multiplier"] == 0).all()
    if name == "sac":
        assert torch.allclose(log["alpha"][:2], torch.tensor(0.005))
        assert (log["alpha"][2] < log["alpha"][1]).all(), "the first policy has more entropy than is wanted"


@every
def test_results_do_not_depend_on_shards_or_order(tiny_bank, name):
    def parameters(bank, shard):
        return train(bank, ADAPTIVE, SMALL[name], shard=shard, progress=False).state.actor

    together, order = parameters(tiny_bank, 4), [2, 0, 3, 1]
    torch.testing.assert_close(parameters(tiny_bank.select(order), 3), together[order], **CLOSE)
    torch.testing.assert_close(parameters(tiny_bank.select([1]), 4), together[1:2], **CLOSE)

    config = dataclasses.replace(SMALL[name], shared=True)
    whole, cut = (train(tiny_bank, FIXED, config, shard=shard, progress=False) for shard in (4, 1))
    torch.testing.assert_close(cut.state.actor, whole.state.actor, **CLOSE)
    assert whole.policy.patients is None
    assert whole.state.actor.shape[0] == 1
    assert (whole.log["return"].shape, whole.log["kl"].shape) == ((4, 4), (4, 1))


@pytest.mark.parametrize(
    ("disease", "view", "algorithm"),
    [("toy", "noisy", "trpo"), ("toy", "charted", "ppo-lag"), ("toy", "charted", "sac"),
     ("diabetes", "full", "trpo-lag"), ("diabetes", "full", "sac"),
     ("anesthesia", "full", "trpo-lag"), ("anesthesia", "full", "sac")],
)  # fmt: skip
def test_views_and_events_are_of_the_patient_and_the_policy_says_so(disease, view, algorithm):
    bank, process = load_simulators(f"{disease}-v0").select(3), ProcessConfig(disease=disease, view=view)
    groups = bank.select([2]), bank
    one, three = (training_noise(0, "x", some, process, 5, 3) for some in groups)
    for name, drawn in vars(one).items():
        assert (drawn is None) == (getattr(three, name) is None)
        assert drawn is None or torch.equal(drawn[0], getattr(three, name)[2]), name
    config = TrainConfig(algorithm, **COMMON, damping=1.0, soft_capacity=200, soft_batch=16, soft_steps=3)
    alone, together = (train(some, process, config, progress=False) for some in groups)
    torch.testing.assert_close(alone.state.actor, together.state.actor[2:3], **CLOSE)
    policy = together.policy
    assert (policy.disease, policy.view, policy.observation_dim) == (disease, view, process.observation_dim)
    assert together.stopped == {}


@every
@pytest.mark.parametrize("shared", [False, True], ids=["ind", "dr"])
def test_resume_equals_uninterrupted(tiny_bank, tmp_path, name, shared):
    config = dataclasses.replace(SMALL[name], updates=5, shared=shared)
    whole = train(tiny_bank, ADAPTIVE, config, progress=False)

    def kill(state):
        state.kept["seen"] = torch.tensor([state.update])
        if state.update == 3:
            raise InterruptedError

    file = tmp_path / "run.safetensors"
    settings = {"checkpoint": file, "checkpoint_every": 2, "progress": False}
    with pytest.raises(InterruptedError):
        train(tiny_bank, ADAPTIVE, config, watch=kill, **settings)
    size = file.stat().st_size
    resumed = train(tiny_bank, ADAPTIVE, config, **settings)
    assert resumed.state.kept["seen"] == 2, "what is kept is of the checkpoint"
    for key, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[key]), key
    if name == "sac":
        buffer = whole.state.learner["replay"]
        assert size - file.stat().st_size > 0.9 * buffer.numel() * 4, "the last checkpoint has no buffer"
    again = train(tiny_bank, ADAPTIVE, config, **settings)
    assert torch.equal(again.state.actor, whole.state.actor)


def test_resume_of_another_recipe_is_refused(tiny_bank, tmp_path):
    file = tmp_path / "run.safetensors"
    config = dataclasses.replace(SOFT, updates=1)
    train(tiny_bank, FIXED, config, checkpoint=file, progress=False)
    with pytest.raises(MedGymError, match=r"config\.soft_tau: 0\.01 -> 0\.5.*delete it or use its recipe"):
        train(tiny_bank, FIXED, dataclasses.replace(config, soft_tau=0.5), checkpoint=file, progress=False)
    file.write_bytes(file.read_bytes()[:100])
    refused(MedGymError, "not a readable checkpoint", lambda: load_state(file, {}))


@every
def test_a_broken_simulator_stops_its_patient_only(tiny_bank, monkeypatch, name):
    clean = train(tiny_bank, FIXED, SMALL[name], progress=False)
    observe, calls = DecisionProcess.observe, 0

    def damaged(self, episodes):
        nonlocal calls
        calls += 1
        seen = observe(self, episodes)
        if calls > 10:  # from the third update on
            seen[1] = float("nan")
        return seen

    monkeypatch.setattr(DecisionProcess, "observe", damaged)
    result = train(tiny_bank, FIXED, SMALL[name], progress=False)
    assert result.stopped == result.policy.provenance["stopped"] == {tiny_bank.patients[1]: 2}
    others = [0, 2, 3]
    torch.testing.assert_close(result.state.actor[others], clean.state.actor[others], **CLOSE)
    for value in (result.state.actor, result.state.critic, *result.state.learner.values()):
        assert torch.isfinite(value).all()
    if name == "sac":
        assert int(result.state.learner["filled"][1]) == 40, "what it broke in is not learnt from"


def test_fine_tuning_starts_from_the_shared_policy(tiny_bank):
    small = SMALL["trpo"]
    shared = train(tiny_bank, FIXED, dataclasses.replace(small, shared=True), progress=False).policy
    config = dataclasses.replace(small, updates=1, reset_std=0.35)
    copied = train(tiny_bank, FIXED, config, shared, progress=False).policy
    x = torch.randn(4, 5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copied.act(x), shared.act(x))
    torch.testing.assert_close(copied.log_std, torch.full((4, 3), 0.35).log())
    refused(PolicyError, "training expects", lambda: train(tiny_bank, ADAPTIVE, config, shared, progress=False))
    with pytest.raises(PolicyError, match="cannot start from a policy per patient"):
        train(tiny_bank, FIXED, dataclasses.replace(config, shared=True), copied, progress=False)


def test_multiplier_follows_the_cost_and_cost_alone_is_lowered(tiny_bank):
    """The logged multipliers are the hand-computed recursion; weighted that strongly, the cost goes down."""
    config = TrainConfig(updates=20, episodes=12, hidden=16, radius=0.05, initial_std=1.0, cost_limit=1.5)
    config = dataclasses.replace(config, multiplier_rate=4.0, multiplier_max=30.0)
    log = train(tiny_bank, FIXED, config, progress=False).log
    value = np.zeros(4)
    for cost, multiplier in zip(log["cost"].numpy(), log["multiplier"].numpy()):
        value = np.clip(value + 4.0 * (cost - 1.5), 0.0, 30.0)
        np.testing.assert_allclose(multiplier, value, rtol=1e-4, atol=1e-4)
    assert (log["multiplier"][-1] > 1).any(), "the limit binds for somebody"
    assert log["cost"][-4:].mean() < log["cost"][:4].mean() - 0.1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("radius", 0.0), ("updates", 0), ("clip", 0.0), ("policy_epochs", 0), ("minibatch", 0), ("entropy", -1.0),
        ("policy_rate", 0.0), ("soft_steps", 0), ("soft_batch", 0), ("soft_capacity", 0), ("soft_rate", 0.0),
        ("soft_tau", 0.0), ("soft_alpha", 0.0), ("discount", 1.5), ("reset_std", 0.0), ("episodes", "many"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(setting, value):
    refused(MedGymError, setting, lambda: TrainConfig(**{setting: value}))


def test_settings_are_checked(tiny_bank):
    refused(UnknownNameError, "trpo-lag", lambda: TrainConfig(algorithm="trpo-lagg"))
    refused(UnknownNameError, "updates", lambda: TrainConfig.from_dict({"update": 3}))
    for config in SMALL.values():
        assert TrainConfig.from_dict(config.to_dict()) == config
    assert [TrainConfig(a).constrained for a in ALGORITHMS] == [a.endswith("-lag") for a in ALGORITHMS]
    assert not any(name.startswith("soft_") for name in TrainConfig("ppo").to_dict())
    for shared, least in ((False, 20), (True, 80)):
        config = dataclasses.replace(SOFT, shared=shared, soft_capacity=least - 1)
        with pytest.raises(MedGymError, match=f"soft_capacity is {least - 1}, .* up to {least} decisions"):
            train(tiny_bank, FIXED, config, progress=False)
