"""The field's structure, the solver's order and the solution map's identities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from medgym_offline import load_simulators
from medgym_offline.diseases.sepsis.field import RATE_BOUND, Physics, field
from medgym_offline.simulators.flow import BoundedField


def _states(bank, rows, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = bank.initial_state().unsqueeze(1) + 0.3 * torch.randn((len(bank), rows, bank.state_dim), generator=g)
    return bank.clamp(x), torch.rand((len(bank), rows, 3), generator=g)


@pytest.mark.parametrize("world", ["own", "true"])
def test_balance_is_exact_bookkeeping(world):
    """Litres per hour: fluids less urine and what evaporates."""
    bank = load_simulators("sepsis-twin-v0").world(world).select(range(12))
    x, u = _states(bank, 5)
    rate = bank.field(x, u)[..., 6].double() * bank.disease.components[6].scale
    inflow, urine = (v.double() for v in (bank.denormalize_treatment(u)[..., 2], bank.denormalize(x)[..., 4]))
    torch.testing.assert_close(rate, (inflow - urine / 24 - 40) / 1000, rtol=0, atol=2e-5)


def test_physics_is_bounded_and_treatments_act_in_their_direction(solver_bank):
    x, u = _states(solver_bank, 64)
    rate = solver_bank.field(10 * x, u)[..., :6].abs()
    assert (rate <= torch.tensor(RATE_BOUND) + solver_bank.physics.residual + 1e-6).all()
    more = u.clone()
    more[..., 0] = (u[..., 0] + 0.3).clamp(max=1)
    assert (solver_bank.field(x, more)[..., 1] >= solver_bank.field(x, u)[..., 1]).all()  # FiO2 raises PaO2
    some, none = u.clone(), u.clone()
    some[..., 1], none[..., 1] = 0.1, 0.0  # below every ischaemia threshold
    assert (solver_bank.field(x, some)[..., 5] < solver_bank.field(x, none)[..., 5]).all()  # met need lowers lactate


def test_residual_never_sees_treatment(solver_bank):
    world = solver_bank.world_data["own"]
    silent = Physics(extension=False, fio2_gain=0.0)
    params = type(world.params)(**{**world.params.tensors(), "k": torch.zeros_like(world.params.k)})
    x, u = _states(solver_bank, 6)
    other = torch.rand_like(u)
    rates = [field(solver_bank.disease, solver_bank.scales, silent, params, x, v)[..., :6] for v in (u, other)]
    assert torch.equal(*rates)


def test_solver_agrees_with_scipy(solver_bank):
    x, u = _states(solver_bank, 1)
    times = torch.tensor([0.0, 2.5, 11.0, 36.0])
    ours = solver_bank.trajectory(x, u, times)
    for p in range(len(solver_bank)):
        one = solver_bank.select([p])

        def rhs(_, y, one=one, p=p):
            return one.field(torch.tensor(y, dtype=torch.float32).view(1, 1, -1), u[p : p + 1]).flatten().numpy()

        truth = solve_ivp(rhs, (0, 36), x[p, 0].numpy(), t_eval=times.numpy(), rtol=1e-6, atol=1e-6, max_step=1.0)
        # A variable that met a bound is projected by ours and not by SciPy.
        inside = ((ours[p, 0] > solver_bank.lower + 1e-3) & (ours[p, 0] < solver_bank.upper - 1e-3)).all(0).numpy()
        assert np.abs(ours[p, 0].numpy() - truth.y.T)[:, inside].max() < 0.02


def test_the_curve_between_steps_belongs_to_the_steps(solver_bank):
    """At the ends of steps it is the solver's state; the grid and the other rows do not matter; nor does order."""
    x, u = _states(solver_bank, 3)
    own = BoundedField(solver_bank.field, solver_bank.lower, solver_bank.upper)
    hold = torch.tensor([0.4, 7.3, 36.0]).expand(4, 3).contiguous()
    steps = torch.ceil(hold)
    nodes = torch.arange(37.0).clamp(max=steps[0, 2].item()) * (hold / steps)[..., None]
    nodes = torch.minimum(nodes, hold[..., None])
    found = own.solve_between(x, u, hold, nodes)
    torch.testing.assert_close(found, own.solve(x, u, nodes), atol=1e-5, rtol=0)
    times = torch.rand((4, 3, 20), generator=torch.Generator().manual_seed(0)) * hold[..., None]
    many = own.solve_between(x, u, hold, times)
    few = own.solve_between(x, u, hold, times[..., 7:9])
    assert torch.equal(many[..., 7:9, :], few)
    alone = own.solve_between(x[:, 1:2], u[:, 1:2], hold[:, 1:2], times[:, 1:2])
    torch.testing.assert_close(alone[:, 0], many[:, 1], atol=1e-6, rtol=0)
    start = own.solve_between(x, u, hold, torch.zeros(4, 3, 1))
    assert torch.equal(start[..., 0, :], x)


def test_a_parabola_is_followed_exactly_between_steps():
    """dx/dt = t by a second component that is time itself: Heun is exact, and so is its interpolation."""

    def field(x, u):
        return torch.stack([x[..., 1], torch.ones_like(x[..., 1])], -1)

    x, u, wide = torch.zeros(2, 3, 2, dtype=torch.float64), torch.zeros(2, 3, 3), torch.full((2,), 1e6)
    hold = torch.tensor([[0.3, 2.0, 9.5], [4.0, 0.1, 5.2]], dtype=torch.float64)
    times = torch.rand((2, 3, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * hold[..., None]
    found = BoundedField(field, -wide, wide).solve_between(x, u, hold, times)
    torch.testing.assert_close(found, torch.stack([times**2 / 2, times], -1), atol=1e-12, rtol=0)


def test_growing_overload_has_no_ceiling_and_ends_the_response_to_fluid(solver_bank):
    """Balance far above the threshold: harm of log(1 + excess) instead of excess/(1 + excess), by hand."""
    bank, params = solver_bank, solver_bank.world_data["own"].params
    physics = {grows: replace(bank.physics, growing_overload=grows) for grows in (False, True)}
    x, u = _states(bank, 3)
    x, u = 0.1 * x, 0.1 * u  # far from the bounds of the rates

    def rate(grows, balance, fluids):
        state, dose = x.clone(), u.clone()
        state[..., 6], dose[..., 2] = balance, fluids
        return field(bank.disease, bank.scales, physics[grows], params, state, dose)[..., :6]

    # Urine carries the strength itself; the smooth bound of 2 per hour bends it by less than a per cent here.
    excess = [balance - params.threshold[:, 1] for balance in (3.0, 12.0)]
    for grows, shape in ((False, lambda z: z / (1 + z)), (True, torch.log1p)):
        step = (rate(grows, 12.0, 0.0) - rate(grows, 3.0, 0.0))[..., 4]
        expected = -bank.physics.overload[2] * (shape(excess[1]) - shape(excess[0]))
        assert torch.allclose(step, expected.unsqueeze(1).expand_as(step), rtol=0.05, atol=1e-3), grows
    effects = {b: (rate(True, b, 0.5) - rate(False, b, 0.5))[..., 5] for b in (-3.0, 1.0, 12.0)}
    assert effects[-3.0].abs().max() < 1e-4  # nothing changes in those who are not overfilled
    assert (effects[1.0] >= 0).all()
    assert (effects[12.0] > effects[1.0]).all()
    lost = params.k[:, 8] * 0.5 * excess[1] / (1 + excess[1])
    assert torch.allclose(effects[12.0], lost.unsqueeze(1).expand_as(effects[12.0]), rtol=0.1, atol=1e-3)
