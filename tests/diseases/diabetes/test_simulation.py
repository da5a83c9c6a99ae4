"""The public function: its clock, its samples, and one clear line for everything it cannot do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.diabetes import simulate
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.truth import truth
from medgym_offline.errors import MedGymError, UnknownNameError
from tests.helpers import refused

NAME = "adult#004"


def test_samples_are_those_of_a_finer_grid():
    inputs = {"basal": [(0, 1.0)], "boluses": [(7, 2.0)], "meals": [(13, 40)], "minutes": 90}
    fine = simulate(NAME, **inputs, every=1)
    assert fine.shape == (91,)
    for every in (5, 7, 90):
        assert np.array_equal(simulate(NAME, **inputs, every=every), fine[::every])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 30), st.integers(1, 40), st.floats(1, 90), st.floats(0.5, 8))
def test_later_inputs_move_the_day_by_as_much(minute, delay, grams, units):
    rate = 0.75 * 1.2
    day = {"basal": [(0, rate)], "minutes": 80, "every": 1}
    early = simulate(NAME, boluses=[(minute, units)], meals=[(minute, grams)], **day)
    late = simulate(NAME, boluses=[(minute + delay, units)], meals=[(minute + delay, grams)], **day)
    quiet = simulate(NAME, **day)
    assert np.array_equal(late[: minute + delay + 1], quiet[: minute + delay + 1])
    assert np.array_equal(early[: minute + 1], quiet[: minute + 1])
    assert not np.array_equal(early, late)


amounts = st.one_of(st.floats(max_value=-1e-9), st.just(float("nan")), st.just(float("inf")), st.just("1"), st.none())
minutes = st.one_of(st.integers(max_value=-1), st.integers(min_value=60), st.just(2.5), st.just("3"), st.none())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["basal", "boluses", "meals"]),
    st.one_of(st.tuples(st.just(3), amounts), st.tuples(minutes, st.just(1.0))),
)
def test_bad_entries_are_one_line_that_names_the_field(field, entry):
    with pytest.raises(MedGymError) as error:
        simulate(NAME, **{field: [(0, 1.0), entry]}, minutes=60)
    assert str(error.value).startswith(f"{field}[1]: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0.5), ("every", 0), ("every", 61), ("every", -5), ("minutes", 0), ("minutes", 1.5), ("minutes", "60")],
)
def test_bad_clocks_are_one_line_that_names_the_field(field, value):
    refused(MedGymError, f"^{field}: ", lambda: simulate(NAME, **{"minutes": 60, field: value}))


@pytest.mark.parametrize("name", ["adult#011", "adult001", "stay-30001", ""])
def test_a_patient_of_another_table_is_unknown(name):
    refused(UnknownNameError, "patient of type 1 diabetes", lambda: simulate(name))


@pytest.mark.parametrize("tick", [0, 0.5, 6])
def test_a_tick_that_is_no_whole_number_of_internal_steps(tick):
    refused(MedGymError, r"^tick: .* internal steps from 1 to 5", lambda: truth(published(), tick=tick))
