"""Training as a whole: scopes, timing, failing learners, states and bad input."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError, UnknownNameError
from medgym_offline.offline import ALGORITHMS, OfflineConfig, TrainResult, train
from medgym_offline.policies import StackedActor
from tests.offline.toy import DECISIONS, toy

each_algorithm = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
SHORT = OfflineConfig(updates=60, hidden=16, batch=16)
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))


def short(algorithm: str, **options: object) -> TrainResult:
    return train(algorithm, toy(episodes=20), seed=1, config=SHORT, progress=False, **options)  # type: ignore[arg-type]


@cache
def base(algorithm: str) -> StackedActor:
    return short(algorithm).policy


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
