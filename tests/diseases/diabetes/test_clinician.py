"""Records of people who err, and the reference clinician within a budget of decisions."""

import functools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.diabetes.clinician import Records, Seen, decide, prescription, record
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.truth import truth

NAMES = ("adolescent#003", "adult#005", "child#001")


@functools.cache
def records(names=NAMES, days=2):
    return record(truth(published().select(names)), days=days)


def test_a_persons_records_do_not_depend_on_who_else_is_recorded():
    alone = records((NAMES[2],), 1)
    for name in Records.__dataclass_fields__:
        together, one = getattr(records(), name)[2, :288], getattr(alone, name)[0]
        same = (together == one) | (torch.isnan(together) & torch.isnan(one))
        assert same[:270].all(), name  # the last hours' boluses may belong to meals of the next day


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 24), st.integers(1, 6), st.lists(st.floats(0, 24) | st.just(float("inf")), min_size=2, max_size=2))
def test_the_reference_can_always_cover_what_is_left(hours, decisions, ahead):
    if decisions * 12 < hours or decisions * 0.5 > hours:
        return
    plan = prescription(published().select(["adult#001"]))

    def one(value):
        return torch.full((1, 1), float(value))

    seen = Seen(
        one(200), one(0), one(0.2), torch.tensor([[sorted(ahead)]]), torch.ones(1, 1, 2), one(hours), one(decisions)
    )
    dose, length = decide(plan, seen)
    assert (dose >= 0).all()
    left = hours - float(length)
    assert -1e-5 <= left <= 12 * (decisions - 1) + 1e-4
    assert decisions == 1 or 0.5 - 1e-6 <= float(length) <= 12 + 1e-6
