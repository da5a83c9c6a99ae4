"""The published models: against another implementation, and the mathematics they must obey."""

import csv
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.anesthesia import DISEASE, effect_site
from medgym_offline.diseases.anesthesia.flow import Doses, exact_step, flow, powers
from medgym_offline.diseases.anesthesia.patients import draw_patients, load_patients
from medgym_offline.diseases.anesthesia.surrogate import PARAMETERS, Surrogate
from medgym_offline.diseases.anesthesia.truth import propofol_rates, published
from medgym_offline.diseases.anesthesia.typical import typical_patient
from medgym_offline.errors import MedGymError
from tests.helpers import refused

# Doses per kg of the golden series, computed once by python-anesthesia-simulator 1.0.0 (numbers only).
SCHEMES = {
    "bolus_infusion": {"boluses": [(0, 60, 2.0)], "infusion": [(60, 3600, 8.0)]},
    "stepped_infusion": {
        "infusion": [(0, 300, 20.0), (300, 900, 10.0), (900, 1800, 8.0), (1800, 3000, 6.0), (3000, 3600, 0.0)]
    },
    "intermittent_boluses": {
        "boluses": [(0, 30, 1.5), *((s, s + 15, 0.5) for s in (300, 600, 1080, 1620, 2100, 2760))]
    },
}
ADULT = {"age": 40.0, "weight": 70.0, "height": 172.0, "sex": "f"}


def _doses(patients, episodes):
    random, top = torch.Generator().manual_seed(0), torch.tensor([15.0, 2.5, 0.3])
    return Doses(*(top * torch.rand(patients, episodes, 3, generator=random)).unbind(-1))


def _given(*amounts, patients=1):
    """The same propofol, bolus and norepinephrine for everybody, (P, 1), float64."""
    return Doses(*(torch.full((patients, 1), amount, dtype=torch.float64) for amount in amounts))


def _law(name, patients):
    if name == "truth":
        return published(load_patients().select(range(patients)))
    random = np.random.default_rng(0)
    values = [p.start * np.exp(p.spread * random.standard_normal(patients)) for p in PARAMETERS]
    values = torch.tensor(np.stack(values, -1), dtype=torch.float32)
    return Surrogate(values, torch.linspace(0, 1, patients)[:, None], torch.zeros(patients, 4))


def test_golden_series_of_another_implementation():
    with Path(__file__).with_name("golden.csv").open() as file:
        series = defaultdict(list)
        for row in csv.DictReader(file):
            series[row["age"], row["weight"], row["height"], row["sex"], row["scheme"]].append(row)
    assert len(series) == 36
    for (age, weight, height, sex, scheme), rows in series.items():
        person = {"age": float(age), "weight": float(weight), "height": float(height), "sex": sex}
        ce, bis = effect_site(**person, **SCHEMES[scheme])
        at = [int(row["second"]) // 30 for row in rows]
        assert np.abs(ce[at] - [float(row["ce"]) for row in rows]).max() < 0.005
        assert np.abs(bis[at] - [float(row["bis"]) for row in rows]).max() < 0.05


@pytest.mark.parametrize("name", ["truth", "learned"])
def test_playing_on_equals_playing_at_once(name):
    law, doses = _law(name, 5), _doses(5, 3)
    end, path = flow(law, law.initial_state(3), doses, 9)
    middle, first = flow(law, law.initial_state(3), doses, 4)
    # The pressor that flowed before goes on, the bolus is not given again. Steps of several ticks round otherwise.
    last, second = flow(law, middle, replace(doses, propofol_bolus=torch.zeros(5, 3)), 5)
    torch.testing.assert_close(end, last, rtol=2e-5, atol=2e-4)
    torch.testing.assert_close(path, torch.cat([first, second], 2), rtol=2e-5, atol=2e-4)


@given(st.floats(0.01, 20.0), st.floats(0.01, 20.0))
@settings(max_examples=25, deadline=None)
def test_exact_steps_form_a_semigroup(first, second):
    a, b, _ = propofol_rates(draw_patients(3, seed=1))
    (f, g), (f2, g2), (both, gain) = (exact_step(a, b, t) for t in (first, second, first + second))
    torch.testing.assert_close(f2 @ f, both, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(f2 @ g + g2, gain, rtol=1e-9, atol=1e-12)
    steps, gains = powers(f, g, 3)
    f3, g3 = exact_step(a, b, 3 * first)
    torch.testing.assert_close(steps[..., 2], f3, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gains[..., 2], g3, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 99), st.floats(0, 20)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 99), st.floats(0, 3)), min_size=1, max_size=3),
    st.floats(0.1, 5.0),
)
@settings(max_examples=25, deadline=None)
def test_the_effect_site_is_linear_in_the_doses(rates, boluses, factor):
    held = [(s, s + length, x) for s, length, x in rates]
    given_at = [(s, s + length, x) for s, length, x in boluses]
    one, _ = effect_site(**ADULT, infusion=held, seconds=900)
    other, _ = effect_site(**ADULT, boluses=given_at, seconds=900)
    rates, boluses = ([(s, e, factor * x) for s, e, x in part] for part in (held, given_at))
    both, bis = effect_site(**ADULT, infusion=rates, boluses=boluses, seconds=900)
    # The courses are cut at other times, and a matrix exponential of a second composes to about 1e-9.
    np.testing.assert_allclose(both, factor * (one + other), rtol=1e-7, atol=1e-9)
    assert ((bis > 0) & (bis <= 93)).all()


