"""Open-loop ceilings: classes nested, the grid beaten, and a known optimum found."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.open_loop import CeilingConfig, ceilings, interval_logits, intervals, schedule_harm
from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE as SEPSIS
from medgym_offline.diseases.sepsis.field import Physics
from medgym_offline.errors import MedGymError
from medgym_offline.simulators import SimulatorBank
from medgym_offline.simulators.bank import World

HORIZON, SWITCH = 48.0, torch.tensor([5.0, 20.0])


@dataclass
class Clock:
    """A patient whose first variable is the hour: dx0/dt = 1."""

    kind: ClassVar[str] = "clock"
    zero: Tensor

    def rate(self, disease, scales, physics, x, u):
        return torch.zeros_like(x) + torch.nn.functional.one_hot(torch.tensor(0), x.shape[-1])

    def relaxation(self):
        return self.zero

    def tensors(self):
        return {"zero": self.zero}

    def select(self, index):
        return Clock(self.zero[index])

    def to(self, device):
        return Clock(self.zero.to(device))


def clock_bank():
    """Two patients for whom full FiO2 is right until hour 5 (20) and none after it; nothing else matters.

    Best constant m/48 (m the hour of the switch), harm (m/48)(1 - m/48); best adaptive schedule: harm about 0.
    """
    scales = Scales((0.0,) * 6, (1.0,) * 6, (100.0, 0.75, 1100.0))

    def severity(state, dose):
        wanted = torch.sigmoid((SWITCH.reshape(2, *[1] * (state.ndim - 2)) - state[..., 0]) / 0.125)
        return (scales.normalize_treatment(SEPSIS, dose)[..., 0] - wanted) ** 2

    def score(state, dose):
        return severity(state, dose) if isinstance(state, Tensor) else np.zeros(state.shape[:-1])

    components = (replace(SEPSIS.components[0], transform="identity"), *SEPSIS.components[1:])
    points = replace(SEPSIS.severity, score=score, burden=lambda u: 0.0 * u[..., 0], parts=())
    process = replace(SEPSIS.process, horizon=HORIZON)
    disease = replace(SEPSIS, components=components, severity=points, process=process)
    world = World(Clock(torch.zeros(2, 8)), torch.zeros(2, 8), torch.zeros(2, 8))
    return SimulatorBank(
        "clock", ("a", "b"), disease, scales, Physics(), {"own": world}, None, None, torch.zeros(2, 48, 3)
    )


def test_the_optimum_of_a_patient_with_a_clock_is_found():
    found = ceilings(clock_bank(), CeilingConfig(steps=40, lr=0.3))
    share = SWITCH / HORIZON
    constant, fixed, adaptive = (found[n] for n in ("constant", "fixed", "adaptive"))
    assert torch.allclose(constant.treatment[:, 0, 0], share, atol=0.02)
    assert torch.allclose(constant.harm, share * (1.0 - share), atol=0.005)
    # Equal holds of 9.6 h cut the switch at hour 5 in the middle of the first, at hour 20 at the start of the third.
    inside = torch.tensor([5.0, 20.0 - 19.2]) / 9.6
    assert torch.allclose(fixed.harm, inside * (1.0 - inside) / 5.0, atol=0.006)
    assert (adaptive.harm < 0.006).all()
    ends = adaptive.hours.cumsum(1)
    assert ((ends - SWITCH[:, None]).abs().amin(1) < 0.5).all()


def test_intervals_are_feasible_and_inverted():
    process = SEPSIS.process
    logits = 4.0 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    hours = intervals(logits, process)
    assert hours.min() >= 0.5 - 1e-4
    assert hours.max() <= 36 + 1e-4
    assert torch.allclose(hours.sum(-1), torch.full((200,), 96.0), atol=1e-4)
    assert torch.allclose(intervals(interval_logits(hours, process), process), hours, atol=0.3)
    with pytest.raises(MedGymError, match="cannot fill 48 h; choose 2"):
        ceilings(clock_bank(), CeilingConfig(decisions=1))


def test_harm_is_severity_and_burden_over_time(tiny_bank):
    u = torch.tensor([0.3, 0.2, 0.1]).expand(4, 1, 3)
    whole = schedule_harm(tiny_bank, u[:, :, None].expand(-1, -1, 4, -1), torch.full((4, 1, 4), 24.0))
    cut = schedule_harm(tiny_bank, u[:, :, None].expand(-1, -1, 6, -1), torch.full((4, 1, 6), 16.0))
    assert torch.allclose(whole, cut, atol=2e-3)
    curve = tiny_bank.trajectory(tiny_bank.initial_state()[:, None], u, torch.arange(0.0, 36.5, 0.5))
    severity = tiny_bank.disease.severity.score(
        tiny_bank.denormalize(curve), tiny_bank.denormalize_treatment(u)[:, :, None]
    )
    by_hand = (severity[..., :-1] + severity[..., 1:]).sum(-1) / 2 / 72 + 0.2 * 0.2
    first = schedule_harm(tiny_bank, u[:, :, None], torch.full((4, 1, 1), 36.0))
    assert torch.allclose(first, by_hand, atol=5e-3)
