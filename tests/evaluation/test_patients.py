"""Subgroups, policies that depend on the batch, and policies of other patients."""

import itertools

import numpy as np
import pytest
import torch

from medgym_offline.diseases.registry import disease
from medgym_offline.errors import PolicyError
from medgym_offline.evaluation import evaluate
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals
from medgym_offline.evaluation.subgroups import subgroup_members, subgroup_rows
from medgym_offline.policies import StackedActor, save_policy
from medgym_offline.stack import StackedMLP

SEPSIS = disease("sepsis")


def test_groups_cover_everybody_once_per_kind_and_rows_are_means():
    g = np.random.default_rng(0)
    facts = {
        "patient": [f"a/{i}" for i in range(40)],
        "source": ["a"] * 25 + ["b"] * 15,
        "initial_lactate": list(g.uniform(0.5, 8, 40)),
        "initial_sofa": list(g.uniform(0, 12, 40)),
    }
    columns = {"severity_mean": g.uniform(0, 12, 40), "safe_hourly": g.uniform(0, 100, 40)}
    members = subgroup_members(facts, SEPSIS, columns["severity_mean"])
    for kind in ("initial lactate", "initial SOFA", "data source"):
        assert (np.sum([m for (by, _), m in members.items() if by == kind], axis=0) == 1).all()
    worst = members["outcome", "worst decile of SOFA surrogate"]
    assert worst.sum() == 4
    assert columns["severity_mean"][worst].min() >= columns["severity_mean"][~worst].max()
    settings = Bootstrap(resamples=400)
    for row in subgroup_rows(facts, columns, SEPSIS, settings):
        inside = members[row["by"], row["group"]]
        assert row["patients"] == inside.sum()
        for name, values in columns.items():
            assert row[name][0] == pytest.approx(values[inside].mean())
            assert row[name][1:] == pytest.approx(mean_intervals(values[inside][None], settings)[0])


class Answer:
    """A policy of three treatments at fixed times from a function of the observations (P, E, columns)."""

    timing = "fixed"

    def __init__(self, answer):
        self.act = lambda seen: torch.tanh(answer(seen)).expand(*seen.shape[:2], 3)


COUNT = itertools.count()
UNSTEADY = {
    "when asked again": lambda seen: torch.full((1, 1, 1), 0.01 * next(COUNT)),
    "episodes in another order": lambda seen: seen[:, :1, :3],
    "an episode alone differently": lambda seen: seen[..., :3] - seen[..., :3].mean(1, keepdim=True),
    "patients in another order": lambda seen: torch.arange(len(seen))[:, None, None] / 10.0,
    "a patient alone differently": lambda seen: seen[..., :3] - seen[..., :3].mean(0, keepdim=True),
}


@pytest.mark.parametrize("message", UNSTEADY)
def test_policies_that_depend_on_the_batch_are_refused(message, tiny_bank):
    with pytest.raises(PolicyError, match=message):
        evaluate(Answer(UNSTEADY[message]), bank=tiny_bank, episodes=2, worlds=("own",))


def test_a_folder_has_a_hash_of_its_content(tiny_bank, tmp_path):
    """Otherwise a retrained folder of the same name would go on from the results of the old one."""

    def found(seed):
        net = StackedMLP(len(tiny_bank), (9, 4, 3), seeds=range(seed, seed + len(tiny_bank)))
        policy = StackedActor(net, tiny_bank.patients, 20)
        for patient in tiny_bank.patients:
            save_policy(policy.select([patient]), tmp_path / "ind" / f"{patient.replace('/', '__')}.safetensors")
        return evaluate(tmp_path / "ind", bank=tiny_bank, episodes=1, worlds=("own",)).policy["sha256"]

    assert found(0) == found(0) != found(1)
