"""Minari's HDF5 layout, written and read in bulk.

One group per episode, as Minari reads it::

    episode_7/                  attributes: id, seed, total_steps, options/patient, options/patient_index
      observations   (T+1, 9)   float32
      actions        (T, A)     float32
      rewards        (T,)       float32
      terminations   (T,)       bool
      truncations    (T,)       bool
      infos/{cost, dt, time, sofa, lactate}   (T+1,) float32; index 0 is the reset, t + 1 the end of decision t

Minari's own writer makes chunked, resizable arrays: about 29 kB and 4 ms for an episode of 20 decisions. Here an
array lies inside its object header (COMPACT layout, latest file format, no time stamps): about 5 kB and 0.5 ms, and
the same data gives the same bytes. Such a file cannot be appended to by Minari; it is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medgym_offline.errors import DatasetError

__all__ = ["INFOS", "EpisodeBlock", "EpisodeWriter", "read_blocks"]

INFOS = ("cost", "dt", "time", "sofa", "lactate")
"""Names under `infos`, each (T + 1,) float32."""

_STEP_ARRAYS = {"actions": "float32", "rewards": "float32", "terminations": "bool", "truncations": "bool"}


@dataclass
class EpisodeBlock:
    """E episodes padded to K decisions; rows of `lengths[e]` decisions are valid, the rest undefined.

    Attributes:
        observations: (E, K+1, 9) float32.
        actions: (E, K, A) float32.
        rewards, terminations, truncations: (E, K).
        infos: name -> (E, K+1) float32.
        lengths: (E,) decisions of each episode.
        seeds: (E,) int64.
        patient: (E,) int32 index into the bank.
        episode: (E,) int32 number in the dataset.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, np.ndarray]
    lengths: np.ndarray
    seeds: np.ndarray
    patient: np.ndarray
    episode: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def columns(self) -> dict[str, np.ndarray]:
        """The rows of `Transitions` in episode order: the meaning of each is drawn in its docstring."""
        valid = np.arange(self.rewards.shape[1]) < self.lengths[:, None]
        return {
            "observations": self.observations[:, :-1][valid],
            "actions": self.actions[valid],
            "rewards": self.rewards[valid],
            "costs": self.infos["cost"][:, 1:][valid],
            "next_observations": self.observations[:, 1:][valid],
            "terminations": self.terminations[valid],
            "truncations": self.truncations[valid],
            "dt": self.infos["dt"][:, 1:][valid],
            "time": self.infos["time"][:, 1:][valid],
            "sofa": self.infos["sofa"][:, 1:][valid],
            "lactate": self.infos["lactate"][:, 1:][valid],
            "patient": np.repeat(self.patient, self.lengths).astype(np.int32),
            "episode": np.repeat(self.episode, self.lengths).astype(np.int32),
        }


@dataclass
class EpisodeWriter:
    """Writes blocks of episodes, in order, to a new `main_data.hdf5` (a context manager).

    Args:
        path: The file; replaced if it exists.
        patients: Ids of the whole bank, for the episodes' metadata.
    """

    path: Path
    patients: tuple[str, ...]
    episodes: int = 0
    steps: int = 0

    def __enter__(self) -> EpisodeWriter:
        import h5py
        from h5py import h5d, h5f, h5g, h5p, h5s, h5t

        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_LATEST, h5f.LIBVER_LATEST)
        # Closing the file closes what is open in it, so that it is complete on disk.
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        # Without time stamps, anywhere, the same data gives the same bytes on another day.
        creation, self._group = h5p.create(h5p.FILE_CREATE), h5p.create(h5p.GROUP_CREATE)
        creation.set_obj_track_times(False)
        self._group.set_obj_track_times(False)
        self._file = h5f.create(str(self.path).encode(), h5f.ACC_TRUNC, creation, access)
        self._root = h5g.open(self._file, b"/")
        self._layout = h5p.create(h5p.DATASET_CREATE)
        self._layout.set_layout(h5d.COMPACT)
        self._layout.set_obj_track_times(False)
        self._scalar = h5s.create(h5s.SCALAR)
        self._types = {kind: h5t.py_create(np.dtype(kind), logical=True) for kind in ("float32", "bool", "int64")}
        self._text = h5py.string_dtype()
        self._types["text"] = h5t.py_create(self._text, logical=True)
        self._spaces: dict[tuple[int, ...], Any] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, block: EpisodeBlock) -> None:
        """Append the episodes of `block`; their numbers continue those written before."""
        from h5py import h5g

        for e in range(len(block)):
            steps, patient = int(block.lengths[e]), int(block.patient[e])
            group = h5g.create(self._root, b"episode_%d" % self.episodes, gcpl=self._group)
            self._attribute(group, b"id", self.episodes)
            self._attribute(group, b"seed", int(block.seeds[e]))
            self._attribute(group, b"total_steps", steps)
            self._attribute(group, b"options/patient", self.patients[patient])
            self._attribute(group, b"options/patient_index", patient)
            self._array(group, b"observations", block.observations[e, : steps + 1], "float32")
            for name, kind in _STEP_ARRAYS.items():
                self._array(group, name.encode(), getattr(block, name)[e, :steps], kind)
            infos = h5g.create(group, b"infos", gcpl=self._group)
            for name in INFOS:
                self._array(infos, name.encode(), block.infos[name][e, : steps + 1], "float32")
            self.episodes += 1
            self.steps += steps

    def _attribute(self, group: Any, name: bytes, value: int | str) -> None:
        from h5py import h5a

        kind = "text" if isinstance(value, str) else "int64"
        array = np.array(value, dtype=self._text if kind == "text" else np.int64)
        h5a.create(group, name, self._types[kind], self._scalar).write(array)

    def _array(self, group: Any, name: bytes, array: np.ndarray, kind: str) -> None:
        from h5py import h5d, h5s

        array = np.ascontiguousarray(array, dtype=kind)
        space = self._spaces.get(array.shape)
        if space is None:
            space = self._spaces[array.shape] = h5s.create_simple(array.shape)
        h5d.create(group, name, self._types[kind], space, self._layout).write(h5s.ALL, h5s.ALL, array)


