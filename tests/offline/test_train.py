"""The contract of every offline algorithm."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError, UnknownNameError
from medgym_offline.offline import ALGORITHMS, OfflineConfig, TrainResult, train
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.learner import Learner
from medgym_offline.policies import StackedActor, export_torchscript, load_policy, save_policy
from tests.offline.toy import DECISIONS, toy

each_algorithm = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
SHORT = OfflineConfig(updates=60, hidden=16, batch=16)
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))


def short(algorithm: str, **options: object) -> TrainResult:
    return train(algorithm, toy(episodes=20), seed=1, config=SHORT, progress=False, **options)  # type: ignore[arg-type]


@cache
def base(algorithm: str) -> StackedActor:
    return short(algorithm).policy


@each_algorithm
def test_stacked_equals_looped(algorithm: str) -> None:
    """To the bit: all three together, one shard each, and each patient by itself."""
    wanted = base(algorithm).act(OBSERVATIONS)
    assert torch.equal(short(algorithm, shard=1).policy.act(OBSERVATIONS), wanted)
    assert torch.equal(short(algorithm, shard=2).policy.act(OBSERVATIONS), wanted)
    for p in range(3):
        alone = short(algorithm, patients=[f"toy/{p}"]).policy
        assert alone.patients == (f"toy/{p}",)
        torch.testing.assert_close(alone.act(OBSERVATIONS[p : p + 1])[0], wanted[p], rtol=0, atol=1e-6)


@each_algorithm
def test_patient_order_is_irrelevant(algorithm: str) -> None:
    mixed = short(algorithm, patients=["toy/2", "toy/0", "toy/1"]).policy
    assert mixed.patients == ("toy/2", "toy/0", "toy/1")
    assert torch.equal(mixed.select(["toy/0", "toy/1", "toy/2"]).act(OBSERVATIONS), base(algorithm).act(OBSERVATIONS))


@each_algorithm
def test_seed_decides(algorithm: str) -> None:
    wanted = base(algorithm).act(OBSERVATIONS)
    assert torch.equal(short(algorithm).policy.act(OBSERVATIONS), wanted)
    other = train(algorithm, toy(episodes=20), seed=2, config=SHORT, progress=False).policy
    assert (other.act(OBSERVATIONS) - wanted).abs().max() > 1e-3


@each_algorithm
@pytest.mark.parametrize("after", [33, 90])
def test_resume_equals_uninterrupted(
    algorithm: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first or in the second shard, between two writes of the state."""
    monkeypatch.setattr(sys.modules["medgym_offline.offline.train"], "_SAVE_EVERY", 10)

    def stop(done: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        short(algorithm, shard=2, resume=state, on_update=stop)
    assert state.exists()
    counted: list[int] = []
    result = short(algorithm, shard=2, resume=state, on_update=counted.append)
    assert counted[0] == after - after % 10 + 1
    assert torch.equal(result.policy.act(OBSERVATIONS), base(algorithm).act(OBSERVATIONS))
    assert result.log == short(algorithm, shard=2).log
    assert not state.exists()


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    config = dataclasses.replace(SHORT, updates=260)
    with pytest.raises(KeyboardInterrupt):
        train(
            "dqn",
            toy(episodes=20),
            config=config,
            progress=False,
            resume=state,
            on_update=lambda n: n > 250 and stop(n),
        )  # type: ignore[arg-type,return-value]
    with pytest.raises(MedGymError, match="another training"):
        train("dqn", toy(episodes=20), seed=9, config=config, progress=False, resume=state)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(MedGymError, match="unreadable training state"):
        train("dqn", toy(episodes=20), config=config, progress=False, resume=state)


@each_algorithm
def test_files_and_exports_act_alike(algorithm: str, tmp_path: Path) -> None:
    policy = base(algorithm)
    for name in ("policy.safetensors", "policy.pt"):
        again = load_policy(save_policy(policy, tmp_path / name))
        assert torch.equal(again.act(OBSERVATIONS), policy.act(OBSERVATIONS))
    module = torch.jit.load(str(export_torchscript(policy, tmp_path / "one.pt", patient="toy/1")))
    assert (module(OBSERVATIONS[1]) - policy.act(OBSERVATIONS)[1]).abs().max() < 1e-6
    assert policy.provenance["algorithm"] == algorithm
    assert policy.provenance["dataset"] == "medgym/toy"


@each_algorithm
def test_exported_actor_is_the_learners_actor(algorithm: str) -> None:
    """Folding the standardisation into the first layer changes nothing."""
    data = stack_transitions(toy(episodes=20), "ind", SHORT)
    learner = Learner(algorithm, data, 1, SHORT)
    for _ in range(5):
        learner.update()
    state = (OBSERVATIONS - data.mean) / data.scale
    torch.testing.assert_close(
        torch.tanh(learner.finished_actor()(OBSERVATIONS)), learner.networks.policy(state), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("width", [3, 4])
def test_population_and_timing(width: int) -> None:
    result = train("cql", toy(episodes=10, width=width), "pop", config=SHORT, progress=False)
    assert result.policy.patients is None
    assert result.policy.timing == {3: "fixed", 4: "adaptive"}[width]
    assert result.policy.decisions == DECISIONS
    assert result.policy.act(OBSERVATIONS.repeat(3, 1, 1)).shape == (9, 5, width)
    assert [line["update"] for line in result.log] == [50.0, 60.0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_failing_learner_is_named_and_the_others_go_on() -> None:
    transitions = toy(episodes=20)
    # Next observations at the edge of float32 make the Bellman target overflow.
    broken = transitions.next_observations.copy()
    broken[transitions.patient == 1] *= np.float32(1e30)
    result = short_on(dataclasses.replace(transitions, next_observations=broken))
    assert list(result.stopped) == ["toy/1"]
    assert "update" in result.stopped["toy/1"]
    actions = result.policy.act(OBSERVATIONS)
    assert torch.isfinite(actions).all()
    wanted = base("dqn").act(OBSERVATIONS)
    assert torch.equal(actions[0], wanted[0])
    assert torch.equal(actions[2], wanted[2])
    assert result.policy.provenance["stopped"] == result.stopped
    everyone = dataclasses.replace(transitions, next_observations=transitions.next_observations * np.float32(1e30))
    with pytest.raises(MedGymError, match="every learner failed"):
        short_on(everyone)


def short_on(transitions: object) -> TrainResult:
    return train("dqn", transitions, seed=1, config=SHORT, progress=False)  # type: ignore[arg-type]


def test_stopping_is_announced() -> None:
    transitions = toy(episodes=20)
    broken = transitions.next_observations.copy()
    broken[transitions.patient == 1] *= np.float32(1e30)
    with pytest.warns(UserWarning, match="toy/1 stopped at update"):
        short_on(dataclasses.replace(transitions, next_observations=broken))


def test_bad_input_is_named() -> None:
    transitions = toy(episodes=4)
    with pytest.raises(UnknownNameError, match="did you mean 'gcql'"):
        train("gcqll", transitions, progress=False)
    with pytest.raises(UnknownNameError, match="scope"):
        train("dqn", transitions, "individual", progress=False)
    with pytest.raises(DatasetError, match="toy/1 has no episodes"):
        train("dqn", transitions.select(transitions.patient != 1), patients=["toy/1"], progress=False)
