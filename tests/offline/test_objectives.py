"""The losses, against values worked out with NumPy, and the guard's gradients."""

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.dqn import DQN
from tests.helpers import refused
from tests.offline.toy import batch_of, by_hand, toy

CONFIG = OfflineConfig(
    hidden=5, depth=1, batch=6, candidates=(2, 2, 1), alpha=3.0, noise=0.1, saturation=0.7, state_scaling="learner"
)


def data():
    return stack_transitions(toy(patients=2, episodes=4), "ind", CONFIG)


def nets(config=CONFIG):
    networks = DQN(config, data()).build([11, 12])
    with torch.no_grad():  # an actor away from zero, so that tanh and clipping matter
        networks.actor.layers[-1].bias.add_(torch.tensor([0.3, -0.2, 1.5, 0.0]))
    return networks


def losses_by_hand(algorithm, networks, batch, stacked):
    """Critic and actor loss of each learner, sample by sample."""
    critic, actor = [], []
    for p in range(2):
        s, a, r, disc, s2 = (
            getattr(batch, n)[p].double().numpy() for n in ("state", "action", "reward", "discount", "next_state")
        )
        normal, uniform = batch.normal[p].double().numpy(), batch.uniform[p].double().numpy()
        raw = s * stacked.scale[p].double().numpy() + stacked.mean[p].double().numpy()
        rows = stacked.rows[p, : stacked.counts[p]].double().numpy()
        every = rows[:, :9] * stacked.scale[p].double().numpy() + stacked.mean[p].double().numpy()
        z_all = np.concatenate([every[:, :7], rows[:, 9:13]], 1)
        zbar = z_all.mean(0)
        radius = np.linalg.norm(z_all - zbar, axis=1).max()

        def q(state, action, net=networks.critic, p=p):
            return float(by_hand(net, p, np.concatenate([state, action]), "relu")[0])

        def guard(x, action, zbar=zbar, radius=radius):
            z = np.concatenate([x[:7], action])
            return max(0.0, float(np.linalg.norm(z - zbar)) - 0.5 * radius)

        total_critic = total_actor = 0.0
        for i in range(6):
            pi = np.tanh(by_hand(networks.actor, p, s[i], "tanh"))
            pi2 = np.tanh(by_hand(networks.actor, p, s2[i], "tanh"))
            y = r[i] + disc[i] * q(s2[i], pi2, networks.target)
            loss = (q(s[i], a[i]) - y) ** 2
            if algorithm != "dqn":
                near = [pi + 0.1 * normal[0, i], pi + 0.1 * normal[1, i], a[i] + 0.1 * normal[2, i]]
                options = [a[i], *(np.clip(c, -1, 1) for c in near), uniform[0, i]]
                beta = 2.0 if algorithm == "gcql" else 0.0
                values = [q(s[i], c) + beta * guard(raw[i], c) for c in options]
                loss += 3.0 * (np.log(np.sum(np.exp(values))) - q(s[i], a[i]))
            total_critic += loss / 6
            total_actor += -q(s[i], pi) / 6 + (2.0 * guard(raw[i], pi) / 6 if algorithm == "gcql" else 0.0)
            total_actor += 0.7 * float(np.mean(by_hand(networks.actor, p, s[i], "tanh") ** 2)) / 6
        critic.append(total_critic)
        actor.append(total_actor)
    return critic, actor


@pytest.mark.parametrize("algorithm", ["dqn", "cql", "gcql"])
def test_losses_equal_their_formula(algorithm):
    stacked, networks = data(), nets()
    objective = ALGORITHMS[algorithm](CONFIG, stacked)
    batch = batch_of(stacked, objective.normals, objective.uniforms)
    critic, numbers = objective.critic_loss(networks, batch)
    wanted_critic, wanted_actor = losses_by_hand(algorithm, networks, batch, stacked)
    np.testing.assert_allclose(critic.detach().numpy(), wanted_critic, rtol=2e-5)
    np.testing.assert_allclose(objective.actor_loss(networks, batch).detach().numpy(), wanted_actor, rtol=2e-5)
    assert all(value.shape == (2,) for value in numbers.values())


@pytest.mark.parametrize("guard", ["pair", "state"])
def test_guard_in_the_target_is_subtracted_where_the_episode_goes_on(guard):
    stacked, networks = data(), nets()
    config = OfflineConfig.from_dict(CONFIG.to_dict() | {"beta_target": 3.0, "guard": guard})
    plain, guarded = ALGORITHMS["dqn"](CONFIG, stacked), ALGORITHMS["gcql"](config, stacked)
    batch = batch_of(stacked)
    # The ball by hand: rows back in the cohort's units, mean and largest distance over the learner's own rows.
    d, physiology = stacked.state_dim, 7
    width = physiology + (4 if guard == "pair" else 0)
    for p in range(2):
        x = (stacked.rows[p, :, :physiology] * stacked.scale[p, :, :physiology]).double()
        z = torch.cat([x, stacked.rows[p, :, d : d + 4].double()], -1)[: stacked.counts[p], :width]
        middle = z.mean(0)
        limit = config.theta * (z - middle).norm(dim=-1).max()
        following = batch.next_state[p]
        there = torch.cat(
            [following[:, :physiology] * stacked.scale[p, :, :physiology], networks.policy(batch.next_state)[p]], -1
        )[:, :width]
        outside = ((there.double() - middle).norm(dim=-1) - limit).clamp(min=0)
        assert (outside > 0).any()
        wanted = plain.target(networks, batch)[p] - 3.0 * batch.discount[p] * outside
        torch.testing.assert_close(guarded.target(networks, batch)[p], wanted.float())
    last = batch.discount == 0
    assert last.any()
    assert torch.equal(guarded.target(networks, batch)[last], batch.reward[last])


def test_a_guard_on_states_cancels_in_the_logsumexp_and_in_the_actor():
    """So it acts in the Bellman target alone, and the settings that leave that out are refused."""
    stacked, networks = data(), nets()
    config = OfflineConfig.from_dict(CONFIG.to_dict() | {"beta_target": 1.0, "guard": "state", "theta": 0.1})
    objective = ALGORITHMS["gcql"](config, stacked)
    batch = batch_of(stacked, objective.normals, objective.uniforms)
    actions = objective.candidates(networks, batch)
    guard = objective.guard(batch, actions)
    assert (guard > 0).any()
    q = networks.q_candidates(batch.state, actions).detach().requires_grad_()
    weights = [torch.autograd.grad(torch.logsumexp(q + extra, 2).sum(), q)[0] for extra in (0.0, guard)]
    torch.testing.assert_close(*weights)
    action = networks.policy(batch.state).detach().requires_grad_()
    outside = objective.ball.outside(batch.state, action)
    assert torch.autograd.grad(outside.sum(), action)[0].abs().max() == 0
    refused(MedGymError, "set beta_target", lambda: OfflineConfig(guard="state"))
    refused(MedGymError, "did you mean 'state'", lambda: OfflineConfig(guard="stat", beta_target=1.0))
    with pytest.raises(MedGymError, match="gcql-discrete"):
        ALGORITHMS["gcql-discrete"](OfflineConfig(beta_target=1.0), stacked)
