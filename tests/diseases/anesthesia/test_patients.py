"""The drawn patients: reproducible one by one, spread as published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medgym_offline.diseases.anesthesia.patients import VARIANCES, Patients, draw_patients, load_patients
from medgym_offline.errors import MedGymError, UnknownNameError
from tests.helpers import refused


def test_a_patient_is_the_same_in_a_draw_of_any_size() -> None:
    few, many = draw_patients(3, seed=5), draw_patients(40, seed=5)
    np.testing.assert_array_equal(few.deviations, many.deviations[:3])
    np.testing.assert_array_equal(few.weight, many.weight[:3])
    assert few.ids == many.ids[:3]


def test_deviations_have_the_published_variances() -> None:
    people = draw_patients(2000, seed=3)
    variance = people.deviations.var(0)
    # Within the 99.9 % interval of the variance of 2000 normal draws, for 17 parameters.
    low, high = stats.chi2.ppf([0.0005, 0.9995], 1999) / 1999
    ratio = variance / np.array(list(VARIANCES.values()))
    assert ((ratio > low) & (ratio < high)).all()
    names = list(VARIANCES)
    block = [names.index(n) for n in ("stroke_volume", "resistance", "heart_rate")]
    covariance = np.cov(people.deviations[:, block].T)
    assert covariance[0, 1] == pytest.approx(-0.0244, abs=0.004)
    assert covariance[1, 2] == pytest.approx(-0.0233, abs=0.004)
    assert covariance[0, 2] == pytest.approx(0.0, abs=0.003)


def test_unknown_patients_and_impossible_ones_are_refused() -> None:
    people = load_patients()
    refused(UnknownNameError, "surgical/01", lambda: people.select(["surgical/01"]))
    refused(UnknownNameError, "110", lambda: people.select([110]))
    with pytest.raises(MedGymError, match="18 to 88"):
        Patients(("old",), np.array([99.0]), np.array([70.0]), np.array([170.0]), *(np.zeros((1, 17)),) * 3)
