"""Learners with a memory: windows of the past in training and acting, and what they make possible."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from medgym_offline.datasets.behaviors import Behavior, play
from medgym_offline.envs import TreatmentEnv
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.envs.rollout import episode_seeds
from medgym_offline.errors import DatasetError, PolicyError
from medgym_offline.evaluation import evaluate
from medgym_offline.evaluation.binding import resolve_policy
from medgym_offline.evaluation.ope.estimators import perturbed_policy
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.offline.data import stack_transitions
from medgym_offline.policies import HistoryPolicy, StackedActor, save_policy
from medgym_offline.sequences import NETWORKS, split_windows, window_width
from medgym_offline.stack import Steps
from tests.helpers import refused
from tests.offline.toy import DECISIONS, toy
from tests.rolled import rolled

RAW = OfflineConfig(history=4, state_scaling="none")


class Recorder(StackedActor):
    """A random function of windows for every patient of a bank, which notes what it was asked."""

    def __init__(self, patients, history=4, kind="mlp"):
        steps = Steps(history, 4)
        sizes = (window_width(9, 4, history), 8, 8, 4)
        net = NETWORKS[kind](len(patients), sizes, "tanh", seeds=range(len(patients)), steps=steps)
        super().__init__(net, patients, 20)
        self.asked: list[Tensor] = []

    def act(self, observations):
        self.asked.append(observations)
        return super().act(observations)


def test_windows_are_those_of_the_definition():
    """Against a loop over rows: newest first, padded with the first observation, nothing of other episodes."""
    data = toy(episodes=5, elapsed=True)
    stacked = stack_transitions(data, "pop", RAW)
    d, a, n, rows = 9, 4, 4, stacked.rows[0].numpy()
    width = window_width(d, a, n)
    assert stacked.state_dim == width
    for i in range(len(data)):
        start = int(np.flatnonzero(data.episode == data.episode[i])[0])
        o, before = data.observations, []
        for k in range(1, n):
            j = i - k
            there = j >= start
            x = [*data.actions[j], o[j, -2] - o[j + 1, -2], 1.0] if there else np.zeros(a + 2)
            before += [*x, *o[max(j, start)]]
        wanted = np.r_[o[i], before].astype(np.float32)
        np.testing.assert_allclose(rows[i, :width], wanted, atol=1e-6)
        following = rows[i, width + a + 2 :]
        np.testing.assert_array_equal(following[:d], data.next_observations[i])
        np.testing.assert_array_equal(following[d : d + a], data.actions[i])
        np.testing.assert_allclose(following[d + a + 2 :], wanted[: width - d - a - 2], atol=1e-6)
    _, present = split_windows(torch.from_numpy(rows[:, :width]), a, n)
    assert present.sum(1).tolist() == [1, 2, 3] * 15


@pytest.mark.parametrize("history", [2, 4, 30])
def test_windows_of_training_are_those_of_acting(tiny_bank, history):
    """With noise on the actions: windows from stored rows, and those that the policy was asked in the rollout."""
    inner = Recorder(tiny_bank.patients, history)
    policy = HistoryPolicy(inner, history)
    data = rolled(tiny_bank, policy.act, episodes=3)
    asked = torch.stack(inner.asked, 2).flatten(0, 1)
    config = OfflineConfig(history=history, state_scaling="none")
    stacked = stack_transitions(data, "pop", config)
    found = (stacked.rows[0, :, : stacked.state_dim].double() * stacked.scale[0] + stacked.mean[0]).float()
    lengths = np.bincount(data.episode)
    wanted = torch.cat([windows[:length] for windows, length in zip(asked, lengths)])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    actions = torch.cat([inner.select([p]).act(found[data.patient == i][None])[0] for i, p in enumerate(data.patients)])
    assert (actions - torch.from_numpy(data.actions)).abs().max() < 0.3  # 0.05 of noise


@pytest.mark.parametrize("kind", ["mlp", "gru", "transformer"])
def test_one_environment_after_the_other_is_the_batch(tiny_bank, kind):
    """Played by `play`, and by a loop over single environments that only resets the environment."""
    behavior = Behavior("memory", "", HistoryPolicy(Recorder(tiny_bank.patients, 4, kind), 4))
    config = ProcessConfig()
    seeds = episode_seeds(3, "test", tiny_bank.patients, 2)
    played = play(tiny_bank, behavior, config, seeds, 0.0)
    for p, patient in enumerate(tiny_bank.patients):
        alone = behavior.policy.select([patient])
        for b in range(2):
            env = TreatmentEnv(patient, bank=tiny_bank)
            observation, _ = env.reset(seed=int(seeds[p, b]))
            done, k = False, 0
            while not done:
                action = alone.act(observation[None, None])[0, 0]
                np.testing.assert_allclose(action, played.actions[p, b, k], atol=2e-4)
                observation, _, done, _, _ = env.step(action)
                k += 1


def test_a_mix_of_behaviors_remembers_what_each_played(tiny_bank):
    one, other = (HistoryPolicy(Recorder(tiny_bank.patients, n), n) for n in (2, 3))
    seeds = episode_seeds(0, "test", tiny_bank.patients, 5)
    mix = Behavior("mix", "", None, (Behavior("one", "", one), Behavior("other", "", other)))
    played = play(tiny_bank, mix, ProcessConfig(), seeds, 0.05)
    for policy, first in ((one, 0), (other, 1)):
        asked = policy.inner.asked[2]
        np.testing.assert_array_equal(asked[..., 9:13], played.actions[:, first::2, 1].float())
    apart = play(tiny_bank, Behavior("one", "", one), ProcessConfig(), seeds[:, ::2], 0.05)
    torch.testing.assert_close(apart.actions, played.actions[:, ::2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_networks_see_the_past_of_the_episode_alone(kind):
    """What is marked as missing changes nothing; what is there does; a stack is its networks one by one."""
    net = NETWORKS[kind](3, (window_width(9, 4, 5), 8, 8, 4), "relu", seeds=[4, 5, 6], steps=Steps(5, 4))
    windows = torch.randn(3, 6, window_width(9, 4, 5), generator=torch.Generator().manual_seed(0))
    marks = torch.tensor([9 + 5 + k * 15 for k in range(4)])
    windows[..., marks] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    other = windows.clone()
    other[..., marks[2] - 5 : marks[2]] += 1.0  # action and interval before the earliest decision of the episode
    other[..., marks[2] + 1 : marks[3]] += 1.0
    other[..., marks[3] + 1 :] -= 1.0
    if kind == "gru":  # it reads them at the first decision: there they are zeros
        other[..., marks[2] - 5 : marks[2]] = windows[..., marks[2] - 5 : marks[2]]
    assert torch.equal(net(other), net(windows))
    for column in (0, 9, marks[0] + 1, marks[1] - 3, marks[1] + 1):
        other = windows.clone()
        other[..., column] += 0.5
        assert (net(other) - net(windows)).abs().amax((1, 2)).min() > 1e-4
    for p in range(3):
        torch.testing.assert_close(net.select([p])(windows[p : p + 1])[0], net(windows)[p], rtol=0, atol=1e-6)


def test_attention_is_causal():
    """No decision's answer changes with what followed it."""
    net = NETWORKS["transformer"](2, (window_width(9, 4, 4), 8, 8, 4), "relu", seeds=[1, 2], steps=Steps(4, 4))
    windows = torch.randn(2, 3, window_width(9, 4, 4), generator=torch.Generator().manual_seed(1))
    windows[..., [14, 29, 44]] = 1.0
    before = net.answers(windows)
    for k in range(4):  # the observation of decision 3 - k, newest first, and the action before it
        other = windows.clone()
        other[..., 15 * k : 15 * k + 13] += 0.5
        moved = (net.answers(other) != before).any(-1).flatten(0, 1).any(0)
        assert moved.tolist() == [i >= 3 - k for i in range(4)]


