"""The discrete forms: codebooks, losses against NumPy, the guard, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.discrete import build_codebook, nearest
from medgym_offline.offline.gcql import Ball
from tests.helpers import refused
from tests.offline.toy import batch_of, by_hand, toy

CONFIG = OfflineConfig(hidden=5, depth=1, batch=6, alpha=3.0, codewords=7, beta_actor=1.5)
FORMS = ["dqn-discrete", "cql-discrete", "gcql-discrete"]


def test_codebook_of_few_actions_is_these_actions():
    """k-means++ finds every distinct action when there are as many codewords, and Lloyd leaves them there."""
    data = stack_transitions(toy(patients=2, episodes=100, levels=5), "ind", CONFIG)
    book = build_codebook(data, 25)
    grid = np.array([[a, 0, 0, b] for a in np.linspace(-1, 1, 5) for b in np.linspace(-1, 1, 5)])
    for words in book.double().numpy():
        ordered = words[np.lexsort((words[:, 3], words[:, 0]))]
        np.testing.assert_allclose(ordered, grid, atol=1e-7)
    actions = data.rows[..., 9:13]
    torch.testing.assert_close(
        book.gather(1, nearest(book, actions)[..., None].expand(-1, -1, 4)), actions, rtol=0, atol=1e-7
    )


def test_a_learners_codebook_does_not_depend_on_its_mates_or_padding():
    long, short = toy(patients=3, episodes=20), toy(patients=3, episodes=20)
    short = short.select((short.patient != 1) | (short.episode < 25))
    assert long.dataset_id
    stacked = stack_transitions(short, "ind", CONFIG)
    assert len(set(stacked.counts.tolist())) == 2
    together = build_codebook(stacked, 7, seed=3)
    for p in range(3):
        assert torch.equal(build_codebook(stacked.select([p]), 7, seed=3)[0], together[p])
        assert torch.equal(build_codebook(stacked.select([p, 0, p]), 7, seed=3)[2], together[p])
    assert not torch.equal(build_codebook(stacked, 7, seed=4), together)


def test_more_codewords_than_actions_names_the_patient():
    transitions = toy(patients=3, episodes=40, levels=3)
    actions = transitions.actions.copy()
    actions[transitions.patient == 1, 3] = 0.0  # three distinct actions are left
    poor = dataclasses.replace(transitions, actions=actions)
    assert build_codebook(stack_transitions(poor, "ind", CONFIG), 3).shape == (3, 3, 4)
    for algorithm in FORMS:
        with pytest.raises(DatasetError, match=r"toy/1 has only 3 distinct actions.* set codewords to 3 or fewer"):
            train(algorithm, poor, config=CONFIG, progress=False)
    refused(MedGymError, "'codewords' is 1", lambda: OfflineConfig(codewords=1))


@pytest.mark.parametrize("algorithm", FORMS)
def test_losses_and_choices_equal_those_worked_out_by_hand(algorithm):
    stacked = stack_transitions(toy(patients=2, episodes=20), "ind", CONFIG)
    objective = ALGORITHMS[algorithm](CONFIG, stacked, seed=2)
    networks = objective.build([11, 12])
    with torch.no_grad():  # target and critic apart, so that it matters which is used where
        for parameter in networks.target.parameters():
            parameter.mul_(1.5)
    batch = batch_of(stacked)
    loss, numbers = objective.steps(networks)[0][2](networks, batch)
    chosen = networks.policy(batch.state).double().numpy()
    book = networks.codebook.double().numpy()
    outside_seen = 0
    for p in range(2):
        scale, mean = stacked.scale[p].double().numpy(), stacked.mean[p].double().numpy()
        data = stacked.rows[p, : stacked.counts[p]].double().numpy()
        x_all = (data[:, :9] * scale + mean)[:, :7]
        z_all = np.concatenate([x_all, data[:, 9:13]], 1)
        zbar = z_all.mean(0)
        limit = 0.5 * np.linalg.norm(z_all - zbar, axis=1).max()

        def guard(x, a, zbar=zbar, limit=limit):
            return max(0.0, float(np.linalg.norm(np.concatenate([x, a]) - zbar)) - limit)

        guarded = algorithm == "gcql-discrete"

        def guards(s, p=p, guarded=guarded, guard=guard):
            """g of every codeword."""
            x = (s * stacked.scale[p, 0].double().numpy() + stacked.mean[p, 0].double().numpy())[:7]
            return np.array([guarded * guard(x, word) for word in book[p]])

        total = 0.0
        for i in range(6):
            s, a, r, disc, s2 = data[i, :9], data[i, 9:13], data[i, 13], data[i, 14], data[i, 15:]
            q = by_hand(networks.critic, p, s) + 1.5 * guards(s)  # the network's output is Q - beta_a*g
            following = by_hand(networks.target, p, s2) + 1.5 * guards(s2)
            own = q[np.argmin(np.square(book[p] - a).sum(1))]
            total += (own - (r + disc * following[np.argmax(following - 1.5 * guards(s2))])) ** 2
            if algorithm != "dqn-discrete":
                outside_seen += int((guards(s) > 0).sum())
                total += 3.0 * (np.log(np.exp(q + 2.0 * guards(s)).sum()) - own)
            np.testing.assert_allclose(chosen[p, i], book[p][np.argmax(q - 1.5 * guards(s))])
        np.testing.assert_allclose(float(loss[p].detach()), total / 6, rtol=1e-4)
    assert (outside_seen > 0) == (algorithm == "gcql-discrete")
    assert all(value.shape == (2,) for value in numbers.values())


def test_the_balls_limit_as_a_quantile_of_distances():
    stacked = stack_transitions(toy(patients=3, episodes=20), "ind", CONFIG)
    for share in (0.0, 0.37, 1.0):
        ball = Ball(dataclasses.replace(CONFIG, theta_quantile=share), stacked)
        for p in range(3):
            rows = stacked.rows[p].double()
            raw = rows[:, :9] * stacked.scale[p].double() + stacked.mean[p].double()
            z = torch.cat([raw[:, :7], rows[:, 9:13]], 1).numpy()
            distance = np.linalg.norm(z - z.mean(0), axis=1)
            assert float(ball.limit[p]) == pytest.approx(np.quantile(distance, share), rel=1e-5)
        inside = ball.outside(stacked.rows[..., :9], stacked.rows[..., 9:13]) <= 1e-5
        assert inside.double().mean().item() == pytest.approx(max(share, 1 / 60), abs=0.02)
    refused(MedGymError, "theta_quantile", lambda: OfflineConfig(theta_quantile=1.2))


def test_inside_the_ball_gcql_is_cql():
    """To the bit, from the same start: neither guard acts there."""
    transitions = toy(episodes=20)
    wide = dataclasses.replace(CONFIG, updates=30, theta=10.0)
    states = torch.randn(3, 50, 9, generator=torch.Generator().manual_seed(0))
    guarded, plain = (
        train(name, transitions, config=wide, progress=False).policy for name in ("gcql-discrete", "cql-discrete")
    )
    for name, value in plain.state_dict().items():
        assert torch.equal(guarded.state_dict()[name], value)
    narrow = train("gcql-discrete", transitions, config=dataclasses.replace(wide, theta=0.5), progress=False).policy
    assert (narrow.mean(states) - plain.mean(states)).abs().max() > 0.01