def test_whole_ticks_agree_with_exact_seconds():
    law = published(typical_patient(**ADULT), dtype=torch.float64)
    _, path = flow(law, law.initial_state(1), _given(6.0, 2.0, 0.0), 40)
    ce, bis = effect_site(**ADULT, infusion=[(0, 600, 6.0)], boluses=[(0, 0, 2.0)], seconds=600, every=15)
    np.testing.assert_allclose(path[0, 0, :, 2], ce[1:], rtol=1e-10)
    np.testing.assert_allclose(path[0, 0, :, 0], bis[1:], rtol=1e-7)


def test_pressure_without_drug_stays_where_it_is():
    law = published(typical_patient(35, 70, 170, "m"), dtype=torch.float64)
    assert float(law.base_pressure) == pytest.approx(91.8, abs=0.1)
    still = replace(law, time_heart_rate=0 * law.lag, time_stroke_volume=0 * law.lag)
    _, path = flow(still, still.initial_state(1), _given(0.0, 0.0, 0.0), 240)
    assert float((path[..., 1] - still.base_pressure).abs().max()) < 1e-9
    # With the effect of time, pressure falls towards the rest of volunteers.
    _, path = flow(law, law.initial_state(1), _given(0.0, 0.0, 0.0), 240)
    assert path[0, 0, -1, 1] < path[0, 0, 0, 1] < law.base_pressure


def test_ticks_of_15_s_are_within_1_mmhg_of_1_s():
    paths = []
    for seconds in (1, 15):
        law = published(load_patients(), seconds, torch.float64)
        state, bolus, parts = law.initial_state(1), 2.0, []
        for _ in range(1800 // seconds // 120):
            state, part = flow(law, state, _given(8.0, bolus, 0.0, patients=110), 120)
            bolus = 0.0
            parts.append(part)
        paths.append(torch.cat(parts, 2))
    fine, coarse = paths[0][:, :, 14::15], paths[1]
    assert float((fine - coarse)[..., 1].abs().max()) < 1.0
    torch.testing.assert_close(fine[..., 2], coarse[..., 2], rtol=1e-9, atol=1e-9)


def test_norepinephrine_reaches_measured_levels_and_arrives_late():
    law = published(typical_patient(35, 70, 170, "m"), dtype=torch.float64)
    end, path = flow(law, law.initial_state(1), _given(0.0, 0.0, 0.2), 240)
    level = float(end[0, 0, 4 + law.hidden.index("central_norepinephrine")] / law.vc + law.endogenous)
    # Ensinger et al. (1992), healthy volunteers: 7.5 (sd 1.1) ug/L at 0.2 ug/kg/min.
    assert level == pytest.approx(7.5, abs=1.1)
    _, without = flow(law, law.initial_state(1), _given(0.0, 0.0, 0.0), 240)
    rise = (path - without)[0, 0, :, 1]
    assert rise[0] < 0.15 * rise[2]
    assert 30 < rise[-1] < 60


@pytest.mark.parametrize("name", ["truth", "learned"])
def test_every_treatment_acts_in_its_direction(name):
    law = _law(name, 20)
    base = Doses(*torch.tensor([1.0, 1.0, 0.05]).expand(20, 1, 3).unbind(-1))
    column = {"bis": 0, "pressure": 1}
    _, before = flow(law, law.initial_state(1), base, 60)
    for check in DISEASE.sign_checks:
        more = replace(base, **{check.treatment: 2 * getattr(base, check.treatment)})
        _, after = flow(law, law.initial_state(1), more, 60)
        assert (check.sign * (after - before)[:, 0, 3:, column[check.component]] > 0).all(), check.statement


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": 5}, "18 to 88"),
        ({"weight": 200}, "30 to 160"),
        ({"age": math.nan}, "age"),
        ({"sex": "x"}, "'m' or 'f'"),
        ({"infusion": [(0, 60, -1)]}, "negative"),
        ({"boluses": [(0, 60, 1), (30, 10, 1)]}, r"boluses\[1\] ends"),
        ({"infusion": [(0, 3601, 1)]}, "outside 0 to 3600"),
        ({"boluses": [(0, 1)]}, r"boluses\[0\]"),
        ({"boluses": [(0, 1, math.inf)]}, "finite"),
        ({"seconds": 0}, "seconds"),
        ({"every": 1.5}, "every"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, said):
    refused(MedGymError, said, lambda: effect_site(**{**ADULT, **change}))