def first_decides(expert):
    """The toy process whose best first action is 0.8 times the context of the episode's first decision.

    Later contexts say nothing of it. The behavior is near the best action (`expert`), or uniform.
    """
    data = toy(patients=2, episodes=300, seed=4)
    best, rng = 0.8 * np.repeat(data.observations[::DECISIONS, 0], DECISIONS), np.random.default_rng(5)
    actions = np.zeros_like(data.actions)
    actions[:, 0] = best + rng.uniform(-0.2, 0.2, len(best)) if expert else rng.uniform(-1, 1, len(best))
    rewards = -((actions[:, 0] - best) ** 2)
    return dataclasses.replace(data, actions=actions, rewards=rewards.astype(np.float32))


@cache
def last_error(algorithm, history):
    """Mean squared error of the action at an episode's last decision, in fresh episodes acted out."""
    config = OfflineConfig(
        updates=350,
        hidden=32,
        critic_lr=3e-3,
        actor_lr=3e-3,
        tau=0.05,
        gamma=0.5,
        history=history,
        temperature=10.0,
        expectile=0.9,
    )
    policy = train(algorithm, first_decides("bc" in algorithm), "pop", 0, config, progress=False).policy
    observations = torch.from_numpy(toy(patients=1, episodes=100, seed=9).observations).view(1, 100, DECISIONS, 9)
    for k in range(DECISIONS):
        action = policy.act(observations[:, :, k])
    return float((action[..., 0] - 0.8 * observations[:, :, 0, 0]).square().mean())


