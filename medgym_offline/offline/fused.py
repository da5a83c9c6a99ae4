"""Stacked ReLU networks on many rows, one network after the other, forward and backward.

A critic sees a dozen candidate actions per state, so a hidden layer of ten stacked learners has ten times 768 rows: two
megabytes, more than a core's cache. One operation on the whole stack after the other then waits for memory. Here all
layers of one learner are computed before the next learner's, in place where the derivative allows it.

    forward     h_0 = x,  h_i = max(0, h_{i-1} W_i + b_i),  y = h_{L-1} W_L + b_L
    backward    d_L = dy,  dW_i = h_{i-1}^T d_i,  db_i = sum of d_i over rows,  d_{i-1} = (d_i W_i^T) [h_{i-1} > 0]

A learner's numbers come from its own products alone, so they do not depend, in any bit, on who is stacked beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medgym_offline.stack import StackedMLP

__all__ = ["relu_network"]


def relu_network(net: StackedMLP, rows: Tensor) -> Tensor:
    """`net(rows)` for a stack with ReLU between layers: (P, N, in) -> (P, N, out), with gradients of its parameters.

    No gradient flows to `rows`. Other devices than the CPU have no such cache; there it is `net(rows)`.
    """
    if rows.device.type != "cpu" or rows.requires_grad:
        return net(rows)
    return _ReLUNetwork.apply(rows, *[p for layer in net.layers for p in (layer.weight, layer.bias)])


class _ReLUNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        layers = [rows.new_empty(*rows.shape[:2], weight.shape[2]) for weight in weights]
        for p in range(len(rows)):
            h = rows[p]
            for weight, bias, out in zip(weights, biases, layers):
                h = torch.addmm(bias[p], h, weight[p], out=out[p])
                if out is not layers[-1]:
                    h.relu_()
        ctx.save_for_backward(*parameters, rows, *layers[:-1])
        return layers[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        count = len(ctx.saved_tensors) // 3  # layers: as many weights, biases and inputs
        parameters, inputs = ctx.saved_tensors[: 2 * count], ctx.saved_tensors[2 * count :]
        found = [torch.empty_like(parameter) for parameter in parameters]
        spare = [h.new_empty(h.shape[1:]) for h in inputs]
        for p in range(len(gradient)):
            d = gradient[p]
            for i in reversed(range(count)):
                torch.mm(inputs[i][p].T, d, out=found[2 * i][p])
                torch.sum(d, 0, keepdim=True, out=found[2 * i + 1][p])
                if i:
                    h, weight, below = inputs[i][p], parameters[2 * i][p], spare[i]
                    if d.shape[1] == 1:
                        torch.mul(
                            d, weight.T, out=below
                        )  # an outer product; several times faster than as a matrix product
                    else:
                        torch.mm(d, weight.T, out=below)
                    d = torch.ops.aten.threshold_backward.grad_input(below, h, 0, grad_input=below)
        return None, *found
