"""Rows of a dataset in the forms other libraries read. Row i is row i of `Transitions` in each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.errors import DatasetError, MissingExtraError
from medgym_offline.files import atomic_path

if TYPE_CHECKING:
    import torch

__all__ = ["to_arrow", "to_d3rlpy", "to_numpy", "to_parquet", "to_tensordict", "to_torch"]


def to_numpy(rows: Transitions) -> dict[str, np.ndarray]:
    """The columns of `Transitions` by name, as arrays in memory that need the dataset's files no longer."""
    return {name: np.array(getattr(rows, name)) for name in COLUMNS}


def to_torch(rows: Transitions, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """The columns of `Transitions` by name as tensors of the same types (float32, bool, int32), copied to `device`."""
    import torch

    return {name: torch.from_numpy(array).to(device) for name, array in to_numpy(rows).items()}


def to_tensordict(rows: Transitions, device: torch.device | str = "cpu") -> Any:
    """A `tensordict.TensorDict` of batch size (N,) with the names of TorchRL.

    `observation`, `action`, and under `next`: `observation`, `reward`, `terminated`, `truncated`, `done` (each (N, 1)
    as there) and our `cost`, `dt`, `time`, `severity`, `monitored`, `costs_path`, `costs_peak`; `patient`, `episode`
    and `behavior_log_prob` (N,) at the top.

    Raises:
        MissingExtraError: tensordict is not installed.
    """
    try:
        from tensordict import TensorDict
    except ImportError:
        raise MissingExtraError.of("tensordict", "export", "a TensorDict") from None
    columns = to_torch(rows, device)
    after = {"reward": "rewards", "terminated": "terminations", "truncated": "truncations", "cost": "costs"}
    after |= {name: name for name in ("dt", "time", "severity", "monitored")}
    following = {name: columns[column][:, None] for name, column in after.items()}
    following |= {name: columns[name] for name in ("costs_path", "costs_peak")}
    following |= {"observation": columns["next_observations"], "done": following["terminated"] | following["truncated"]}
    top = {"observation": columns["observations"], "action": columns["actions"]}
    top |= {name: columns[name] for name in ("patient", "episode", "behavior_log_prob")}
    size = [len(rows)]
    return TensorDict(top | {"next": TensorDict(following, batch_size=size, device=device)}, size, device=device)


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
        raise MissingExtraError.of("pyarrow", "export", "an Arrow table or a Parquet file") from None
    columns = {}
    for name, array in to_numpy(rows).items():
        flat = pa.array(array.reshape(-1))
        columns[name] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    ids = pa.DictionaryArray.from_arrays(pa.array(rows.patient), pa.array(rows.patients, pa.string()))
    columns["patient_id"] = ids.cast(pa.string())
    meaning = {name: getattr(rows, name) for name in ("dataset_id", "identity", "timing", "decisions")}
    text = json.dumps(meaning | {"patients": list(rows.patients)})
    return pa.table(columns).replace_schema_metadata({"medgym": text})


def to_parquet(rows: Transitions, path: str | Path) -> Path:
    """Write the table of `to_arrow` to a Parquet file, which polars, pandas, DuckDB and Hugging Face's `datasets` read.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DatasetError: the file cannot be written.
    """
    path, table = Path(path), to_arrow(rows)
    import pyarrow.parquet as pq

    try:
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except OSError as error:
        raise DatasetError(f"{path}: cannot write the file ({error.strerror or error}); choose another place") from None
    return path
