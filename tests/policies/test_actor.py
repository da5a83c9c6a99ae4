"""Stacked actors: independence of patients, selection, densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medgym_offline.errors import PolicyError, UnknownNameError
from medgym_offline.policies import Policy, StackedActor
from medgym_offline.stack import StackedMLP

IDS = ("a/1", "b/2", "c/3")
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))


def actor(shared: bool = False, log_std: torch.Tensor | None = None) -> StackedActor:
    count = 1 if shared else 3
    return StackedActor(StackedMLP(count, (9, 16, 4), seeds=range(count)), None if shared else IDS, 20, log_std)


def test_is_a_policy_and_answers_in_kind() -> None:
    policy = actor()
    assert isinstance(policy, Policy)
    actions = policy.act(OBSERVATIONS)
    assert actions.shape == (3, 5, 4)
    assert not actions.requires_grad
    assert actions.abs().max() <= 1
    numpy = policy.act(OBSERVATIONS.double().numpy())
    assert isinstance(numpy, np.ndarray)
    np.testing.assert_array_equal(numpy, actions.numpy())


@pytest.mark.parametrize("shared", [False, True])
def test_a_patients_actions_do_not_depend_on_the_batch(shared: bool) -> None:
    policy = actor(shared)
    together = policy.act(OBSERVATIONS)
    for p, patient in enumerate(IDS):
        alone = policy.select([patient]).act(OBSERVATIONS[p : p + 1])
        torch.testing.assert_close(alone[0], together[p], rtol=0, atol=1e-6)


def test_select_reorders_and_names_unknown_patients() -> None:
    policy = actor(log_std=torch.arange(12.0).view(3, 4))
    back = policy.select(IDS[::-1])
    assert back.patients == IDS[::-1]
    assert torch.equal(back.act(OBSERVATIONS.flip(0)), policy.act(OBSERVATIONS).flip(0))
    assert back.log_std is not None
    assert torch.equal(back.log_std[0], torch.arange(8.0, 12.0))
    with pytest.raises(UnknownNameError, match="did you mean 'b/2'"):
        policy.select(["b/22"])


def test_concatenate_undoes_select() -> None:
    policy = actor(log_std=torch.zeros(1, 4))
    again = StackedActor.concatenate([policy.select([p]) for p in IDS])
    assert again.patients == IDS
    assert torch.equal(again.act(OBSERVATIONS), policy.act(OBSERVATIONS))


def test_density_integrates_to_one_and_matches_a_transformed_normal() -> None:
    net = StackedMLP(1, (9, 4, 3), seeds=[3])
    policy = StackedActor(net, ["a"], log_std=torch.tensor([[-0.5, 0.0, -1.0]]))
    observation = OBSERVATIONS[:1, :1]
    mean = policy.mean(observation)
    base = torch.distributions.Normal(mean, policy.log_std.exp())  # type: ignore[union-attr]
    wanted = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform()])
    actions = torch.tanh(base.sample((20,)))[:, 0]
    got = policy.log_prob(observation.expand(1, 20, 9), actions.transpose(0, 1))
    torch.testing.assert_close(got[0], wanted.log_prob(actions[:, None]).sum(-1)[:, 0, 0], rtol=1e-3, atol=1e-3)
    # One dimension on a grid: the others held at their center contribute a constant factor.
    grid = torch.linspace(-0.9999, 0.9999, 20001)
    at = torch.tanh(mean).expand(1, len(grid), 3).clone()
    at[0, :, 1] = grid
    rest = policy.log_prob(observation, torch.tanh(mean)) - wanted.log_prob(torch.tanh(mean))[..., 1]
    total = torch.trapezoid((policy.log_prob(observation.expand(1, len(grid), 9), at) - rest).exp()[0], grid)
    assert math.isclose(float(total), 1.0, abs_tol=0.01)


def test_density_is_finite_on_the_edge_of_the_box() -> None:
    policy = actor(log_std=torch.zeros(1, 4))
    assert torch.isfinite(policy.log_prob(OBSERVATIONS, torch.ones(3, 5, 4))).all()
    with pytest.raises(PolicyError, match="deterministic"):
        actor().log_prob(OBSERVATIONS, torch.ones(3, 5, 4))


def test_wrong_shapes_are_named() -> None:
    policy = actor()
    with pytest.raises(PolicyError, match=r"\(3, 5, 8\), expected \(patients, episodes, 9\)"):
        policy.act(OBSERVATIONS[..., :8])
    with pytest.raises(PolicyError, match="2 patients, the policy 3"):
        policy.act(OBSERVATIONS[:2])
    with pytest.raises(PolicyError, match="expected"):
        policy.act(OBSERVATIONS[0])
    with pytest.raises(PolicyError, match="3 patient ids cannot hold a stack of 2"):
        StackedActor(StackedMLP(2, (9, 4, 3)), IDS)
    with pytest.raises(PolicyError, match="width 5"):
        StackedActor(StackedMLP(3, (9, 4, 5)), IDS)
    with pytest.raises(PolicyError, match="log_std has shape"):
        actor(log_std=torch.zeros(2, 4))
