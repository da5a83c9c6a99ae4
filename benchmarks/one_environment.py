"""TRPO-Lagrangian on one environment, a step at a time: the design of the authors' code, for benchmarks only.

Rewritten from the paper's formulas and settings; none of their code was run. One patient; a forward pass of batch 1 per
decision; torch distributions; backward passes by autograd, the curvature as the derivative of a derivative. Widths,
conjugate-gradient iterations and passes over the critics are those that our training is compared with.
"""

from __future__ import annotations

import time

import torch
from simulators import OneEnvironment
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

HORIZON = 20
"""Decisions of an episode."""


def _network(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
    )


class OneEnvironmentTrainer:
    """A policy, a critic of reward and one of cost, and a multiplier."""

    def __init__(self, hidden: int = 64):
        torch.manual_seed(0)
        self.environment = OneEnvironment()
        self.mean, self.log_std = _network(8, 4, hidden), nn.Parameter(torch.full((4,), -0.5))
        self.critics = [_network(8, 1, hidden) for _ in range(2)]
        self.optimizers = [torch.optim.Adam(critic.parameters(), 1e-3) for critic in self.critics]
        self.parameters = [*self.mean.parameters(), self.log_std]
        self.multiplier = 0.0

    def policy(self, observations: Tensor) -> Independent:
        """Gaussian before squashing."""
        return Independent(Normal(self.mean(observations), self.log_std.exp()), 1)

    def update(self, steps: int, iterations: int = 10, passes: int = 5) -> float:
        """One update from a rollout of `steps` decisions; returns its CPU seconds."""
        start = time.process_time()
        rows = self._rollout(steps)
        observations, actions = rows["observation"], rows["action"]
        reward, cost = (self._advantages(rows[name], observations, i) for i, name in enumerate(("reward", "cost")))
        self.multiplier = max(0.0, self.multiplier + 0.05 * (float(rows["cost"].mean()) - 0.1))
        advantage = (reward[0] - self.multiplier * cost[0]) / (1.0 + self.multiplier)
        self._trust_region(observations, actions, (advantage - advantage.mean()) / (advantage.std() + 1e-8), iterations)
        for critic, optimizer, targets in zip(self.critics, self.optimizers, (reward[1], cost[1])):
            for _ in range(passes):
                optimizer.zero_grad()
                (critic(observations).squeeze(-1) - targets).square().mean().backward()
                optimizer.step()
        return time.process_time() - start

    def _rollout(self, steps: int) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {"observation": [], "action": [], "reward": [], "cost": []}
        for step in range(steps):
            left = step % HORIZON
            if left == 0:
                self.environment.x = 0.05 * torch.randn(1, 6)
            clock = torch.tensor([1.0 - left / HORIZON, 1.0 - left / HORIZON])
            with torch.no_grad():
                observation = torch.cat([self.environment.x[0], clock])
                action = self.policy(observation).sample()
                _, reward, cost = self.environment.step(torch.tanh(action))
            numbers = (observation, action, torch.tensor(reward), torch.tensor(cost))
            for name, value in zip(found, numbers):
                found[name].append(value)
        return {name: torch.stack(values) for name, values in found.items()}

    def _advantages(self, signal: Tensor, observations: Tensor, which: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values = self.critics[which](observations).squeeze(-1)
        found, ahead, value = torch.zeros_like(signal), torch.tensor(0.0), torch.tensor(0.0)
        for step in reversed(range(len(signal))):
            alive = 0.0 if (step + 1) % HORIZON == 0 else 1.0
            delta = signal[step] + 0.997 * alive * value - values[step]
            ahead = found[step] = delta + 0.997 * 0.95 * alive * ahead
            value = values[step]
        return found, found + values

    def _flat(self, gradients: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def _set(self, theta: Tensor) -> None:
        with torch.no_grad():
            nn.utils.vector_to_parameters(theta, self.parameters)

    def _trust_region(self, observations: Tensor, actions: Tensor, advantage: Tensor, iterations: int) -> None:
        with torch.no_grad():
            before = self.policy(observations)
            old = Independent(Normal(before.mean.clone(), before.stddev.clone()), 1)
            was = old.log_prob(actions)
        surrogate = ((self.policy(observations).log_prob(actions) - was).exp() * advantage).mean()
        gradient = self._flat(torch.autograd.grad(surrogate, self.parameters))

        def product(vector: Tensor) -> Tensor:
            kl = kl_divergence(old, self.policy(observations)).mean()
            first = self._flat(torch.autograd.grad(kl, self.parameters, create_graph=True))
            return self._flat(torch.autograd.grad((first * vector).sum(), self.parameters)) + 0.01 * vector

        step, residual = torch.zeros_like(gradient), gradient.clone()
        direction, length = gradient.clone(), gradient.dot(gradient)
        for _ in range(iterations):
            curved = product(direction)
            rate = length / direction.dot(curved)
            step, residual = step + rate * direction, residual - rate * curved
            length, last = residual.dot(residual), length
            direction = residual + length / last * direction
        step = step * (2 * 0.01 / step.dot(product(step))).sqrt()
        theta, share = nn.utils.parameters_to_vector(self.parameters).detach(), 1.0
        for _ in range(10):
            self._set(theta + share * step)
            with torch.no_grad():
                policy = self.policy(observations)
                gain = ((policy.log_prob(actions) - was).exp() * advantage).mean() - surrogate
                if float(gain) > 0 and float(kl_divergence(old, policy).mean()) <= 0.01:
                    return
            share *= 0.5
        self._set(theta)
