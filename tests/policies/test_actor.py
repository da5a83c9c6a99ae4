"""Stacked actors: independence of patients, selection, densities, codebooks."""

import numpy as np
import pytest
import torch

from medgym_offline.errors import PolicyError, UnknownNameError
from medgym_offline.policies import Policy, StackedActor
from medgym_offline.stack import StackedMLP
from tests.helpers import refused
from tests.policies.test_formats import IDS, KINDS, OBSERVATIONS, actor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shared", "width"), [(False, 4), (True, 3)])
def test_a_patients_actions_do_not_depend_on_the_batch(kind, shared, width):
    policy = actor(kind, shared, width)
    together = policy.act(OBSERVATIONS)
    assert isinstance(policy, Policy)
    assert (policy.timing, together.shape) == ({3: "fixed", 4: "adaptive"}[width], (3, 20, width))
    assert not together.requires_grad
    assert together.abs().max() <= 1
    np.testing.assert_array_equal(policy.act(OBSERVATIONS.double().numpy()), together.numpy())
    alone = [policy.select([patient]).act(OBSERVATIONS[p : p + 1]) for p, patient in enumerate(IDS)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-6)
    if not shared:
        back = policy.select(IDS[::-1])
        again = StackedActor.concatenate([policy.select([p]) for p in IDS])
        assert (back.patients, again.patients) == (IDS[::-1], IDS)
        assert torch.equal(back.act(OBSERVATIONS.flip(0)), together.flip(0))
        assert torch.equal(again.act(OBSERVATIONS), together)
        if policy.log_std is not None:
            assert torch.equal(back.log_std, policy.log_std.flip(0))


@pytest.mark.parametrize("one_book", [False, True])
def test_acts_with_the_codeword_of_the_largest_output(one_book):
    policy = actor("codebook", False)
    if one_book:
        policy = StackedActor(policy.net, IDS, 20, codebook=policy.codebook[:1])
    weights = {k: v.double().numpy() for k, v in policy.net.state_dict().items()}
    actions, seen = policy.act(OBSERVATIONS), set()
    for p, b in np.ndindex(3, 20):
        h = np.maximum(OBSERVATIONS[p, b].double().numpy() @ weights["layers.0.weight"][p], 0.0)
        best = int(np.argmax(h @ weights["layers.1.weight"][p] + weights["layers.1.bias"][p, 0]))
        assert torch.equal(actions[p, b], policy.codebook[0 if one_book else p, best])
        seen.add((p, best))
    assert len(seen) > 6  # more than two codewords per patient are used


def test_density_is_that_of_a_transformed_normal():
    policy = StackedActor(StackedMLP(1, (9, 4, 3), seeds=[3]), ["a"], log_std=torch.tensor([[-0.5, 0.0, -1.0]]))
    observation = OBSERVATIONS[:1, :1]
    mean = policy.mean(observation).detach()
    base = torch.distributions.Normal(mean, policy.log_std.exp())
    wanted = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform()])
    actions = torch.tanh(base.sample((20,)))[:, 0]
    got = policy.log_prob(observation.expand(1, 20, 9), actions.transpose(0, 1))
    torch.testing.assert_close(got[0], wanted.log_prob(actions[:, None]).sum(-1)[:, 0, 0], rtol=1e-3, atol=1e-3)
    assert torch.isfinite(policy.log_prob(observation, torch.ones(1, 1, 3))).all()  # on the edge of the box


def test_what_does_not_fit_is_named():
    policy, book, plain = actor("tanh", False), StackedMLP(3, (9, 8, 6), "relu"), StackedMLP(3, (9, 4, 4))
    refused(UnknownNameError, "did you mean 'mimic-iv/2'", lambda: policy.select(["mimic-iv/22"]))
    refused(PolicyError, r"\(3, 20, 8\), expected \(patients, episodes, 9\)", lambda: policy.act(OBSERVATIONS[..., :8]))
    refused(PolicyError, "2 patients, the policy 3", lambda: policy.act(OBSERVATIONS[:2]))
    refused(PolicyError, "expected", lambda: policy.act(OBSERVATIONS[0]))
    refused(PolicyError, "3 patient ids cannot hold a stack of 2", lambda: StackedActor(StackedMLP(2, (9, 4, 3)), IDS))
    refused(PolicyError, "width 5", lambda: StackedActor(StackedMLP(3, (9, 4, 5)), IDS))
    refused(PolicyError, "log_std", lambda: StackedActor(plain, IDS, log_std=torch.zeros(2, 4)))
    refused(PolicyError, "deterministic", lambda: StackedActor(plain, IDS).log_prob(OBSERVATIONS, torch.ones(3, 20, 4)))
    refused(PolicyError, r"codebook has shape", lambda: StackedActor(book, IDS, codebook=torch.zeros(3, 5, 4)))
    refused(PolicyError, "outside", lambda: StackedActor(book, IDS, codebook=torch.full((3, 6, 4), 1.5)))
    refused(PolicyError, "width 5", lambda: StackedActor(book, IDS, codebook=torch.zeros(3, 6, 5)))
    both = {"codebook": torch.zeros(3, 6, 4), "log_std": torch.zeros(1, 6)}
    refused(PolicyError, "log_std", lambda: StackedActor(book, IDS, **both))
    refused(PolicyError, "different shape", lambda: StackedActor.concatenate([policy, actor("codebook", False)]))
