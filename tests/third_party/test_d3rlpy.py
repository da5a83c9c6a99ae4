"""d3rlpy's algorithms on our rows: what they see, what they learn, and that the evaluator reads what they leave."""

import dataclasses

import numpy as np
import pytest
import torch

from experiments.reference.transformer import train_transformer
from medgym_offline.errors import MedGymError
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.data import stack_transitions
from medgym_offline.policies import load_policy
from medgym_offline.third_party import BASELINES, import_d3rlpy, own_fields, read_settings
from tests.helpers import refused
from tests.offline.toy import DECISIONS, center, toy

pytest.importorskip("d3rlpy")
d3rlpy = import_d3rlpy()

from medgym_offline.third_party.training import make_algorithm, replay_buffer, train_baseline  # noqa: E402

SHORT = OfflineConfig(updates=20, hidden=16, batch=16, codewords=12)
OBSERVATIONS = torch.randn(2, 50, 9, generator=torch.Generator().manual_seed(0))


def every_transition(buffer):
    """Through d3rlpy's own picker, the one its batches use."""
    # There is no public way to a transition by number.
    return [buffer.transition_picker(*buffer._buffer[i]) for i in range(buffer.transition_count)]


@pytest.mark.parametrize("width", [3, 4])
def test_each_of_d3rlpys_transitions_is_a_row_of_ours(width):
    """In every episode, not only the first: observation, action, reward, next observation, terminal, interval."""
    config = OfflineConfig(discount="elapsed", gamma=0.9)
    rows = toy(patients=3, episodes=7, width=width, elapsed=width == 4)
    data = stack_transitions(rows, "pop", config)
    seen = every_transition(replay_buffer(rows, data, config, None))
    assert len(seen) == len(rows) == 63
    for i, transition in enumerate(seen):
        np.testing.assert_array_equal(transition.observation, rows.observations[i])
        np.testing.assert_array_equal(transition.action, rows.actions[i])
        assert float(transition.reward[0]) == pytest.approx(rows.rewards[i] / float(data.reward_scale[0]), rel=1e-5)
        assert transition.terminal == float(rows.terminations[i])
        if not rows.terminations[i]:
            np.testing.assert_array_equal(transition.next_observation, rows.next_observations[i])
            discount = 0.9**transition.interval
            assert discount == pytest.approx(float(data.rows[0, i, 9 + width + 1]), rel=1e-5)


