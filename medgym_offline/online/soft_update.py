"""One update of a stack of soft actor-critics: episodes into the replay buffers, gradient steps out of them.

    1  rho, the mean harm per hour of every simulator, moves towards that of the new episodes
    2  the episodes' decisions replace the oldest in the buffer of their policy
    3  `steps` times: draw `batch` of what the policy holds, centre (r + rho dt) and scale, and take one step of
       critics, actor, alpha and copies (:func:`medgym_offline.online.sac.soft_step`)

Scaling divides the rewards of a policy by the root mean square of the discounted sums to come in its first episodes, so
that one learning rate, and one alpha at the start, suit every patient.

Rows and noise of the steps are drawn from the stream (seed, policy, update): no policy's results depend on its stack
mates, and a resumed run goes on with the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.gae import discounts
from medgym_offline.online.networks import Adam, TanhMLP
from medgym_offline.online.replay import Transitions, append, draw_rows, row_width, transitions
from medgym_offline.online.rollouts import Collected
from medgym_offline.online.sac import SoftLearner, soft_step
from medgym_offline.online.state import REPLAY, TrainState
from medgym_offline.online.update import Shapes, accept, centre_rewards, first_scale
from medgym_offline.seeds import generator

__all__ = ["check_capacity", "first_critics", "first_learner", "improve_soft", "soft_critic"]


def soft_critic(observation_dim: int, action_dim: int, hidden: int) -> TanhMLP:
    """Shape of each of the two critics, Q(s, a)."""
    return TanhMLP((observation_dim + action_dim, hidden, hidden, 1))


def first_critics(shape: TanhMLP, seed: int, names: Sequence[str]) -> Tensor:
    """Two critics side by side for each policy of `names`, `(P, 2 m)`."""
    streams = [generator(seed, "online-critic", name, number) for name in names for number in (1, 2)]
    return shape.initial(streams).view(len(names), -1)


def check_capacity(config: TrainConfig, simulators: int, decisions: int) -> None:
    """Refuse a buffer smaller than one update.

    Raises:
        MedGymError: With the number that is needed.
    """
    rows = config.episodes * decisions * (simulators if config.shared else 1)
    if config.base == "sac" and config.soft_capacity < rows:
        raise MedGymError(
            f"training setting soft_capacity is {config.soft_capacity}, but one update brings a policy up to {rows} "
            "decisions; raise it, or lower episodes"
        )


def first_learner(config: TrainConfig, shapes: Shapes, actor: Tensor, critic: Tensor) -> dict[str, Tensor]:
    """What soft actor-critic carries along beside `actor (P, n)` and `critic (P, 2 m)`, by name.

    `target` is the critics' copies, `log_alpha (P, 1)`; `mean`, `square`, `steps` are Adam's of the actor, `alpha_..`
    of log alpha; `replay (P, capacity, W)` is the buffer and `filled (P, 1)` the rows ever written to it.
    """
    policies, log_alpha = actor.shape[0], torch.full((actor.shape[0], 1), config.soft_alpha).log()
    width = row_width(shapes.actor.sizes[0], shapes.actor.action_dim)
    replay = torch.zeros(policies, config.soft_capacity, width)
    moments = (Adam.zeros(actor), Adam.zeros(critic), Adam.zeros(log_alpha))
    learner = SoftLearner(actor, critic, critic.clone(), log_alpha, *moments)
    return _entries(learner) | {"replay": replay, "filled": torch.zeros(policies, 1, dtype=torch.int64)}


def _entries(learner: SoftLearner) -> dict[str, Tensor]:
    """What a state keeps of `learner` under `learner`; the rest has places of its own."""
    moments = {"": learner.actor_adam, "alpha_": learner.alpha_adam}
    adams = {f"{prefix}{name}": value for prefix, adam in moments.items() for name, value in vars(adam).items()}
    return {"target": learner.target, "log_alpha": learner.log_alpha, **adams}


def _learner(state: TrainState, rows: slice) -> SoftLearner:
    """The learner of the policies `rows`: copies, but for the critics' moments, which are those of the state."""

    def adam(prefix: str) -> Adam:
        return Adam(*(state.learner[prefix + name][rows].clone() for name in ("mean", "square", "steps")))

    critic = Adam(*(value[rows] for value in vars(state.optimiser).values()))
    target, log_alpha = (state.learner[name][rows].clone() for name in ("target", "log_alpha"))
    return SoftLearner(
        state.actor[rows].clone(), state.critic[rows].clone(), target, log_alpha, adam(""), critic, adam("alpha_")
    )


def improve_soft(
    config: TrainConfig,
    shapes: Shapes,
    state: TrainState,
    rows: slice,
    simulators: slice,
    batch: Collected,
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Update the policies `rows` of `state` in place; as :func:`medgym_offline.online.update.improve`.

    The numbers are `value_loss`, `alpha`, `entropy` (-mean log pi, of the actions after squashing), and `kl` of the
    policies before and after on the new episodes.
    """
    policies = state.actor[rows].shape[0]
    rewards = centre_rewards(config, state, simulators, batch)
    if state.update == 0:
        scale = first_scale((rewards,), discounts(batch.dt, config.discount, shapes.reference), batch, policies)
        state.scale[rows] = scale.expand(-1, 2)
    found, valid = transitions(batch, policies)
    buffer, filled = (state.learner[name][rows] for name in REPLAY)
    append(buffer, filled, found.packed(), valid)

    learner = _learner(state, rows)
    streams = [generator(config.seed, "online-replay", name, state.update) for name in names]
    harm = state.harm[simulators].view(policies, -1)
    member = torch.arange(policies, device=buffer.device).unsqueeze(1)
    acts, width = state.update >= config.value_warmup, shapes.actor.action_dim
    for _ in range(config.soft_steps):
        drawn = draw_rows(filled, buffer.shape[1], streams, config.soft_batch).to(buffer.device)
        part = Transitions.unpacked(buffer[member, drawn], shapes.actor.sizes[0])
        reward = part.rewards
        if config.centre:
            reward = reward + harm.gather(1, part.simulators.long()) * part.dt
        reward = reward / state.scale[rows, :1]
        normal = [rng.standard_normal((2, config.soft_batch, width), dtype="float32") for rng in streams]
        noise = torch.from_numpy(np.stack(normal, 1)).to(buffer.device)
        shrink = discounts(part.dt, config.discount, shapes.reference)
        loss, density = soft_step(shapes.actor, shapes.critic, learner, part, reward, shrink, noise, config.soft, acts)
    numbers = {
        "value_loss": loss,
        "alpha": learner.log_alpha.exp().squeeze(1),
        "entropy": -density,
        "kl": _moved(shapes, state.actor[rows], learner.actor, found.observations, valid),
    }
    accept(config, state, rows, simulators, learner.actor, learner.critic, _entries(learner), batch.broken)
    return numbers


def _moved(shapes: Shapes, old: Tensor, new: Tensor, observations: Tensor, valid: Tensor) -> Tensor:
    """KL(old || new) `(P,)` of the policies on `observations (P, R, d)`."""
    weights = valid.to(old.dtype) / valid.sum(-1, keepdim=True).clamp_min(1)
    (mean, log_std), (now, now_std) = (
        (shapes.actor.mean(t, observations), shapes.actor.split(t)[1]) for t in (old, new)
    )
    return shapes.actor.kl(mean, log_std, now, now_std, weights)
