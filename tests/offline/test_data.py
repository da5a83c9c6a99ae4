"""Slices of a dataset and the batches drawn from them."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError, UnknownNameError
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.data import BatchSampler, stack_transitions
from tests.helpers import refused
from tests.offline.toy import toy

CONFIG = OfflineConfig(gamma=0.9)


def test_slices_hold_each_patients_rows_standardized():
    transitions = toy(patients=3, episodes=20)
    stacked = stack_transitions(transitions, "ind", CONFIG)
    assert stacked.keys == transitions.patients
    for p in range(3):
        own = transitions.select(patients=[p])
        rows = stacked.rows[p, : stacked.counts[p]].numpy()
        back = rows[:, :9] * stacked.scale[p].numpy() + stacked.mean[p].numpy()
        np.testing.assert_allclose(back, own.observations, atol=1e-5)
        np.testing.assert_array_equal(rows[:, 9:13], own.actions)
        np.testing.assert_allclose(rows[:, 13] * own.rewards.std(), own.rewards, atol=1e-5)
        np.testing.assert_allclose(rows[:, 14], np.where(own.terminations, 0, 0.9), rtol=1e-6)
        np.testing.assert_allclose(rows[:-1, 15:][~own.terminations[:-1]], rows[1:, :9][~own.terminations[:-1]])


def test_elapsed_discount_composes_over_a_split_interval():
    transitions = toy(patients=1, episodes=2)
    dt = np.array([4.8, 9.6, 2.4, 4.8, 9.6, 2.4], dtype=np.float32)
    elapsed = OfflineConfig(gamma=0.9, discount="elapsed")
    stacked = stack_transitions(dataclasses.replace(transitions, dt=dt), "ind", elapsed)
    np.testing.assert_allclose(stacked.rows[0, :2, 14], [0.9, 0.81], rtol=1e-6)
    assert stacked.rows[0, 2, 14] == 0  # terminal


def test_padding_is_never_drawn_and_every_row_is():
    transitions = toy(patients=2, episodes=10)
    short = transitions.select((transitions.patient == 1) | (transitions.episode < 2))
    stacked = stack_transitions(short, "ind", CONFIG)
    assert stacked.counts.tolist() == [6, 30]
    stacked.rows[~stacked.present] = torch.nan
    sampler = BatchSampler(stacked, 0, 50)
    drawn = torch.cat([sampler.draw().action for _ in range(20)], 1)
    assert torch.isfinite(drawn).all()
    assert [len(drawn[p].unique(dim=0)) for p in range(2)] == [6, 30]


def test_scaling_by_the_dataset_or_not_at_all():
    transitions = toy(patients=3, episodes=20)
    rewards, observations = transitions.rewards.astype(np.float64), transitions.observations.astype(np.float64)
    whole = OfflineConfig(gamma=0.9, state_scaling="dataset", reward_scaling="dataset")
    some = stack_transitions(transitions, "ind", whole, ["toy/2", "toy/0"])
    np.testing.assert_allclose(some.reward_scale, rewards.std(), rtol=1e-6)
    np.testing.assert_allclose(some.mean[:, 0], observations.mean(0)[None].repeat(2, 0), atol=1e-6)
    np.testing.assert_allclose(some.scale[0, 0], np.maximum(observations.std(0), 0.1), rtol=1e-6)
    own = transitions.select(patients=["toy/2"])
    back = some.rows[0, :, :9].numpy() * some.scale[0].numpy() + some.mean[0].numpy()
    np.testing.assert_allclose(back, own.observations, atol=1e-5)
    neither = OfflineConfig(gamma=0.9, state_scaling="none", reward_scaling="none")
    plain = stack_transitions(transitions, "ind", neither, ["toy/2"])
    np.testing.assert_array_equal(plain.rows[0, :, :9], own.observations)
    np.testing.assert_array_equal(plain.rows[0, :, 13], own.rewards)


def test_bad_input_is_named():
    rows = toy(patients=3, episodes=4)
    gap, none = rows.select(rows.patient != 1), rows.select(np.zeros(len(rows), bool))
    broken = dataclasses.replace(rows, rewards=np.where(np.arange(len(rows)) == 7, np.nan, rows.rewards))
    assert stack_transitions(gap, "ind", CONFIG).keys == ("toy/0", "toy/2")
    for error, words, given in (
        (UnknownNameError, "no episodes of toy/1", (gap, "ind", CONFIG, ["toy/1"])),
        (UnknownNameError, "toy/2", (rows, "ind", CONFIG, ["toy/22"])),
        (UnknownNameError, "did you mean 'pop'", (rows, "popp", CONFIG)),
        (DatasetError, "no transitions", (none, "ind", CONFIG)),
        (DatasetError, "width 4", (dataclasses.replace(rows, timing="fixed"), "ind", CONFIG)),
        (DatasetError, "rewards is .*", (broken, "ind", CONFIG)),
    ):
        refused(error, words, partial(stack_transitions, *given))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("updates=0", "updates"),
        ("gamma=1.5", "gamma"),
        ("tau=0", "tau"),
        ("candidates=4,0,4", "candidates"),
        ("discount=hour", "discount"),
        ("ensemble=0", "ensemble"),
        ("codewords=1", "codewords is '1'"),
        ("theta_quantile=1.2", "theta_quantile"),
        ("guard=state", "set beta_target"),
        ("gama=0.9", "did you mean 'gamma'"),
        ("gamma", "name=value"),
        ("gamma=high", "gamma is 'high', expected a number"),
        ("updates=1.5", "updates is '1.5', expected a whole number"),
    ],
)
def test_impossible_settings_are_refused(text, words):
    refused(MedGymError, words, lambda: OfflineConfig().changed([text]))


def test_settings_as_text_and_json():
    given = ["gamma=0.95", "discount = elapsed", "ensemble=2", "candidates=1,2,3", "theta-quantile=0.9"]
    config = OfflineConfig().changed(given)
    assert config == OfflineConfig(gamma=0.95, discount="elapsed", ensemble=2, candidates=(1, 2, 3), theta_quantile=0.9)
    assert config.changed(["theta_quantile=none"]).theta_quantile is None
    assert OfflineConfig.from_dict(config.to_dict()) == config
    refused(MedGymError, "'codewords' is 1", lambda: OfflineConfig(codewords=1))
    refused(MedGymError, "did you mean 'state'", lambda: OfflineConfig(guard="stat", beta_target=1.0))
    refused(UnknownNameError, "did you mean 'dataset'", lambda: OfflineConfig(state_scaling="datasets"))
