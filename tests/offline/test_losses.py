"""The losses against NumPy, continuous and discrete: guards and their ball, codebooks, ensembles of critics."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.discrete import build_codebook, nearest
from medgym_offline.offline.gcql import Ball
from medgym_offline.offline.networks import relu_network
from medgym_offline.stack import StackedMLP
from tests.helpers import refused
from tests.offline.toy import batch_of, by_hand, toy

CONFIG = OfflineConfig(
    hidden=5, depth=1, batch=6, candidates=(2, 2, 1), alpha=3.0, noise=0.1, saturation=0.7, state_scaling="learner",
    codewords=7, beta_actor=1.5,
)  # fmt: skip
TRIO = dataclasses.replace(CONFIG, depth=2, ensemble=3)
FORMS = ["dqn-discrete", "cql-discrete", "gcql-discrete"]


def slices():
    return stack_transitions(toy(patients=2, episodes=20), "ind", CONFIG)


def made(algorithm, config, data):
    """Objective, networks and a batch; targets and an actor apart from where they start, so that all terms matter."""
    objective = ALGORITHMS[algorithm](config, data, seed=2)
    networks = objective.build([11, 12])
    with torch.no_grad():
        for parameter in networks.target.parameters():
            parameter.mul_(1.5)
        if not algorithm.endswith("discrete"):  # so that tanh and clipping matter
            networks.actor.layers[-1].bias.add_(torch.tensor([0.3, -0.2, 1.5, 0.0]))
    return objective, networks, batch_of(data, objective.normals, objective.uniforms)


def columns(batch, p):
    """State, action, reward, discount and next state of a learner's batch in float64 NumPy."""
    names = ("state", "action", "reward", "discount", "next_state")
    return [getattr(batch, name)[p].double().numpy() for name in names]


def pairs(data, p, states, actions):
    """z = (x, a): physiology in the cohort's units, and the action."""
    scale, mean = (part[p, 0].double().numpy() for part in (data.scale, data.mean))
    return np.concatenate([(states * scale + mean)[..., :7], actions], -1)


def ball(data, p, width=11):
    """Center of a learner's z, the first `width` columns, and the distances of its rows from it."""
    rows = data.rows[p, : data.counts[p]].double().numpy()
    z = pairs(data, p, rows[:, :9], rows[:, 9:13])[:, :width]
    return z.mean(0), np.linalg.norm(z - z.mean(0), axis=1)


def outside(data, p, states, actions, width=11):
    """The guard: how far beyond half of the largest distance."""
    center, distances = ball(data, p, width)
    z = pairs(data, p, states, actions)[..., :width]
    return np.maximum(np.linalg.norm(z - center, axis=-1) - 0.5 * distances.max(), 0.0)


@pytest.mark.parametrize("algorithm", ["dqn", "cql", "gcql"])
def test_losses_equal_their_formula(algorithm):
    data = slices()
    objective, networks, batch = made(algorithm, CONFIG, data)
    critic, numbers = objective.critic_loss(networks, batch)
    actor = objective.actor_loss(networks, batch)
    guarded = algorithm == "gcql"
    for p in range(2):
        s, a, r, discount, s2 = columns(batch, p)
        normal, uniform = batch.normal[p].double().numpy(), batch.uniform[p].double().numpy()

        def q(state, action, net=networks.critic, p=p):
            return by_hand(net, p, np.concatenate([state, action], -1))[:, 0]

        def guard(action, s=s, p=p):
            return guarded * outside(data, p, s, action)

        preference = by_hand(networks.actor, p, s, "tanh")
        pi, following = np.tanh(preference), np.tanh(by_hand(networks.actor, p, s2, "tanh"))
        wanted = (q(s, a) - r - discount * q(s2, following, networks.target)) ** 2
        if algorithm != "dqn":
            near = [pi + 0.1 * normal[0], pi + 0.1 * normal[1], a + 0.1 * normal[2]]
            values = [q(s, c) + 2.0 * guard(c) for c in (a, *np.clip(near, -1, 1), uniform[0])]
            wanted += 3.0 * (np.log(np.exp(values).sum(0)) - q(s, a))
        assert float(critic[p].detach()) == pytest.approx(wanted.mean(), rel=2e-5)
        wanted = np.mean(1.5 * guard(pi) - q(s, pi)) + 0.7 * np.mean(preference**2)
        assert float(actor[p].detach()) == pytest.approx(wanted, rel=2e-5)
    assert all(value.shape == (2,) for value in numbers.values())


