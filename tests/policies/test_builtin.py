"""Policies without learning."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medgym_offline.diseases import disease
from medgym_offline.errors import PolicyError, UnknownNameError
from medgym_offline.policies import ClinicianPolicy, ConstantPolicy, Policy, RandomPolicy, builtin_policy, reset_policy
from tests.helpers import refused

EVERY = ("zero", "max", "random", "clinician", "constant:0.25,0.5,0.75")


def observe(hour, left, patients=4, episodes=3, decisions=20):
    observations = torch.randn(patients, episodes, 9)
    observations[..., 7] = (96.0 - hour) / 96.0
    observations[..., 8] = left / decisions
    return observations


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("timing", "width"), [("adaptive", 4), ("fixed", 3)])
def test_every_builtin_is_a_policy(tiny_bank, name, timing, width):
    policy = builtin_policy(name, tiny_bank, timing, 20)
    assert isinstance(policy, Policy)
    assert (policy.timing, policy.action_dim, policy.decisions) == (timing, width, 20)
    actions, chosen = policy.act(observe(0.0, 20)), policy.select([tiny_bank.patients[2]])
    assert (actions.shape, chosen.act(observe(0.0, 20, patients=1)).shape) == ((4, 3, width), (1, 3, width))
    assert actions.abs().max() <= 1
    assert isinstance(policy.act(observe(0.0, 20).numpy()), np.ndarray)


def test_treatments_and_default_interval(tiny_bank):
    at = observe(10.0, 18)
    for name, value in (("zero", -1), ("max", 1)):
        assert (builtin_policy(name, tiny_bank, "fixed").act(at) == value).all()
    constant = builtin_policy("constant:0.25,0.5,0.75", tiny_bank, "adaptive", 5).act(at)
    np.testing.assert_allclose(constant[0, 0, :3], [-0.5, 0.0, 0.5])
    hours = 0.5 + (constant[0, 0, 3] + 1) / 2 * 35.5
    np.testing.assert_allclose(hours, 96 / 5, rtol=1e-6)


def test_random_is_uniform_and_belongs_to_the_episode():
    policy, seeds = RandomPolicy(("a", "b"), "adaptive", 20), np.arange(2 * 400).reshape(2, 400)
    reset_policy(policy, seeds)
    draws = torch.stack([policy.act(observe(0, left, 2, 400)) for left in range(20, 0, -1)])
    sample = draws.flatten()
    assert (float(sample.mean()), float(sample.var())) == pytest.approx((0.0, 1 / 3), abs=0.01)
    assert sample.abs().max() <= 1
    assert len(sample.unique()) > 0.95 * len(sample)
    # Episode 7 of patient b alone, in another batch, asked in another order:
    alone = RandomPolicy(["b"], "adaptive", 20)
    reset_policy(alone, seeds[1:, 7:8])
    for left in (3, 20, 11):
        assert torch.equal(alone.act(observe(50, left, 1, 1))[0, 0], draws[20 - left, 1, 7])


def test_clinician_gives_the_mean_of_the_coming_interval():
    schedule = torch.rand(2, 96, 3)
    policy = ClinicianPolicy(schedule, ["a", "b"], "fixed", 20)
    for hour in (0.0, 4.8, 10.3, 95.0):
        u = (policy.act(observe(hour, 20, 2, 1)) + 1) / 2
        fine = torch.linspace(hour, min(hour + 4.8, 96.0), 20001)[:-1].long()
        torch.testing.assert_close(u[:, 0], schedule[:, fine].mean(1), rtol=0, atol=2e-3)
    assert torch.isfinite(policy.act(observe(96.0, 0, 2, 1))).all()


def test_clinician_after_the_end_of_the_stay_repeats_the_last_day():
    schedule = torch.rand(1, 96, 3)
    schedule[0, 40:] = torch.nan
    policy = ClinicianPolicy(schedule, ["a"], "fixed", 20)
    u = (policy.act(observe(60.0, 8, 1, 1)) + 1) / 2
    torch.testing.assert_close(u[0, 0], schedule[0, 16:40].mean(0), rtol=0, atol=1e-5)
    shorter = ClinicianPolicy(schedule[:, :40], ["a"], "fixed", 20)
    assert torch.equal(shorter.act(observe(38.0, 8, 1, 1)), policy.act(observe(38.0, 8, 1, 1)))


def test_bad_input_is_named(tiny_bank):
    refused(UnknownNameError, "did you mean 'clinician'", lambda: builtin_policy("clinican", tiny_bank))
    refused(UnknownNameError, "'zero:1'", lambda: builtin_policy("zero:1", tiny_bank))
    refused(UnknownNameError, "did you mean 'adaptive'", lambda: builtin_policy("zero", tiny_bank, "adaptiv"))
    refused(PolicyError, "needs a treatment", lambda: builtin_policy("constant", tiny_bank))
    refused(PolicyError, "cannot read", lambda: builtin_policy("constant:low,0,0", tiny_bank))
    refused(PolicyError, "shape", lambda: builtin_policy("constant:0.1,0.2", tiny_bank))
    refused(PolicyError, "normalized", lambda: builtin_policy("constant:40,0,0", tiny_bank))
    refused(PolicyError, "normalized", lambda: ConstantPolicy((0.1, float("nan"), 0.2)))
    bare = SimpleNamespace(patients=("a",), name="bare", disease=disease("sepsis"))
    refused(PolicyError, "holds no charted treatment", lambda: builtin_policy("clinician", bare))
    charted = torch.stack([torch.zeros(96, 3), torch.full((96, 3), torch.nan)])
    refused(PolicyError, "patient b has no charted", lambda: ClinicianPolicy(charted, ["a", "b"]))
    refused(PolicyError, "2 patients, the policy 4", lambda: builtin_policy("random", tiny_bank).act(observe(0, 20, 2)))
    refused(PolicyError, r"call reset\(seeds\)", lambda: RandomPolicy(None).act(observe(0, 20)))
