"""Whole episodes: seeds, bookkeeping, and the dense path."""

from functools import partial

import numpy as np
import pytest
import torch

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.errors import MedGymError
from tests.helpers import refused


def _policy(observations):
    """A deterministic policy with varied intervals, a function of each row alone."""
    mix = torch.sin(torch.arange(36.0).reshape(9, 4) * 7.0) * 0.5
    wish = torch.sin(observations @ mix * 3.0)
    return torch.cat([wish[..., :3], wish[..., 3:] * 0.5 - 0.5], -1)


def _run(bank, **arguments):
    process = DecisionProcess(bank, ProcessConfig(**arguments))
    noise = draw_noise(episode_seeds(0, "test", bank.patients, 5), bank, process.config)
    return process, rollout(process, lambda seen: _policy(seen)[..., : process.config.action_dim], noise, 0.05)


@pytest.mark.parametrize(("timing", "reward"), [("adaptive", "integral"), ("adaptive", "paper"), ("fixed", "integral")])
def test_bookkeeping(solver_bank, timing, reward):
    process, run = _run(solver_bank, timing=timing, reward=reward, decisions=12)
    shapes = [run.observations.shape[2:], run.actions.shape[2:], run.states.shape[2:], run.treatments.shape[2:]]
    assert shapes == [(13, 9), (12, process.config.action_dim), (13, 8), (12, 3)]
    assert torch.equal(run.time, run.dt.cumsum(-1))
    assert bool((run.time[..., -1] == 96).all())
    assert bool(run.valid[..., 0].all())
    assert torch.equal(run.valid, run.dt > 0)
    assert torch.equal(run.valid[..., 1:], ~run.terminated[..., :-1])
    assert torch.equal(run.terminated, run.time == 96)
    # Observations are the process's own view of the states, one row ahead of the decision.
    torch.testing.assert_close(run.observations[..., :7], run.states[..., :7])
    torch.testing.assert_close(run.observations[:, :, 1:, 7], (96 - run.time) / 96)
    assert float(run.actions.abs().max()) <= 1.0
    # Rows after the end repeat the end, whatever noise is left.
    over = ~run.valid
    for name in ("rewards", "costs", "dt", "displacement"):
        assert bool((getattr(run, name)[over] == 0).all())
    for name in ("severity", "monitored", "treatments", "states", "observations"):
        rows = getattr(run, name)[:, :, -12:]
        assert torch.equal(rows[:, :, 1:][over[..., 1:]], rows[:, :, :-1][over[..., 1:]]), name
    assert bool(over.any()) is (timing == "adaptive")


def test_noise_belongs_to_the_episode(solver_bank):
    """A smaller budget and fixed timing see the same numbers."""
    seeds = episode_seeds(7, "purpose", ["a", "b", "c"], 4)
    assert len(set(seeds.ravel().tolist())) == 12
    assert (episode_seeds(7, "purpose", ["c", "a"], 2)[1] == seeds[0, :2]).all()
    configs = ProcessConfig(), ProcessConfig(timing="fixed", decisions=5)
    whole, short = (draw_noise(seeds, solver_bank, config) for config in configs)
    assert torch.equal(short.process, whole.process[:, :, :5])
    assert torch.equal(short.action, whole.action[:, :, :5, :3])
    drawn = torch.cat([whole.initial.flatten(), whole.process.flatten(), whole.action.flatten()])
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1.0) < 0.05


def _between(process, run, p, b, hour):
    """State of one episode at `hour`, by stepping the ODE from the start of the hold it falls in."""
    k = next(k for k in range(run.time.shape[2]) if float(run.time[p, b, k]) >= hour)
    start = float(run.time[p, b, k] - run.dt[p, b, k])
    one = process.bank.select([p])
    x, u = run.states[p, b, k][None, None], run.treatments[p, b, k][None, None]
    share = (hour - start) / float(run.dt[p, b, k])
    return one.clamp(one.flow(x, u, torch.tensor([[hour - start]])) + share * run.displacement[p, b, k])[0, 0]


def test_dense_path_is_the_state_at_the_hour(solver_bank):
    process, run = _run(solver_bank)
    hours = torch.arange(0.0, 96.1, 0.25)
    states, treatments = dense(process, run, hours)
    assert torch.equal(states[:, :, [0, -1]], run.states[:, :, [0, -1]])
    for p, b in ((0, 0), (1, 3), (3, 4)):
        for t in (1, 10, len(hours) // 2, len(hours) - 2):
            hour = float(hours[t])
            torch.testing.assert_close(states[p, b, t], _between(process, run, p, b, hour), atol=5e-3, rtol=0)
            k = int((run.time[p, b] < hour).sum())
            assert torch.equal(treatments[p, b, t], run.treatments[p, b, k])


def test_return_is_the_integral_of_dense_severity(solver_bank):
    """The integral reward and the evaluation's dense path look at the same curve."""
    process, run = _run(solver_bank)
    hours = torch.arange(0.0, 96.01, 0.0625)
    states, treatments = dense(process, run, hours)
    harm = process.severity(states, treatments) + 0.2 * treatments[..., 1]
    total = -0.1 * 0.0625 * ((harm[..., 1:] + harm[..., :-1]) / 2).sum(-1)
    torch.testing.assert_close(run.rewards.sum(-1), total, rtol=5e-3, atol=0)


def test_bad_input(solver_bank):
    process, run = _run(solver_bank)
    zeros = np.zeros((4, 2), np.int64)
    short, noise = (draw_noise(zeros, solver_bank, ProcessConfig(decisions=k)) for k in (5, 20))
    for message, action in (
        ("noise is for 5 decisions; the process has 20", lambda: rollout(process, _policy, short)),
        ("must be finite", lambda: rollout(process, lambda o: _policy(o) * float("nan"), noise)),
        ("actions have shape", lambda: rollout(process, lambda o: _policy(o)[..., :3], noise)),
        ("seeds have shape", lambda: draw_noise(zeros[0], solver_bank, process.config)),
        ("seeds have shape", lambda: draw_noise(zeros.astype(float), solver_bank, process.config)),
        *(("times must", partial(dense, process, run, torch.tensor(t))) for t in ([], [-1.0], [97.0], [3.0, 2.0])),
    ):
        refused(MedGymError, message, action)