@pytest.mark.parametrize("algorithm", FORMS)
def test_discrete_losses_and_choices_equal_their_formula(algorithm):
    data = slices()
    objective, networks, batch = made(algorithm, CONFIG, data)
    loss, numbers = objective.steps(networks)[0][2](networks, batch)
    chosen, row, seen = networks.policy(batch.state).double().numpy(), np.arange(6), False
    for p in range(2):
        s, a, r, discount, s2 = columns(batch, p)
        words = networks.codebook[p].double().numpy()

        def guards(states, p=p, words=words):
            """g of every codeword, (rows, codewords)."""
            there = [outside(data, p, states, np.tile(word, (6, 1))) for word in words]
            return (algorithm == "gcql-discrete") * np.stack(there, 1)

        here, there = guards(s), guards(s2)
        q = by_hand(networks.critic, p, s) + 1.5 * here  # the network's output is Q - beta_a*g
        following = by_hand(networks.target, p, s2) + 1.5 * there
        own = q[row, np.square(words - a[:, None]).sum(-1).argmin(1)]
        wanted = (own - r - discount * following[row, (following - 1.5 * there).argmax(1)]) ** 2
        if algorithm != "dqn-discrete":
            wanted += 3.0 * (np.log(np.exp(q + 2.0 * here).sum(1)) - own)
        assert float(loss[p].detach()) == pytest.approx(wanted.mean(), rel=1e-4)
        np.testing.assert_allclose(chosen[p], words[(q - 1.5 * here).argmax(1)])
        seen |= bool((here > 0).any())
    assert seen == (algorithm == "gcql-discrete")
    assert all(value.shape == (2,) for value in numbers.values())


# -- the guard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guard", "width"), [("pair", 11), ("state", 7)])
def test_guard_in_the_target_is_subtracted_where_the_episode_goes_on(guard, width):
    data = slices()
    guarded, networks, batch = made("gcql", dataclasses.replace(CONFIG, beta_target=3.0, guard=guard), data)
    found, wanted = guarded.target(networks, batch), ALGORITHMS["dqn"](CONFIG, data).target(networks, batch)
    action = networks.policy(batch.next_state).detach().double().numpy()
    for p in range(2):
        beyond = outside(data, p, columns(batch, p)[4], action[p], width)
        assert (beyond > 0).any()
        torch.testing.assert_close(found[p], wanted[p] - 3.0 * batch.discount[p] * torch.from_numpy(beyond).float())
    last = batch.discount == 0
    assert last.any()
    assert torch.equal(found[last], batch.reward[last])


def test_a_guard_on_states_cancels_in_the_logsumexp_and_in_the_actor():
    """So it acts in the Bellman target alone, and the settings that leave that out are refused."""
    config = dataclasses.replace(CONFIG, beta_target=1.0, guard="state", theta=0.1)
    objective, networks, batch = made("gcql", config, slices())
    actions = objective.candidates(networks, batch)
    guard = objective.guard(batch, actions)
    assert (guard > 0).any()
    q = networks.q_candidates(batch.state, actions).detach().requires_grad_()
    weights = [torch.autograd.grad(torch.logsumexp(q + extra, 2).sum(), q)[0] for extra in (0.0, guard)]
    torch.testing.assert_close(*weights)
    action = networks.policy(batch.state).detach().requires_grad_()
    beyond = objective.ball.outside(batch.state, action)
    assert torch.autograd.grad(beyond.sum(), action)[0].abs().max() == 0
    other = OfflineConfig(beta_target=1.0)
    refused(MedGymError, "gcql-discrete", lambda: ALGORITHMS["gcql-discrete"](other, slices()))


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_the_balls_limit_as_a_quantile_of_distances(share):
    data = slices()
    found = Ball(dataclasses.replace(CONFIG, theta_quantile=share), data)
    limits = [np.quantile(ball(data, p)[1], share) for p in range(2)]
    np.testing.assert_allclose(found.limit, limits, rtol=1e-5)
    inside = found.outside(data.rows[..., :9], data.rows[..., 9:13]) <= 1e-5
    assert inside.double().mean().item() == pytest.approx(max(share, 1 / 60), abs=0.02)


def test_inside_the_ball_gcql_is_cql():
    """To the bit, from the same start: neither guard acts there."""

    def trained(name, theta):
        config = dataclasses.replace(CONFIG, updates=30, theta=theta)
        return train(name, toy(episodes=20), config=config, progress=False).policy

    guarded, plain = trained("gcql-discrete", 10.0), trained("cql-discrete", 10.0)
    for name, value in plain.state_dict().items():
        assert torch.equal(guarded.state_dict()[name], value)
    states = torch.randn(3, 50, 9, generator=torch.Generator().manual_seed(0))
    narrow = trained("gcql-discrete", 0.5)
    assert (narrow.mean(states) - plain.mean(states)).abs().max() > 0.01


# -- codebooks ---------------------------------------------------------------------------------------------------------


