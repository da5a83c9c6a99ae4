"""Every form given to another library has the verified rows, each where it belongs."""

import json
import sys

import numpy as np
import pytest
import torch

from medgym_offline.datasets import COLUMNS
from medgym_offline.datasets.adapters import to_arrow, to_d3rlpy, to_parquet, to_tensordict, to_torch
from medgym_offline.datasets.rows import check_rows
from medgym_offline.errors import DatasetError, MissingExtraError
from tests.helpers import refused


def check(found, rows, bank):
    """Columns that came back are the rows, bit for bit, and mean what `verify` asks of rows."""
    import dataclasses

    columns = {name: np.asarray(found[name]).astype(COLUMNS[name], copy=False) for name in COLUMNS}
    for name in COLUMNS:
        np.testing.assert_array_equal(columns[name], getattr(rows, name))
    assert [c for c in check_rows(dataclasses.replace(rows, **columns), bank) if not c.ok] == []


def test_torch(rows, tiny_bank):
    found = to_torch(rows)
    check({name: tensor.numpy() for name, tensor in found.items()}, rows, tiny_bank)
    assert {str(tensor.dtype).removeprefix("torch.") for tensor in found.values()} == {"float32", "bool", "int32"}
    before = rows.rewards[0]
    found["rewards"][0] = 1.0
    assert rows.rewards[0] == before


def test_tensordict(rows, tiny_bank):
    pytest.importorskip("tensordict")
    found = to_tensordict(rows)
    assert found.batch_size == (len(rows),)
    after = found["next"]
    single = {"rewards": "reward", "costs": "cost", "terminations": "terminated", "truncations": "truncated"}
    single |= {name: name for name in ("dt", "time", "severity", "monitored")}
    columns = {name: after[theirs].squeeze(-1).numpy() for name, theirs in single.items()}
    columns |= {name: after[name] for name in ("costs_path", "costs_peak")}
    columns["behavior_log_prob"] = found["behavior_log_prob"]
    columns |= {"observations": found["observation"], "actions": found["action"]}
    columns |= {"next_observations": after["observation"], "patient": found["patient"], "episode": found["episode"]}
    check(columns, rows, tiny_bank)
    assert torch.equal(after["done"], after["terminated"])
    # A batch keeps its parts together.
    batch = found[torch.tensor([5, 2])]
    np.testing.assert_array_equal(batch["next", "time"][:, 0], rows.time[[5, 2]])


def test_arrow_and_parquet(rows, tiny_bank, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    path = to_parquet(rows.select(patients=[1, 3]), tmp_path / "new" / "rows.parquet")
    part = rows.select(patients=[1, 3])
    table = pq.read_table(path)
    assert table.equals(to_arrow(part))
    found = {name: np.array(table[name].to_pylist()) for name in COLUMNS}
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name].astype(COLUMNS[name]), getattr(part, name))
    assert table["patient_id"].to_pylist() == [rows.patients[i] for i in part.patient]
    meaning = json.loads(table.schema.metadata[b"medgym"])
    assert meaning["identity"] == rows.identity
    assert tuple(meaning["patients"]) == rows.patients
    whole = to_arrow(rows)
    check({name: whole[name].to_pylist() for name in COLUMNS}, rows, tiny_bank)


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


@pytest.mark.parametrize(
    ("package", "make"), [("pyarrow", to_arrow), ("tensordict", to_tensordict), ("d3rlpy", to_d3rlpy)]
)
def test_a_missing_package_is_named_with_its_extra(rows, monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    refused(MissingExtraError, rf"needs {package}; install it with: pip install", lambda: make(rows))