@pytest.mark.parametrize(
    ("algorithm", "history", "forgets"),
    [("bc", 3, "bc"), ("gru-bc", 8, "bc"), ("iql", 3, "iql"), ("gru-iql", 3, "iql"), ("decision-transformer", 3, "bc")],
)
def test_what_was_seen_first_is_remembered(algorithm, history, forgets):
    """The best last action depends on the first observation; without it nothing beats 0 on average, error 0.21."""
    without, found = last_error(forgets, 1), last_error(algorithm, history)
    assert without > 0.17
    assert found < 0.05, found


def test_a_transformer_acts_as_well_as_it_is_asked_to():
    """Behavior: an episode's first action is u, uniform, and its return grows with u, differently for every patient."""
    data = toy(patients=2, episodes=300, seed=6)
    u = np.random.default_rng(7).uniform(-1, 1, 600).repeat(DECISIONS)
    actions = np.zeros_like(data.actions)
    actions[:, 0] = u
    rewards = (3.0 * data.patient + (1.0 + data.patient) * u).astype(np.float32)
    data = dataclasses.replace(data, actions=actions, rewards=rewards)
    for share in (0.1, 0.9):
        config = OfflineConfig(updates=400, hidden=32, actor_lr=3e-3, history=2, target_return=share)
        policy = train("decision-transformer", data, "pop", 0, config, progress=False).policy
        first = policy.act(torch.from_numpy(data.observations[::DECISIONS][None, :100]))
        assert abs(float(first[..., 0].mean()) - (2 * share - 1)) < 0.1


def test_clocks_are_left_as_they_are_and_scales_repeat():
    data = toy(episodes=20)
    one, four = (stack_transitions(data, "ind", OfflineConfig(history=n)) for n in (1, 4))
    for name in ("mean", "scale"):
        whole, single = getattr(four, name)[:, 0], getattr(one, name)[:, 0]
        for k in range(4):
            assert torch.equal(whole[:, 15 * k : 15 * k + 7], single[:, :7])
            assert whole[:, 15 * k + 7 : 15 * k + 9].unique().tolist() == [float(name == "scale")]
    assert torch.allclose(four.scale[:, 0, [13, 28, 43]], torch.tensor(4.8 / 96))  # the reference interval


def test_evaluation_is_that_of_every_episode_alone(tiny_bank, tmp_path):
    """From Python and from its file, all patients together and one at a time, to rounding."""
    policy = HistoryPolicy(Recorder(tiny_bank.patients, 4, "gru"), 4)
    options = {"bank": tiny_bank, "episodes": 3, "worlds": ["own"]}
    whole = evaluate(policy, **options)
    again = evaluate(save_policy(policy, tmp_path / "memory.safetensors"), **options)
    for key, values in whole.worlds["own"].per_patient.items():
        if values.dtype.kind == "f":
            np.testing.assert_array_equal(again.worlds["own"].per_patient[key], values)
    alone = [evaluate(policy, patients=[p], **options).metrics["return"] for p in tiny_bank.patients]
    np.testing.assert_allclose(alone, whole.worlds["own"].per_patient["return"], rtol=1e-4)
    with pytest.raises(PolicyError, match=r"history=4.*train it with history=1"):
        perturbed_policy(resolve_policy(policy, tiny_bank, None, None, 20), tiny_bank.patients, 0.05)


def test_another_batch_needs_a_reset():
    policy = HistoryPolicy(Recorder(("a", "b")), 4)
    observations = torch.rand(2, 5, 9)
    first = policy.act(observations)
    assert not torch.equal(policy.act(observations), first)
    with pytest.raises(PolicyError, match=r"asked for \(2, 4\).*remembers \(2, 5\); call reset\(seeds\) first"):
        policy.act(observations[:, :4])
    policy.reset(np.zeros((2, 4)))
    assert torch.equal(policy.act(observations[:, :4]), first[:, :4])
    later = observations[:, :4].clone()
    later[0, :2, -2] += 0.1  # more time left than before: another episode
    later[1:, :, -2] -= 0.1
    later[0, 2:, -2] -= 0.1
    found = policy.act(later)
    fresh = HistoryPolicy(policy.inner, 4).act(later)
    assert torch.equal(found[0, :2], fresh[0, :2])
    assert (found != fresh)[1].any(-1).all()
    refused(PolicyError, "no window of history=7 with actions of width 4", lambda: HistoryPolicy(policy.inner, 7))


def test_rows_that_are_not_whole_episodes_are_refused():
    data = toy(episodes=4)
    some = data.select(np.arange(len(data)) % DECISIONS != 1)
    stack_transitions(some, "pop", OfflineConfig())
    with pytest.raises(DatasetError, match=r"medgym/toy: next_observations.*history=2 needs whole episodes.*history=1"):
        stack_transitions(some, "pop", OfflineConfig(history=2))