def test_codebook_of_few_actions_is_these_actions():
    """k-means++ finds every distinct action when there are as many codewords, and Lloyd leaves them there."""
    data = stack_transitions(toy(patients=2, episodes=100, levels=5), "ind", CONFIG)
    book = build_codebook(data, 25)
    grid = np.array([[a, 0, 0, b] for a in np.linspace(-1, 1, 5) for b in np.linspace(-1, 1, 5)])
    for words in book.double().numpy():
        np.testing.assert_allclose(words[np.lexsort((words[:, 3], words[:, 0]))], grid, atol=1e-7)
    actions = data.rows[..., 9:13]
    found = book.gather(1, nearest(book, actions)[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(found, actions, rtol=0, atol=1e-7)
    assert not torch.equal(build_codebook(slices(), 7, seed=3), build_codebook(slices(), 7, seed=4))


def test_more_codewords_than_actions_names_the_patient():
    transitions = toy(patients=3, episodes=40, levels=3)
    actions = transitions.actions.copy()
    actions[transitions.patient == 1, 3] = 0.0  # three distinct actions are left
    poor = dataclasses.replace(transitions, actions=actions)
    assert build_codebook(stack_transitions(poor, "ind", CONFIG), 3).shape == (3, 3, 4)
    for algorithm in FORMS:
        words = r"toy/1 has only 3 distinct actions.* set codewords to 3 or fewer"
        refused(DatasetError, words, partial(train, algorithm, poor, config=CONFIG, progress=False))


# -- ensembles ---------------------------------------------------------------------------------------------------------


def members(stack):
    """Members 0, 1 and 2 of every learner."""
    return [stack.select(range(e, stack.patients, 3)) for e in range(3)]


@pytest.mark.parametrize("algorithm", ["dqn", "cql", "gcql", *FORMS])
def test_each_member_has_the_gradient_of_its_own_loss(algorithm):
    """With one target for all (gamma 0), the members are as many critics trained apart."""
    data = slices()
    data.rows[..., 14] = 0.0
    objective, networks, batch = made(algorithm, TRIO, data)
    loss, numbers = objective.steps(networks)[0][2](networks, batch)
    gradients = torch.autograd.grad(loss.sum(), list(networks.critic.parameters()))
    td, total = [], torch.zeros(2)
    for e, member in enumerate(members(networks.critic)):
        lone, nets, _ = made(algorithm, dataclasses.replace(TRIO, ensemble=1), data)
        nets.critic.load_state_dict(member.state_dict())
        own, seen = lone.steps(nets)[0][2](nets, batch)
        td.append(seen["td"])
        total = total + own.detach()
        for gradient, wanted in zip(gradients, torch.autograd.grad(own.sum(), list(nets.critic.parameters()))):
            torch.testing.assert_close(gradient[e::3], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.detach(), total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(numbers["td"], torch.stack(td).mean(0), rtol=1e-5, atol=1e-6)


def test_targets_use_the_smallest_value_and_choices_the_mean():
    objective, networks, batch = made("dqn", TRIO, slices())
    action = networks.policy(batch.next_state)
    joined = torch.cat([batch.next_state, action], -1)
    values, targets = (
        torch.stack([member(joined).squeeze(-1) for member in members(net)])
        for net in (networks.critic, networks.target)
    )
    torch.testing.assert_close(networks.q(batch.next_state, action), values.mean(0))
    target = objective.target(networks, batch)
    torch.testing.assert_close(target, batch.reward + batch.discount * targets.amin(0))
    objective, networks, batch = made("dqn-discrete", TRIO, slices())
    values = torch.stack([member(batch.next_state) for member in members(networks.target)])
    chosen = values.mean(0).argmax(-1)
    smallest = values.gather(-1, chosen[None, ..., None].expand(3, -1, -1, 1)).squeeze(-1).amin(0)
    target = objective.target(networks, batch)
    torch.testing.assert_close(target, batch.reward + batch.discount * smallest)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_merged_network_is_the_mean_of_the_members(depth):
    data = slices()
    _, networks, _ = made("gcql-discrete", dataclasses.replace(TRIO, depth=depth), data)
    with torch.no_grad():
        for layer in networks.critic.layers:
            layer.bias.normal_()
    state = data.rows[:, :30, :9]
    mean = torch.stack([member(state) for member in members(networks.critic)]).mean(0)
    merged = networks.acting()
    assert merged.sizes == (9, *[15] * depth, 7)
    torch.testing.assert_close(merged(state), mean, rtol=1e-5, atol=1e-5)
    values = networks.values_each(state)
    assert (values.mean(1) > mean + 0.01).any()  # Q holds the guard, what decides does not


@pytest.mark.parametrize("sizes", [(13, 1), (13, 8, 1), (13, 16, 8, 1), (13, 8, 8, 8, 5)])
def test_values_and_gradients_of_the_fused_pass_are_autograds(sizes):
    net = StackedMLP(3, sizes, "relu")
    with torch.no_grad():
        for layer in net.layers:
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
    rows = torch.randn(3, 50, 13, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, 50, sizes[-1], generator=torch.Generator().manual_seed(2))
    passes = [relu_network(net, rows), net(rows)]
    torch.testing.assert_close(*passes, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad((values * weights).sum(), list(net.parameters())) for values in passes]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
