"""The decision clock: golden feasible ranges, exact sums, limits of every hold."""

import pytest
import torch

from medgym_offline.envs.timing import (
    ProcessConfig,
    action_to_interval,
    decision_interval,
    feasible_interval,
    interval_to_action,
)
from medgym_offline.errors import ProtocolError

ADAPTIVE = ProcessConfig()


def _one(value):
    return torch.tensor([[value]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("time", "left", "lower", "upper"),
    [
        (0.0, 20, 0.5, 36.0),  # 96 - 36*19 < 0.5
        (0.0, 3, 24.0, 36.0),  # 96 - 72
        (0.0, 4, 0.5, 36.0),  # 96 - 108 < 0.5
        (30.0, 2, 30.0, 36.0),  # 66 - 36
        (60.0, 1, 36.0, 36.0),  # the last takes all
        (80.0, 5, 0.5, 16.0),  # no more than remains
        (95.5, 7, 0.5, 0.5),
        (96.0, 3, 0.0, 0.0),  # over
    ],
)
def test_feasible_range_golden(time, left, lower, upper):
    low, high = feasible_interval(_one(time), _one(left), ADAPTIVE)
    assert (low.item(), high.item()) == (lower, upper)


@pytest.mark.parametrize(
    ("time", "left", "wish", "expected"),
    [
        (0.0, 20, 4.8, 4.8),
        (0.0, 3, 1.0, 24.0),
        (0.0, 20, 99.0, 36.0),
        (90.0, 20, 5.75, 6.0),  # would leave 0.25 h: takes it
        (90.0, 20, 5.5, 5.5),  # leaves exactly 0.5 h
        (59.75, 20, 36.0, 35.75),  # 36.25 h remain: 36 would leave 0.25, so 0.5 is left
        (60.0, 20, 36.0, 36.0),
        (70.0, 1, 0.5, 26.0),  # last decision: all that remains
        (96.0, 4, 3.0, 0.0),
    ],
)
def test_interval_golden(time, left, wish, expected):
    hours = decision_interval(_one(time), _one(left), ADAPTIVE, _one(wish))
    assert hours.item() == pytest.approx(expected, abs=ADAPTIVE.tick)


def test_action_map_ends_and_inverse():
    action = torch.linspace(-1, 1, 41)
    hours = action_to_interval(action, ADAPTIVE)
    assert (hours[0].item(), hours[-1].item(), hours[20].item()) == (0.5, 36.0, 18.25)
    torch.testing.assert_close(interval_to_action(hours, ADAPTIVE), action, atol=1e-6, rtol=0)
    assert interval_to_action(torch.tensor([0.1, 50.0]), ADAPTIVE).tolist() == [-1.0, 1.0]


def test_interval_passes_gradients():
    wish = _one(7.3).requires_grad_()
    decision_interval(_one(0.0), _one(20), ADAPTIVE, wish).sum().backward()
    assert wish.grad.item() == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decisions": 2}, "cannot fill 96 h; set decisions to 3"),
        ({"decisions": 193}, "do not fit in 96 h; set decisions to 192"),
        ({"decisions": 0}, "whole number"),
        ({"decisions": 7.5}, "whole number"),
        ({"decisions": True}, "whole number"),
        ({"decisions": "many"}, "whole number"),
        ({"decisions": float("inf")}, "whole number"),
        ({"timing": "sometimes"}, "adaptive, fixed"),
        ({"reward": "sofa"}, "integral, state, paper, authors"),
        ({"horizon": float("nan")}, "horizon"),
        ({"horizon": -1.0}, "horizon"),
        ({"horizon": 96.0001}, "multiple of 0.000976562"),
        ({"min_interval": 20.0}, "twice min_interval"),
        ({"initial_noise": -0.1}, "initial_noise"),
        ({"cell": 0.0}, "cell"),
    ],
)
def test_bad_configuration(arguments, message):
    with pytest.raises(ProtocolError, match=message):
        ProcessConfig(**arguments)