def _read(group: Any, name: bytes, where: str, width: int | None, length: int, kind: str) -> np.ndarray:
    from h5py import h5d, h5s

    try:
        dataset = h5d.open(group, name)
    except KeyError:
        raise DatasetError(f"{where}: {name.decode()!r} is missing; regenerate the dataset") from None
    shape = (length,) if width is None else (length, width)
    if dataset.shape != shape:
        raise DatasetError(
            f"{where}: {name.decode()!r} has shape {dataset.shape}, expected {shape}; regenerate the dataset"
        )
    if dataset.dtype != np.dtype(kind):
        raise DatasetError(f"{where}: {name.decode()!r} is {dataset.dtype}, expected {kind}; regenerate the dataset")
    array = np.empty(shape, kind)
    dataset.read(h5s.ALL, h5s.ALL, array)
    return array


def read_blocks(path: str | Path, widths: tuple[int, int], size: int = 1000) -> Iterator[EpisodeBlock]:
    """Episodes of a `main_data.hdf5` in order, `size` at a time.

    Args:
        path: The file.
        widths: Columns of the observations and of the actions.
        size: Episodes of a block.

    Raises:
        DatasetError: the file is missing, truncated or damaged, or an episode lacks an array, has one of another
            shape or type, or has another number than its place says.
    """
    import h5py

    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            total = len(file)
            for first in range(0, total, size):
                numbers = range(first, min(first + size, total))
                yield _pack([_read_episode(file, path, number, widths) for number in numbers], first)
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; regenerate the dataset") from None
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a readable HDF5 file ({text}); regenerate the dataset") from None


def _read_episode(file: Any, path: Path, number: int, widths: tuple[int, int]) -> dict[str, Any]:
    from h5py import h5g

    where = f"{path}: episode_{number}"
    try:
        group = file[f"episode_{number}"]
        attributes = {name: group.attrs[name] for name in ("id", "seed", "total_steps", "options/patient_index")}
        infos = h5g.open(group.id, b"infos")
    except KeyError as error:
        text = " ".join(str(error).strip("'\"").split())
        raise DatasetError(f"{where}: {text}; regenerate the dataset") from None
    if int(attributes["id"]) != number:
        raise DatasetError(f"{where}: its id attribute is {attributes['id']}; regenerate the dataset")
    steps = int(attributes["total_steps"])
    episode: dict[str, Any] = {"steps": steps, "seed": int(attributes["seed"])}
    episode["patient"] = int(attributes["options/patient_index"])
    episode["observations"] = _read(group.id, b"observations", where, widths[0], steps + 1, "float32")
    for name, kind in _STEP_ARRAYS.items():
        width = widths[1] if name == "actions" else None
        episode[name] = _read(group.id, name.encode(), where, width, steps, kind)
    for name in INFOS:
        episode[name] = _read(infos, name.encode(), where, None, steps + 1, "float32")
    return episode


def _pack(episodes: list[dict[str, Any]], first: int) -> EpisodeBlock:
    longest = max(episode["steps"] for episode in episodes)

    def stack(name: str, extra: int) -> np.ndarray:
        sample = episodes[0][name]
        out = np.zeros((len(episodes), longest + extra, *sample.shape[1:]), sample.dtype)
        for row, episode in zip(out, episodes):
            row[: len(episode[name])] = episode[name]
        return out

    return EpisodeBlock(
        observations=stack("observations", 1),
        **{name: stack(name, 0) for name in _STEP_ARRAYS},
        infos={name: stack(name, 1) for name in INFOS},
        lengths=np.array([episode["steps"] for episode in episodes], np.int64),
        seeds=np.array([episode["seed"] for episode in episodes], np.int64),
        patient=np.array([episode["patient"] for episode in episodes], np.int32),
        episode=np.arange(first, first + len(episodes), dtype=np.int32),
    )
