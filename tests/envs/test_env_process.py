"""The batched process and its clock: rewards and costs by hand, invariances, bad input."""

import itertools
import math

import pytest
import torch

from medgym_offline.diseases.sepsis import cost
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.timing import action_to_interval, decision_interval, interval_to_action
from medgym_offline.errors import MedGymError, ProtocolError
from tests.diseases.sepsis.test_severity import scalar_sofa
from tests.helpers import refused


def _process(bank, **arguments):
    return DecisionProcess(bank, ProcessConfig(**arguments))


def _actions(process, batch, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(len(process.bank), batch, process.config.action_dim, generator=random) * 2 - 1


def _hold(process, batch, treatment, hours):
    """Actions that hold a treatment (in [-1, 1]) for `hours`."""
    interval = interval_to_action(torch.tensor(hours), process.config).item()
    return torch.tensor([*treatment, interval]).expand(len(process.bank), batch, 4)


def _sofa(state, dose):
    return scalar_sofa(*(float(state[column]) for column in (0, 2, 3, 4)), dose)


@pytest.mark.parametrize("reward", ["integral", "paper", "authors"])
def test_reward_and_cost_against_the_formulas(solver_bank, reward):
    """Once more, in plain Python."""
    bank, process = solver_bank, _process(solver_bank, reward=reward, noise=False)
    episodes, actions = process.start(3), _actions(process, 3)
    outcome = process.step(episodes, actions)
    u = (actions[..., :3] + 1) / 2
    doses = bank.denormalize_treatment(u)[..., 1]
    for p, b in itertools.product(range(len(bank)), range(3)):
        dt, d, v = float(outcome.dt[p, b]), float(doses[p, b]), float(u[p, b, 1])
        cells = math.ceil(dt)
        nodes = torch.arange(cells + 1)[None] * dt / cells
        start, treatment = (part[p, b].expand(1, cells + 1, -1) for part in (episodes.x, u))
        path = bank.select([p]).flow(start, treatment, nodes)[0]
        torch.testing.assert_close(outcome.next.x[p, b], path[-1], atol=2e-5, rtol=1e-5)
        physical = bank.denormalize(path).double().numpy()
        values = [_sofa(state, d) for state in physical]
        harm = sum((m + n) / 2 for m, n in itertools.pairwise(values)) * dt / cells
        paper = -values[-1] - 0.2 * v
        expected = {
            "integral": -0.1 * (harm + 0.2 * v * dt),
            "paper": paper,
            "authors": 0.1 * dt * paper + 4 * (values[0] - values[-1]) - 0.15 * dt - 0.02 / (dt + 0.001) + 0.3,
        }[reward]
        assert float(outcome.reward[p, b]) == pytest.approx(expected, rel=1e-3, abs=2e-3)
        assert float(outcome.severity[p, b]) == pytest.approx(values[-1], abs=1e-3)
        assert float(outcome.cost[p, b]) == pytest.approx(cost(physical[0, 5], physical[-1, 5]), abs=1e-3)
        assert float(outcome.monitored[p, b]) == pytest.approx(physical[-1, 5], abs=1e-4)


@pytest.mark.parametrize(
    ("whole", "parts"), [(8.0, (4.0, 4.0)), (8.0, (3.0, 5.0)), (36.0, (12.0, 24.0)), (5.5, (2.5, 3.0))]
)
def test_integral_reward_does_not_depend_on_cuts(solver_bank, whole, parts):
    process = _process(solver_bank, noise=False)
    treatment = [-0.3, 0.2, -0.5]
    once = process.step(process.start(1), _hold(process, 1, treatment, whole))
    total, episodes = torch.zeros_like(once.reward), process.start(1)
    for hours in parts:
        outcome = process.step(episodes, _hold(process, 1, treatment, hours))
        total, episodes = total + outcome.reward, outcome.next
    assert torch.equal(episodes.time, once.next.time)
    torch.testing.assert_close(episodes.x, once.next.x, atol=5e-3, rtol=0)
    torch.testing.assert_close(total, once.reward, atol=0, rtol=2e-3)


def test_noise_variance_is_linear_in_time(solver_bank):
    process = _process(solver_bank)
    draws = torch.randn(4, 4000, 8, generator=torch.Generator().manual_seed(1))
    for hours in (1.0, 4.0, 16.0):
        outcome = process.step(process.start(4000), _hold(process, 4000, [0.0, 0.0, 0.0], hours), draws)
        expected = solver_bank.noise_scale * hours**0.5
        torch.testing.assert_close(outcome.displacement.std(1), expected, rtol=0.05, atol=1e-7)


def test_start_perturbs_only_the_physiology(solver_bank):
    process, first = _process(solver_bank), solver_bank.initial_state()[:, None]
    draws = torch.randn(4, 3000, 8, generator=torch.Generator().manual_seed(2))
    change = process.start(3000, draws).x - first
    assert bool((change[..., 6:] == 0).all())
    inside = ((first - 0.25 > solver_bank.lower) & (first + 0.25 < solver_bank.upper))[:, 0, :6]
    spread = change[..., :6].std(1)[inside]
    torch.testing.assert_close(spread, torch.full_like(spread, 0.05), rtol=0.1, atol=0)
    for still in (process.start(5), _process(solver_bank, noise=False).start(3000, draws)):
        assert bool((still.x == first).all())


def test_remission_counts_only_unbroken_calm(solver_bank):
    """The calm at the end of a hold is the time since severity was last at or above the threshold on the cells."""
    plain = _process(solver_bank, noise=False)
    actions = _hold(plain, 1, [0.4, -0.6, -0.4], 30.0)
    u = (actions[..., :3] + 1) / 2
    path = solver_bank.trajectory(plain.start(1).x, u, torch.arange(31.0))
    curve = plain.severity(path, u[..., None, :])[:, 0]
    threshold = float(curve.median())
    process = _process(solver_bank, noise=False, remission=True, remission_severity=threshold)
    calm = process.step(process.start(1), actions).next.calm[:, 0].tolist()
    above = [[t for t in range(31) if one[t] >= threshold] for one in curve]
    assert calm == pytest.approx([30 - max(hours) if hours else 30 for hours in above], abs=1e-4)
    assert len(set(calm)) > 1  # the patients differ, or the test shows nothing


def test_gradient_reaches_dose_and_interval(solver_bank):
    process = _process(solver_bank, noise=False)
    actions = (0.3 * _actions(process, 2)).requires_grad_()
    process.step(process.start(2), actions).reward.sum().backward()
    assert bool(torch.isfinite(actions.grad).all())
    assert bool((actions.grad.abs().amax((0, 1)) > 0).all())


def test_bad_actions_and_noise(solver_bank):
    process = _process(solver_bank)
    episodes, actions = process.start(2), _actions(process, 2)
    wrong = actions.clone()
    wrong[2, 1, 3] = float("inf")
    for message, action in (
        (r"actions have shape \(4, 2, 3\); expected \(4, 2, 4\)", lambda: process.step(episodes, actions[..., :3])),
        (f"patient {solver_bank.patients[2]}.* inf", lambda: process.step(episodes, wrong)),
        ("noise have shape", lambda: process.step(episodes, actions, torch.zeros(4, 2, 7))),
        ("noise have shape", lambda: process.start(3, torch.zeros(4, 2, 8))),
    ):
        refused(MedGymError, message, action)


ADAPTIVE = ProcessConfig()


@pytest.mark.parametrize(
    ("time", "left", "wish", "expected"),
    [
        (0.0, 20, 4.8, 4.8),
        (0.0, 3, 1.0, 24.0),  # 96 - 72: the rest must be fillable
        (0.0, 20, 99.0, 36.0),
        (90.0, 20, 5.75, 6.0),  # would leave 0.25 h: takes it
        (90.0, 20, 5.5, 5.5),  # leaves exactly 0.5 h
        (59.75, 20, 36.0, 35.75),  # 36.25 h remain: 36 would leave 0.25, so 0.5 is left
        (70.0, 1, 0.5, 26.0),  # last decision: all that remains
        (96.0, 4, 3.0, 0.0),
    ],
)
def test_interval_golden(time, left, wish, expected):
    time, left, wish = (torch.tensor([[float(value)]]) for value in (time, left, wish))
    assert decision_interval(time, left, ADAPTIVE, wish).item() == pytest.approx(expected, abs=ADAPTIVE.tick)


def test_action_map_ends_and_inverse():
    action = torch.linspace(-1, 1, 41)
    hours = action_to_interval(action, ADAPTIVE)
    assert (hours[0].item(), hours[-1].item(), hours[20].item()) == (0.5, 36.0, 18.25)
    torch.testing.assert_close(interval_to_action(hours, ADAPTIVE), action, atol=1e-6, rtol=0)
    assert interval_to_action(torch.tensor([0.1, 50.0]), ADAPTIVE).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decisions": 2}, "cannot fill 96 h; set decisions to 3 or more"),
        ({"decisions": 193}, "cannot fill 96 h; .* and 192 or fewer"),
        ({"decisions": 0}, "'decisions' is 0"),
        ({"decisions": "many"}, "a whole number"),
        ({"timing": "sometimes"}, "adaptive, fixed"),
        ({"reward": "sofa"}, "authors, integral, paper, state"),
        ({"horizon": float("nan")}, "horizon"),
        ({"horizon": 96.0001}, "multiple of 0.000976562"),
        ({"min_interval": 20.0}, "twice min_interval"),
        ({"initial_noise": -0.1}, "initial_noise"),
        ({"celll": 1.0}, "did you mean 'cell'"),
    ],
)
def test_bad_configuration(arguments, message):
    refused(ProtocolError, message, lambda: ProcessConfig(**arguments))
