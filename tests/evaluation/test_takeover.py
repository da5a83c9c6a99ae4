"""A policy takes over from the clinician: what is before does not count, and nothing is lost or counted twice."""

from functools import partial

import numpy as np
import pytest
import torch

from medgym_offline import load_simulators
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.timing import decisions_before
from medgym_offline.errors import MedGymError, ProtocolError
from medgym_offline.evaluation import Protocol, compare, evaluate
from medgym_offline.leaderboard import submit
from medgym_offline.policies.builtin import builtin_policy
from tests.helpers import refused
from tests.rolled import played

# A time at which a decision falls under fixed timing, and one at which none does.
TIMES = {"sepsis-v0": (24.0, 6.0), "diabetes-v0": (58 / 12, 6.0), "anesthesia-v0": (40.0, 33.0), "toy-v0": (4.0, 5.0)}


@pytest.mark.parametrize("name", TIMES)
def test_a_clinician_who_takes_over_at_a_decision_changes_nothing(name):
    bank = load_simulators(name).select(2)
    settings = {"bank": bank, "timing": "fixed", "episodes": 3, "worlds": ("own",)}
    time, decision = TIMES[name][0], {"sepsis-v0": 5, "anesthesia-v0": 2}.get(name, 1)
    plain, late = evaluate("clinician", **settings), evaluate("clinician", takeover=time, **settings)
    for curve in ("severity", "monitored"):
        whole, rest = plain.curves[curve]["mean"], late.curves[curve]["mean"]
        assert 1 < len(rest) < len(whole)
        np.testing.assert_allclose(rest, whole[-len(rest) :], rtol=1e-4, atol=1e-5)
    assert late.curves["times"][0] == pytest.approx(time)
    process = DecisionProcess(bank.world("own"), ProcessConfig(timing="fixed", disease=bank.disease.name))
    act = builtin_policy("clinician", bank, "fixed").act
    again, _ = played(process, act, Protocol(disease=bank.disease.name).seed, 3)
    before = again.rewards[:, :, :decision].double().sum(-1).mean(-1).numpy()
    total = before + late.per_patient["return"]
    np.testing.assert_allclose(total, plain.per_patient["return"], rtol=1e-5, atol=1e-5)
    assert late.metrics["decisions_used"] == plain.metrics["decisions_used"] - decision


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("timing", ["fixed", "adaptive"])
def test_the_integral_of_severity_is_that_before_and_after(name, timing):
    """A decision is forced at any time of the grid; the return is -0.1 times the integral (and a small burden)."""
    bank, time = load_simulators(name).select(2).world("own"), TIMES[name][1]
    config = ProcessConfig(timing=timing, disease=bank.disease.name)
    process, first = DecisionProcess(bank, config, time), decisions_before(time, config)
    protocol = Protocol(disease=bank.disease.name)
    whole, _ = played(process, builtin_policy("clinician", bank, timing).act, protocol.seed, 2)
    assert bool(whole.terminated[:, :, -1].all())
    assert (whole.time[:, :, first - 1] - time).abs().max() < 1e-5, "a decision ends there"
    assert (whole.time[:, :, : first - 1] < time - 1e-5).all()
    after = whole.since(first)
    assert torch.equal(after.states[:, :, 0], whole.states[:, :, first])
    parts = whole.rewards[:, :, :first].double().sum(-1) + after.rewards.double().sum(-1)
    assert torch.allclose(parts, whole.rewards.double().sum(-1))
    settings = {"bank": bank, "worlds": ("own",), "episodes": 2, "timing": timing, "protocol": protocol}
    found = evaluate("clinician", takeover=time, **settings)
    np.testing.assert_allclose(found.per_patient["return"], after.rewards.double().sum(-1).mean(-1), rtol=1e-5)
    hours = bank.disease.process.horizon - time
    assert found.metrics["severity_mean"] * hours == pytest.approx(-10 * found.metrics["return"], rel=0.05)


def test_what_comes_before_is_the_same_whoever_takes_over(tiny_bank):
    settings = {"bank": tiny_bank, "episodes": 2, "worlds": ["own"], "takeover": 6.0}
    found = [evaluate(name, timing=t, **settings) for name in ("zero", "random") for t in ("fixed", "adaptive")]
    assert len({e.curves["monitored"]["mean"][0] for e in found}) == 1
    assert len({e.metrics["severity_mean"] for e in found}) == 4


class Remembers:
    """Half of every treatment; writes down what it is asked and what is played."""

    timing = "fixed"

    def reset(self, seeds):
        self.asked, self.played = [], []

    def act(self, observations):
        self.asked.append(observations)
        return np.zeros((*observations.shape[:2], 3), np.float32)

    def took(self, actions):
        self.played.append(actions)


def test_a_policy_remembers_what_the_clinician_did(tiny_bank):
    """It is asked and told from the start, so that windows of a history hold the clinician's actions."""
    policy = Remembers()
    evaluate(policy, bank=tiny_bank, episodes=1, worlds=["own"], takeover=10.0)
    clinician = builtin_policy("clinician", tiny_bank, "fixed")
    assert len(policy.asked) == len(policy.played) == 20
    for k in range(20):
        treats = clinician.act(torch.as_tensor(policy.asked[k])) if k < 3 else torch.zeros(4, 1, 3)
        torch.testing.assert_close(torch.as_tensor(policy.played[k]), treats)
    clock = 96.0 * (1.0 - np.array([float(seen[0, 0, -2]) for seen in policy.asked]))
    np.testing.assert_allclose(clock[:4], [0.0, 4.8, 9.6, 10.0], atol=1e-4)


USELESS = [
    (0.0, "a multiple of 1, the grid of metrics, above 0"),
    (-2.0, "between 0 and the horizon of 96"),
    (96.0, "between 0 and the horizon of 96"),
    (float("nan"), "between 0 and the horizon of 96"),
    (2.5, "a multiple of 1, the grid of metrics"),
    (95.0, "0 of 20 decisions are left"),
]


@pytest.mark.parametrize(("time", "why"), USELESS)
def test_a_time_that_will_not_do_is_refused_in_one_line(tiny_bank, time, why):
    refused(ProtocolError, why, lambda: evaluate("zero", bank=tiny_bank, episodes=1, takeover=time))


def test_what_is_left_must_fill_the_rest():
    config = ProcessConfig(disease="sepsis", decisions=3)
    assert (decisions_before(0.0, config), decisions_before(32.0, config), decisions_before(60.0, config)) == (0, 1, 2)
    refused(ProtocolError, "1 of 3 decisions are left then, too few", lambda: decisions_before(40.0, config))
    assert decisions_before(40.0, ProcessConfig("fixed", 3, disease="sepsis")) == 2


def test_it_is_compared_and_submitted_only_as_what_it_is(tiny_bank, tmp_path):
    settings = {"bank": tiny_bank, "episodes": 1, "worlds": ["own"]}
    plain, early, late = (evaluate("zero", takeover=t, **settings) for t in (None, 2.0, 6.0))
    assert "takeover" not in plain.protocol
    assert late.protocol["takeover"] == late.deviations["takeover"]["used"] == 6.0
    for other in (plain, early):
        refused(ProtocolError, "differ in takeover", partial(compare, late, other))
    assert compare(late, late).percent == 0.0
    late.write(tmp_path / "result")
    sent = partial(submit, [tmp_path / "result"], "Late", tmp_path / "submission")
    refused(MedGymError, "of a takeover, an entry of whole episodes", sent)