def test_the_algorithms_discount_by_the_interval_and_scale_as_we_do():
    """The batch that d3rlpy's loss gets: gamma**(dt/4.8), standardized observations."""
    from d3rlpy.torch_utility import TorchMiniBatch

    config = OfflineConfig(discount="elapsed", gamma=0.9)
    rows = toy(patients=1, episodes=20, elapsed=True)
    data = stack_transitions(rows, "pop", config)
    algorithm = make_algorithm("d3rlpy-iql", data, config, {})
    buffer = replay_buffer(rows, data, config, None)
    batch = TorchMiniBatch.from_batch(
        batch=d3rlpy.dataset.TransitionMiniBatch.from_transitions(every_transition(buffer)),
        gamma=0.9,
        compute_returns_to_go=False,
        device="cpu:0",
        observation_scaler=algorithm.config.observation_scaler,
    )
    torch.testing.assert_close(batch.observations, data.rows[0, :, :9], rtol=1e-4, atol=1e-5)
    discount = 0.9**batch.intervals * (1.0 - batch.terminals)
    torch.testing.assert_close(discount[:, 0], data.rows[0, :, 14], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "width"), [*((name, 4) for name in sorted(BASELINES)), ("d3rlpy-bc", 3), ("d3rlpy-discrete-cql", 3)]
)
def test_the_policy_file_acts_as_d3rlpy_does(algorithm, width, tmp_path):
    """In the box, with its timing and decisions; d3rlpy's checkpoint gives the same back."""
    result = train_baseline(algorithm, toy(patients=2, episodes=20, width=width), 1, SHORT, progress=False)
    assert [line["update"] for line in result.log] == [20.0]
    policy = load_policy(result.save(tmp_path / "policy.pt"))
    actions = policy.act(OBSERVATIONS)
    timing = {3: "fixed", 4: "adaptive"}[width]
    assert (actions.shape, policy.timing, policy.decisions) == ((2, 50, width), timing, DECISIONS)
    assert (actions.abs() <= 1.0).all()
    assert actions.flatten(0, 1).std(0).max() > 1e-4
    wanted = d3rlpy.load_learnable(str(tmp_path / "policy.d3")).predict(OBSERVATIONS.flatten(0, 1).numpy())
    if result.codebook is not None:
        wanted = result.codebook.numpy()[wanted]
    np.testing.assert_allclose(actions.flatten(0, 1).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("algorithm", sorted(BASELINES))
def test_seeds_decide_and_leave_the_global_generators_alone(algorithm):
    rows = toy(patients=2, episodes=20)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    logs = [train_baseline(algorithm, rows, seed, SHORT, progress=False).log for seed in (0, 0, 1)]
    assert logs[0] == logs[1] != logs[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_checkpoints_are_policies_of_shorter_trainings(tmp_path):
    kept = {}

    def keep(update, baseline):
        kept[update] = load_policy(baseline.save(tmp_path / f"{update}.pt")).act(OBSERVATIONS[:1])

    def run(updates, **options):
        config = dataclasses.replace(SHORT, updates=updates)
        return train_baseline("d3rlpy-td3bc", toy(patients=1, episodes=20), 0, config, progress=False, **options)

    run(120, checkpoints=3, on_checkpoint=keep)
    assert list(kept) == [50, 100]
    keep("alone", run(50))
    assert torch.equal(kept["alone"], kept[50])


@pytest.mark.parametrize("algorithm", ["d3rlpy-bc", "d3rlpy-discrete-cql"])
def test_it_learns_from_our_rows(algorithm):
    """The behavior's mean action, or the codeword that pays, of the toy: misaligned rows would show neither."""
    levels = 5 if "discrete" in algorithm else None
    rows = toy(patients=1, episodes=300, spread=0.3 if levels is None else 1.0, expert=levels is None, levels=levels)
    config = OfflineConfig(updates=600, hidden=32, gamma=0.5, critic_lr=3e-3, actor_lr=3e-3, codewords=25)
    own = {"alpha": 0.05, "target_update_interval": 20} if levels else {}
    result = train_baseline(algorithm, rows, 0, config, own, progress=False)
    observations = rows.observations[:200]
    actions = result.algorithm.predict(observations)
    if result.codebook is not None:
        actions = result.codebook.numpy()[actions]
    best = np.stack([center(np.array(0), observations[:, 0]), np.full(200, 0.2)], 1)
    lost = np.square(actions[:, [0, 3]] - best).sum(1).mean()
    assert lost < 0.15, lost  # uniform actions lose about 0.9


def test_settings_have_our_names_or_d3rlpys():
    texts = ["gamma=0.9", "critic_lr=0.01", "expectile=0.8", "n_critics=3", "hidden=8"]
    config, own = read_settings("d3rlpy-iql", OfflineConfig(), texts)
    assert (config.gamma, own) == (0.9, {"expectile": 0.8, "n_critics": 3})
    rows = toy(patients=1, episodes=5)
    made = make_algorithm("d3rlpy-iql", stack_transitions(rows, "pop", config), config, own).config
    assert (made.gamma, made.expectile, made.n_critics, made.critic_learning_rate) == (0.9, 0.8, 3, 0.01)
    assert made.actor_learning_rate == OfflineConfig().actor_lr
    assert {made.actor_encoder_factory.hidden_units[0], *made.critic_encoder_factory.hidden_units} == {8}
    assert read_settings("d3rlpy-cql", config, ["max_q_backup=true"])[1] == {"max_q_backup": True}
    assert "batch_size" not in own_fields("d3rlpy-iql")
    refused(MedGymError, "did you mean 'expectile'", lambda: read_settings("d3rlpy-iql", config, ["expectil=0.8"]))
    many = "'many', expected a whole number"
    refused(MedGymError, many, lambda: read_settings("d3rlpy-iql", config, ["n_critics=many"]))


def test_the_transformer_acts_in_batches_as_d3rlpys_wrapper_does_on_one_episode():
    """d3rlpy's wrapper, given rewards that leave of the return the share of time that remains."""
    config = OfflineConfig(updates=30, hidden=16, batch=16, target_return=0.8)
    policy = train_transformer(toy(patients=3, episodes=7, width=3), 0, config)
    wrapper, looks = policy.algorithm.as_stateful_wrapper(target_return=0.8), 12
    seen = torch.randn(looks, 2, 3, 9, generator=torch.Generator().manual_seed(1))
    seen[..., -2] = torch.linspace(1.0, 0.1, looks)[:, None, None]
    policy.reset(np.zeros((2, 3)))
    for k in range(looks):
        earned = 0.8 * float(seen[k - 1, 1, 2, -2] - seen[k, 1, 2, -2]) if k else 0.0
        expected = wrapper.predict(seen[k, 1, 2].numpy(), earned)
        answer = policy.act(seen[k])
        assert np.allclose(answer[1, 2].numpy(), expected, atol=1e-5), k
        policy.took(answer)
    other = train_transformer(toy(patients=3, episodes=7, width=3), 1, config)
    policy.reset(np.zeros((2, 3)))
    assert not torch.allclose(other.act(seen[0]), policy.act(seen[0]))
