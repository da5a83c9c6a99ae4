import numpy as np
import pytest

from medgym_offline.errors import DatasetError
from medgym_offline.evaluation import SupportReference, split_halves, support_distance
from medgym_offline.evaluation import support as module
from tests.helpers import refused


def brute_force(reference, query, scale_of=None):
    """The definition, in float64, one query at a time; units from the spread of `scale_of` (else `reference`)."""
    whole = (reference if scale_of is None else scale_of).astype(np.float64)
    deviation = np.where(np.ptp(whole, axis=0) == 0, 1.0, whole.std(0))
    reference, query = reference / deviation, query / deviation
    return np.array([np.sqrt(((reference - z) ** 2).sum(1)).min() for z in query])


@pytest.mark.parametrize("rows", [1, 7, 300, 6000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact(rows, dtype):
    rng = np.random.default_rng(rows)
    reference = (rng.normal(size=(rows, 13)) * rng.uniform(0.01, 50, 13) + 7).astype(dtype)
    query = np.concatenate([reference[:5] * 1.01, rng.normal(size=(40, 13)) * 30]).astype(dtype)
    wanted = brute_force(reference, query)
    np.testing.assert_allclose(support_distance(reference, query), wanted, rtol=1e-12, atol=1e-12)


def test_zero_on_the_data_and_invariant_to_units():
    rng = np.random.default_rng(1)
    reference, query = rng.normal(size=(200, 5)), rng.normal(size=(50, 5))
    assert not support_distance(reference, reference).any()
    shift, scale = rng.normal(size=5) * 10, rng.uniform(0.1, 10, 5)
    other = support_distance(reference * scale + shift, query * scale + shift)
    np.testing.assert_allclose(other, support_distance(reference, query), rtol=1e-9)


def test_constant_coordinate_counts_in_its_own_unit():
    reference = np.array([[0.0, 3.0], [2.0, 3.0]])  # SD 1 and constant
    assert support_distance(reference, np.array([[0.0, 5.0]])) == pytest.approx([2.0])
    # 0.1 is not a binary fraction: the mean of copies differs from it by rounding, and must not count as spread.
    reference = np.full((7, 1), 0.1)
    assert support_distance(reference, np.array([[1.1]])) == pytest.approx([1.0])


def test_bad_input_is_named():
    good = np.zeros((3, 2))
    refused(DatasetError, r"\(3, 2\) and \(3, 5\)", lambda: support_distance(good, np.zeros((3, 5))))
    refused(DatasetError, "at least one", lambda: support_distance(np.zeros((0, 2)), good))
    refused(DatasetError, "query row 1", lambda: support_distance(good, np.array([[0.0, 0.0], [np.nan, 0.0]])))
    assert support_distance(good, np.zeros((0, 2))).shape == (0,)


def test_halves_keep_episodes_whole_and_patients_apart():
    patient = np.array([0] * 6 + [1] * 4 + [2] * 2)
    episode = np.array([4, 4, 5, 5, 9, 9, 10, 10, 11, 11, 20, 20])
    reference, query = split_halves(patient, episode)
    assert reference.tolist() == [True, True, False, False, True, True, True, True, False, False, True, True]
    assert (reference ^ query).all()
    # Dropping patient 0 moves nobody else, and the order of rows is free.
    assert split_halves(patient[6:], episode[6:])[0].tolist() == reference[6:].tolist()
    order = np.random.default_rng(0).permutation(12)
    assert split_halves(patient[order], episode[order])[0].tolist() == reference[order].tolist()


def test_reference_of_a_dataset_is_the_definition_per_patient(transitions):
    support = SupportReference.from_transitions(transitions)
    name = transitions.patients[2]
    rows = transitions.select(patients=[2])
    z, even = np.concatenate([rows.observations, rows.actions], 1), (rows.episode - rows.episode.min()) % 2 == 0
    own = support.own("all", name)
    np.testing.assert_allclose(own, brute_force(z[even], z[~even], z), rtol=1e-9)
    assert (own > 0).all()
    found = support.part_distances(name, rows.observations[~even], rows.actions[~even])
    np.testing.assert_allclose(found["all"], own)


def test_calibrated_percentile():
    own = np.array([3.0, 1.0, 2.0, 2.0])
    assert module.calibrated(np.array([0.5, 1.0, 2.0, 9.0]), own).tolist() == [0.0, 12.5, 50.0, 100.0]
    assert module.calibrated(own, own).mean() == 50.0  # the behavior itself, ties one half
    assert np.isnan(module.calibrated(own, np.zeros(0))).all()
