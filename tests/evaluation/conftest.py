"""A bank, behavior data rolled out from it, and evaluations that several tests read."""

import numpy as np
import pytest
import torch

from medgym_offline.evaluation import evaluate
from tests.rolled import rolled


class Constant:
    """A constant treatment per patient (Ind) or for all (Pop), at 4.8 h; a policy without `select`."""

    timing = "adaptive"

    def __init__(self, treatment, patients=None):
        self.u, self.patients = torch.as_tensor(treatment, dtype=torch.float32), patients

    def act(self, observations):
        observations = torch.as_tensor(observations)
        assert self.patients is None or len(observations) == len(self.patients)
        u = self.u if self.patients is None else self.u[:, None]
        # A little feedback, so that actions differ between states.
        a = (2 * u - 1).expand(*observations.shape[:2], 3) + 0.1 * torch.tanh(observations[..., :3])
        return torch.cat([a.clamp(-1, 1), torch.full_like(a[..., :1], -0.76)], -1).numpy()


@pytest.fixture(scope="session")
def treatments():
    """A treatment per patient of `tiny_bank`."""
    return np.array([[0.4, 0.10, 0.3], [0.5, 0.20, 0.2], [0.3, 0.05, 0.4], [0.6, 0.15, 0.1]])


@pytest.fixture(scope="session")
def behavior(tiny_bank, treatments):
    return Constant(treatments, tiny_bank.patients)


@pytest.fixture(scope="session")
def transitions(tiny_bank, behavior):
    """Six episodes per patient of the behavior, perturbed as in eq. 15."""
    return rolled(tiny_bank, lambda observations: torch.as_tensor(behavior.act(observations)))


@pytest.fixture(scope="session")
def results(tiny_bank, behavior, treatments, transitions):
    """Five policies, with support distances, in both worlds."""
    near = {"ind": Constant(treatments + 0.05, tiny_bank.patients), "pop": Constant(treatments.mean(0))}
    policies = {"behavior": behavior, "near-ind": near["ind"], "near-pop": near["pop"], "max": "max", "zero": "zero"}
    settings = {"bank": tiny_bank, "episodes": 3, "dataset": transitions}
    return {name: evaluate(policy, name=name, **settings) for name, policy in policies.items()}
