"""Ranks: paired over patients, with known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from medgym_offline.leaderboard import groups, rank
from medgym_offline.leaderboard.board import holm
from tests.leaderboard.workshop import variant

PATIENTS = 40


def numbers(seed, spread):
    """A number per patient of zero mean, so that means are exact."""
    drawn = np.random.default_rng(seed).normal(0.0, spread, PATIENTS)
    return drawn - drawn.mean()


LEVEL = 5.0 + numbers(0, 3.0)


def test_small_paired_differences_count_and_noise_does_not(entry):
    """Patients differ by 3 points, entries by 0.1: unpaired intervals all overlap, paired differences are clear."""
    rows = [
        variant(entry, "best", LEVEL[None]),
        variant(entry, "second", (LEVEL + 0.10 + numbers(1, 0.05))[None]),
        variant(entry, "tied", (LEVEL + 0.11 + numbers(2, 0.5))[None]),
        variant(entry, "noisy", (LEVEL + 0.10 + numbers(3, 3.0))[None]),
        variant(entry, "worst", (LEVEL + 2.0 + numbers(4, 0.1))[None]),
    ]
    found = rank(rows, "own")
    named = {e.name: found.ranks[e.id] for e in rows}
    # noisy is behind best by 0.1 +- 0.5, which says nothing; worst is beaten by all four.
    assert named == {"best": 1, "second": 2, "tied": 1, "noisy": 1, "worst": 5}
    assert (found.entries[0].name, len(found.pairs)) == ("best", 10)
    first = next(p for p in found.pairs if {p.first, p.second} == {rows[0].id, rows[1].id})
    assert first.difference == pytest.approx(-0.1)
    assert first.interval[0] < -0.1 < first.interval[1] < 0
    assert all(p.adjusted >= p.p for p in found.pairs)
    assert {e.name: rank(rows[::-1], "own").ranks[e.id] for e in rows} == named


def test_an_interval_is_that_of_the_paired_t_test(entry):
    gap = 0.3 + numbers(1, 1.0)
    (pair,) = rank([variant(entry, "a", LEVEL[None]), variant(entry, "b", (LEVEL + gap)[None])], "own").pairs
    error = gap.std(ddof=1) / PATIENTS**0.5
    assert pair.difference == pytest.approx(-0.3)
    assert pair.interval[1] - pair.interval[0] == pytest.approx(2 * t.ppf(0.975, PATIENTS - 1) * error, rel=0.08)
    assert pair.p == pytest.approx(2 * t.sf(0.3 / error, PATIENTS - 1), abs=0.03)


def test_equal_entries_and_few_patients_share_the_first_rank(entry):
    same = rank([variant(entry, name, LEVEL[None]) for name in ("a", "b", "c")], "own")
    few = rank([variant(entry, "a", LEVEL[None, :4]), variant(entry, "b", LEVEL[None, :4] + 1.0)], "own")
    for found, p in ((same, 1.0), (few, 2**-3)):  # no paired test of four patients gives less
        assert set(found.ranks.values()) == {1}
        assert {pair.p for pair in found.pairs} == {p}
    assert rank([entry], "own").ranks == {entry.id: 1}
    assert rank([], "own").ranks == {}


def test_runs_that_disagree_make_a_difference_uncertain(entry):
    """A gain of 0.5 in every patient that only one of two training runs has is one run's luck."""
    steady = variant(entry, "steady", LEVEL[None])
    lucky = variant(entry, "lucky", np.stack([LEVEL - 1.0, LEVEL]))
    assert set(rank([steady, lucky], "own").ranks.values()) == {1}
    sure = variant(entry, "sure", np.stack([LEVEL - 0.5, LEVEL - 0.5]))
    assert rank([steady, sure], "own").ranks[steady.id] == 2


def test_worse_luck_never_helps(entry):
    """Under no difference, the share of groups in which anything is told apart is at most about 5 %."""
    wrong = 0
    for seed in range(30):
        scores = [5.0 + numbers(seed, 3.0) + np.random.default_rng([seed, n]).normal(size=PATIENTS) for n in range(4)]
        rows = [variant(entry, f"m{n}", values[None]) for n, values in enumerate(scores)]
        wrong += len(set(rank(rows, "own").ranks.values())) > 1
    assert wrong <= 5  # of 30 x 0.05 = 1.5; more than 5 has a chance of 3e-3 (the seeds are fixed)


def test_groups_are_what_may_be_compared(entry):
    level = LEVEL[None]
    rows = [
        variant(entry, "a", level),
        variant(entry, "b", level + 1),
        variant(entry, "c", level, patients=tuple(f"x{n}" for n in range(PATIENTS))),
        variant(entry, "d", level, bank={"name": "other", "content_hash": "0" * 64}),
        variant(entry, "e", level, {"decisions": 10}, decisions=10),
        variant(entry, "f", level, {"seed": 7}),
    ]
    found = groups(rows)
    assert sorted(len(rows) for rows in found.values()) == [1, 1, 1, 1, 2]
    assert {(g.disease, g.data, g.timing) for g in found} == {("sepsis", "medgym/workshop-v0", "adaptive")}
    assert {g.decisions for g in found} == {10, 20}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(p):
    found = holm(p)
    assert all(a >= b and a <= min(1.0, len(p) * b) + 1e-12 for a, b in zip(found, p))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= 0)
    assert min(found) == pytest.approx(min(1.0, len(p) * min(p)))
