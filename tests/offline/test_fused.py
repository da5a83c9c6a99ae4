"""The pass that takes one learner after the other: values and gradients against autograd."""

from __future__ import annotations

import pytest
import torch

from medgym_offline.offline.fused import relu_network
from medgym_offline.stack import StackedMLP


def parameters(net: StackedMLP) -> list[torch.Tensor]:
    return list(net.parameters())


@pytest.mark.parametrize("sizes", [(13, 1), (13, 8, 1), (13, 16, 8, 1), (13, 8, 8, 8, 5)])
def test_values_and_gradients_are_autograds(sizes: tuple[int, ...]) -> None:
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


def test_a_learners_bits_do_not_depend_on_the_stack() -> None:
    net = StackedMLP(5, (13, 16, 16, 1), "relu")
    rows = torch.randn(5, 96, 13, generator=torch.Generator().manual_seed(0))
    together = torch.autograd.grad(relu_network(net, rows).square().sum(), parameters(net))
    for p in range(5):
        one = net.select([p])
        alone = torch.autograd.grad(relu_network(one, rows[p : p + 1]).square().sum(), parameters(one))
        for found, wanted in zip(alone, together):
            assert torch.equal(found[0], wanted[p])
