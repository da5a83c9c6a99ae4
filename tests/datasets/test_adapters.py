"""Every form given to another library has the verified rows, each where it belongs."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from medgym_offline.datasets import COLUMNS
from medgym_offline.datasets.adapters import to_arrow, to_d3rlpy
from medgym_offline.datasets.verification import check_rows
from medgym_offline.errors import DatasetError, MissingExtraError
from tests.helpers import refused


def test_arrow(rows, tiny_bank):
    pytest.importorskip("pyarrow")
    table = to_arrow(rows)
    columns = {name: np.array(table[name].to_pylist()).astype(COLUMNS[name]) for name in COLUMNS}
    for name in COLUMNS:
        np.testing.assert_array_equal(columns[name], getattr(rows, name))
    assert [c for c in check_rows(dataclasses.replace(rows, **columns), tiny_bank) if not c.ok] == []
    assert table["patient_id"].to_pylist() == [rows.patients[i] for i in rows.patient]
    meaning = json.loads(table.schema.metadata[b"medgym"])
    assert (meaning["identity"], tuple(meaning["patients"])) == (rows.identity, rows.patients)


def test_d3rlpy(rows):
    """Through d3rlpy's own picker: in every episode, not only the first, a transition is a row."""
    pytest.importorskip("sklearn")
    pytest.importorskip("d3rlpy")
    found = to_d3rlpy(rows)
    assert (len(found.episodes), found.transition_count, found.dataset_info.action_size) == (12, len(rows), 4)
    row = 0
    for number, episode in enumerate(found.episodes):
        for step in range(episode.transition_count):
            seen = found.transition_picker(episode, step)
            assert rows.episode[row] == number
            np.testing.assert_array_equal(seen.observation, rows.observations[row])
            np.testing.assert_array_equal(seen.action, rows.actions[row])
            assert float(seen.reward[0]) == rows.rewards[row]
            assert seen.terminal == float(rows.terminations[row])
            if not rows.terminations[row]:
                np.testing.assert_array_equal(seen.next_observation, rows.next_observations[row])
            row += 1
    assert row == len(rows)


@pytest.mark.parametrize("take", ["cut", "gap", "order", "none"])
def test_d3rlpy_is_not_given_what_it_would_misread(rows, take):
    whole = np.arange(len(rows))
    first_end = int(np.flatnonzero(rows.terminations)[0])
    chosen = {"cut": whole[:-1], "gap": np.delete(whole, first_end - 1), "order": whole[::-1], "none": whole[:0]}[take]
    if take == "gap":
        assert first_end >= 2
    with pytest.raises(DatasetError, match=r"no rows" if take == "none" else r"row \d+ \(episode \d+\) is neither"):
        to_d3rlpy(rows.select(chosen))


@pytest.mark.parametrize(("package", "make"), [("pyarrow", to_arrow), ("d3rlpy", to_d3rlpy)])
def test_a_missing_package_is_named_with_its_extra(rows, monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    refused(MissingExtraError, rf"needs {package}; install it with: pip install", lambda: make(rows))
