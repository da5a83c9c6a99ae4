"""Snapshots, early stop and early-stopped policies: what they keep, and that a resume changes nothing."""

import numpy as np
import pytest
import torch

from medgym_offline.envs.process import ProcessConfig
from medgym_offline.online import TrainConfig, train
from medgym_offline.online.learner import TrainState
from medgym_offline.online.networks import Adam
from medgym_offline.online.train import load_state, save_state
from medgym_offline.online.watching import Gap, Passing, keep_patient, keep_way, rounded, way_of, way_updates

PROCESS = ProcessConfig(timing="adaptive", decisions=4, cell=6.0)


def state_at(update, returns, kept=None):
    """A state whose parameters are its update's number; `returns` (updates, S)."""
    count, log = returns.shape[1], {"return": returns[:update]}
    actor, zeros = torch.full((count, 3), float(update)), (torch.zeros(count) for _ in range(3))
    rest = (*zeros, torch.zeros(count).long(), log)
    return TrainState(update, actor, actor.clone(), Adam.zeros(actor), *rest, kept={} if kept is None else kept)


@pytest.mark.parametrize("updates", [1, 7, 200])
def test_the_way_is_dense_at_first_and_ends_at_the_end(updates):
    chosen = way_updates(updates)
    assert (chosen[0], chosen[-1]) == (1, updates)
    gaps = np.diff(chosen)
    assert (gaps >= 1).all()
    assert all(b <= max(1, 0.26 * a + 1) for a, b in zip(chosen, gaps))


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed"])
def test_what_is_kept_is_the_same_after_a_kill(tmp_path, killed):
    """Each policy stops by its own curve, and the way is kept; from a checkpoint it goes on as if nothing had been."""
    updates = np.arange(60)
    returns = torch.tensor(np.stack([np.minimum(updates, 20), np.minimum(updates, 35), 0.0 * updates], 1)).float()
    kept = {}
    for update in range(1, 61):
        state = state_at(update, returns, kept)
        keep_way(state, 60)
        if keep_patient(state, 5):
            break
        if killed and update == 40:
            save_state(tmp_path / "state", state, {})
            kept = load_state(tmp_path / "state", {}).kept
    # The mean of updates u-9..u last grows at the first index of the plateau + 9; five updates later patience is over.
    expected = [21 + 9 + 5, 36 + 9 + 5, 10 + 5]
    assert kept["stopped_at"].tolist() == expected
    assert kept["stopped_actor"][:, 0].tolist() == expected
    assert update == max(expected)
    way = way_of(kept)
    assert list(way) == [u for u in way_updates(60) if u <= update]
    assert all((theta == u).all() for u, theta in way.items())


def test_passing_keeps_for_each_patient_its_own_update(tiny_bank):
    """On the way of a shared policy, between random and its end."""
    config, way = TrainConfig(updates=14, episodes=16, hidden=8, shared=True, radius=0.2, value_warmup=1), {}

    def watch(state):
        way[state.update] = state.actor.clone()

    result = train(tiny_bank, PROCESS, config, progress=False, watch=watch)
    gap = Gap.measure(tiny_bank, PROCESS, result.policy, seed=0, episodes=6)
    passing, table = Passing(gap, 0.5), {}
    for update, theta in way.items():
        state = state_at(update, torch.zeros(14, 4))
        state.actor = theta.expand(4, -1)
        table[update] = gap.share(gap.returns(rounded(state.actor)))
        if passing(state):
            break
    else:
        pytest.fail("some patient's share was never passed")
    for p in range(4):
        first = min(u for u in table if table[u][p] >= 0.5)
        best = min((u for u in table if u <= first), key=lambda u: abs(table[u][p] - 0.5))
        assert (passing.update[p], passing.share[p]) == (best, table[best][p])
        assert torch.equal(passing.theta[p], rounded(way[best])[0])
