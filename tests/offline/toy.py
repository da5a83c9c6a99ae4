"""A semi-Markov decision process whose optimum is known, as a dataset.

K decisions. Column 0 of the observation is a context c, uniform in [-1, 1] and drawn afresh at every decision;
column 8 is the share of decisions left. With h_p a constant of the patient,

    r = 1 - (a_0 - h_p - 0.4*c)^2 - (a_3 - 0.2)^2,    a_3 the interval (adaptive timing),

so the best action is (h_p + 0.4*c, anything, anything, 0.2), and with k decisions left
V*(k) = 1 + gamma + ... + gamma^(k-1),  Q*(s, a) = r(s, a) + gamma*V*(k-1).

With `elapsed` the decision lasts dt = 4.8*(1 + a_3) hours and costs gamma**(dt/4.8), so a_3 trades its reward against
the discount; a_0 does not enter the discount, and

    V*(k) = E_c max_a0 [-(a_0 - h_p - 0.4*c)^2] + max_a3 [1 - (a_3 - 0.2)^2 + gamma**(1 + a_3)*V*(k-1)].

With `levels` L the actions 0 and 3 take L equally spaced values (the others are 0), and the maxima run over these.
"""

import numpy as np
import torch

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.offline.data import Batch

DECISIONS = 3


def center(patient, context):
    """The best first action."""
    return 0.3 * (patient - 1) + 0.4 * context


def optimal_value(left, gamma, *, patient=0, levels=None, elapsed=False):
    """V* with `left` decisions to go, over contexts; see the module for the settings."""
    if left == 0:
        return 0.0
    following = optimal_value(left - 1, gamma, patient=patient, levels=levels, elapsed=elapsed)
    grid = np.linspace(-1, 1, levels or 2001)
    wanted = center(np.array(patient), np.linspace(-1, 1, 2001))
    first = -((grid[:, None] - wanted) ** 2).min(0).mean()
    return float(first + (1.0 - (grid - 0.2) ** 2 + gamma ** (1.0 + elapsed * grid) * following).max())


def toy(patients=3, episodes=300, width=4, seed=0, spread=1.0, expert=False, levels=None, elapsed=False):
    """The dataset; behavior is uniform within +-`spread` of 0, or of the best action (`expert`).

    Patient p's rows do not depend on `patients`.
    """
    shape, rows = (patients, episodes, DECISIONS), patients * episodes * DECISIONS
    obs, action = np.zeros((patients, episodes, DECISIONS + 1, 9)), np.zeros((*shape, width))
    obs[..., 7:] = 1.0 - np.arange(DECISIONS + 1)[:, None] / DECISIONS
    for p in range(patients):
        rng = np.random.default_rng([seed, p])
        obs[p, ..., 0] = rng.uniform(-1, 1, obs.shape[1:3])
        action[p] = rng.uniform(-spread, spread, action.shape[1:])
    best = center(np.arange(patients)[:, None, None], obs[:, :, :-1, 0])
    if levels is not None:
        action = np.floor((action + 1.0) * (levels / 2.0)).clip(0, levels - 1) * 2.0 / (levels - 1) - 1.0
        action[..., 1:3] = 0.0
    if expert:
        action[..., 0] += best
        action[..., 3:] += 0.2
    action = action.clip(-1.0, 1.0)
    reward = 1.0 - (action[..., 0] - best) ** 2 - ((action[..., 3:] - 0.2) ** 2).sum(-1)
    dt = 4.8 * (1.0 + action[..., 3]) if elapsed else np.full(shape, 96.0 / DECISIONS)
    end = np.broadcast_to(np.arange(DECISIONS) == DECISIONS - 1, shape)

    def flat(part):
        return part.reshape(rows, *part.shape[3:]).astype(np.float32)

    zeros = np.zeros(rows, dtype=np.float32)
    return Transitions(
        observations=flat(obs[:, :, :-1]),
        actions=flat(action),
        rewards=flat(reward),
        costs=zeros,
        next_observations=flat(obs[:, :, 1:]),
        terminations=end.reshape(rows),
        truncations=np.zeros(rows, dtype=bool),
        dt=flat(dt),
        time=flat(np.cumsum(dt, 2)),
        severity=zeros,
        monitored=zeros,
        costs_path=zeros[:, None],
        costs_peak=zeros[:, None],
        behavior_log_prob=zeros,
        patient=np.repeat(np.arange(patients), episodes * DECISIONS).astype(np.int32),
        episode=np.repeat(np.arange(patients * episodes), DECISIONS).astype(np.int32),
        patients=tuple(f"toy/{p}" for p in range(patients)),
        timing="adaptive" if width == 4 else "fixed",
        decisions=DECISIONS,
        dataset_id="medgym/toy",
        identity="toy",
    ).validate()


def batch_of(data, normals=0, uniforms=0):
    """The first six rows of each of two learners, and noise of four actions."""
    d, rows, g = data.state_dim, data.rows[:, :6], torch.Generator().manual_seed(0)
    normal = torch.randn((2, normals, 6, 4), generator=g)
    uniform = 2.0 * torch.rand((2, uniforms, 6, 4), generator=g) - 1.0
    columns = rows[..., :d], rows[..., d : d + 4], rows[..., d + 4], rows[..., d + 5], rows[..., d + 6 :]
    return Batch(*columns, normal, uniform)


def by_hand(net, p, x, hidden="relu"):
    """A one-hidden-layer network of patient p in float64 NumPy."""
    w = {k: v.detach().double().numpy() for k, v in net.state_dict().items()}
    h = x @ w["layers.0.weight"][p] + w["layers.0.bias"][p, 0]
    h = np.tanh(h) if hidden == "tanh" else np.maximum(h, 0.0)
    return h @ w["layers.1.weight"][p] + w["layers.1.bias"][p, 0]
