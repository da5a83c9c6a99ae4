"""Networks: ensembles of critics and the mean they are merged into, and the pass of one learner after the other."""

import pytest
import torch

from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.networks import relu_network
from medgym_offline.stack import StackedMLP
from tests.offline.toy import batch_of, toy

CONFIG = OfflineConfig(hidden=6, batch=6, alpha=3.0, codewords=7, ensemble=3)
ALONE = OfflineConfig(hidden=6, batch=6, alpha=3.0, codewords=7)


def slices():
    return stack_transitions(toy(patients=2, episodes=20), "ind", CONFIG)


def member(stack, e):
    """Member e of every learner."""
    return stack.select(range(e, stack.patients, 3))


@pytest.mark.parametrize("algorithm", ["dqn", "cql", "gcql", "dqn-discrete", "cql-discrete", "gcql-discrete"])
def test_each_member_has_the_gradient_of_its_own_loss(algorithm):
    """With one target for all (gamma 0), the members are as many critics trained apart."""
    data = slices()
    data.rows[..., 14] = 0.0
    objective = ALGORITHMS[algorithm](CONFIG, data)
    networks = objective.build([11, 12])
    batch = batch_of(data, objective.normals, objective.uniforms)
    loss, numbers = objective.steps(networks)[0][2](networks, batch)
    gradients = torch.autograd.grad(loss.sum(), list(networks.critic.parameters()))
    lone = ALGORITHMS[algorithm](ALONE, data)
    td, total = [], torch.zeros(2)
    for e in range(3):
        nets = lone.build([11, 12])
        nets.critic.load_state_dict(member(networks.critic, e).state_dict())
        own, seen = lone.steps(nets)[0][2](nets, batch)
        td.append(seen["td"])
        total = total + own.detach()
        for gradient, wanted in zip(gradients, torch.autograd.grad(own.sum(), list(nets.critic.parameters()))):
            torch.testing.assert_close(gradient[e::3], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.detach(), total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(numbers["td"], torch.stack(td).mean(0), rtol=1e-5, atol=1e-6)


def test_targets_use_the_smallest_value_and_choices_the_mean():
    data = slices()
    batch = batch_of(data, 0, 0)
    objective = ALGORITHMS["dqn"](CONFIG, data)
    networks = objective.build([11, 12])
    joined = torch.cat([batch.next_state, networks.policy(batch.next_state)], -1)
    values = torch.stack([member(networks.target, e)(joined).squeeze(-1) for e in range(3)])
    target = objective.target(networks, batch)
    torch.testing.assert_close(target, batch.reward + batch.discount * values.amin(0))
    torch.testing.assert_close(
        networks.q(batch.next_state, networks.policy(batch.next_state)),
        torch.stack([member(networks.critic, e)(joined).squeeze(-1) for e in range(3)]).mean(0),
    )
    discrete = ALGORITHMS["dqn-discrete"](CONFIG, data)
    nets = discrete.build([11, 12])
    values = torch.stack([member(nets.target, e)(batch.next_state) for e in range(3)])
    chosen = values.mean(0).argmax(-1)
    smallest = values.gather(-1, chosen[None, ..., None].expand(3, -1, -1, 1)).squeeze(-1).amin(0)
    target = discrete.target(nets, batch)
    torch.testing.assert_close(target, batch.reward + batch.discount * smallest)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_merged_network_is_the_mean_of_the_members(depth):
    data = slices()
    config = OfflineConfig(hidden=6, depth=depth, codewords=7, ensemble=3)
    networks = ALGORITHMS["gcql-discrete"](config, data).build([11, 12])
    with torch.no_grad():
        for layer in networks.critic.layers:
            layer.bias.normal_()
    state = data.rows[:, :30, :9]
    mean = torch.stack([member(networks.critic, e)(state) for e in range(3)]).mean(0)
    merged = networks.acting()
    assert merged.sizes == (9, *[18] * depth, 7)
    torch.testing.assert_close(merged(state), mean, rtol=1e-5, atol=1e-5)
    values = networks.values_each(state)
    assert (values.mean(1) > mean + 0.01).any()  # Q holds the guard, what decides does not


def parameters(net):
    return list(net.parameters())


@pytest.mark.parametrize("sizes", [(13, 1), (13, 8, 1), (13, 16, 8, 1), (13, 8, 8, 8, 5)])
def test_values_and_gradients_are_autograds(sizes):
    net = StackedMLP(3, sizes, "relu")
    with torch.no_grad():
        for layer in net.layers:
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
    rows = torch.randn(3, 50, 13, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 50, sizes[-1], generator=torch.Generator().manual_seed(2))
    fast, plain = relu_network(net, rows), net(rows)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((fast * weights).sum(), parameters(net))
    wanted = torch.autograd.grad((plain * weights).sum(), parameters(net))
    for found, reference in zip(gradients, wanted):
        torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)
