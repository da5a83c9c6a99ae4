"""Rows of a dataset in the forms other libraries read. Row i is row i of `Transitions` in each of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.errors import DatasetError, MissingExtraError

__all__ = ["to_arrow", "to_d3rlpy"]


def to_d3rlpy(rows: Transitions) -> Any:
    """A `d3rlpy.dataset.MDPDataset` of the episodes, with continuous actions.

    d3rlpy takes the next observation of a decision from the row below, and none of a terminal row: so the rows must be
    whole decisions to the end of their episodes, in order. (`d3rlpy.datasets.get_minari` is not a way to these data:
    it joins T + 1 observations of an episode with T actions, and all episodes but the first are misaligned.)

    Raises:
        DatasetError: rows that do not follow one another to the end of their episode, as after some selections.
        MissingExtraError: d3rlpy is not installed.
    """
    from medgym_offline.third_party import import_d3rlpy

    require_whole_episodes(rows)
    d3rlpy = import_d3rlpy("an MDPDataset")
    return d3rlpy.dataset.MDPDataset(
        observations=np.array(rows.observations),
        actions=np.array(rows.actions),
        rewards=np.array(rows.rewards),
        terminals=rows.terminations.astype(np.float32),
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
        action_size=rows.action_dim,
    )


def require_whole_episodes(rows: Transitions) -> None:
    """Refuse rows of which one, not terminal, is not followed by the next decision of its episode: `DatasetError`."""
    if not len(rows):
        raise DatasetError(f"{rows.dataset_id}: there are no rows")
    follows = np.zeros(len(rows), bool)
    alike = (rows.next_observations[:-1] == rows.observations[1:]).all(1)
    follows[:-1] = (rows.episode[1:] == rows.episode[:-1]) & alike
    broken = np.flatnonzero(~(follows | rows.terminations))
    if len(broken):
        row = int(broken[0])
        which = f"row {row} (episode {int(rows.episode[row])}) is neither terminal nor followed by the next decision"
        raise DatasetError(f"{rows.dataset_id}: {which} of its episode; select whole episodes or patients")


def to_arrow(rows: Transitions) -> Any:
    """A `pyarrow.Table` with the columns of `Transitions` and `patient_id`.

    Observations and actions are lists of fixed size. The schema's metadata has, under `medgym`, a JSON object with
    `dataset_id`, `identity`, `timing`, `decisions` and `patients` (the ids of the whole bank).

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError.of("pyarrow", "export", "an Arrow table") from None
    columns = {}
    for name in COLUMNS:
        array = np.array(getattr(rows, name))
        flat = pa.array(array.reshape(-1))
        columns[name] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    ids = pa.DictionaryArray.from_arrays(pa.array(rows.patient), pa.array(rows.patients, pa.string()))
    columns["patient_id"] = ids.cast(pa.string())
    meaning = {name: getattr(rows, name) for name in ("dataset_id", "identity", "timing", "decisions")}
    text = json.dumps(meaning | {"patients": list(rows.patients)})
    return pa.table(columns).replace_schema_metadata({"medgym": text})
