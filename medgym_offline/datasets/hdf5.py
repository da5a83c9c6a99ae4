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

_ATTRIBUTES = ("id", "seed", "total_steps", "options/patient_index")
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
        from h5py import h5d, h5g, h5s

        every, layout = h5s.ALL, self._layout

        def array(group: Any, name: bytes, values: np.ndarray, kind: str) -> None:
            space = self._spaces.get(values.shape)
            if space is None:
                space = self._spaces[values.shape] = h5s.create_simple(values.shape)
            # Naming the type of the memory spares h5py to find it out: a sixth of the time.
            h5d.create(group, name, self._types[kind], space, layout).write(every, every, values, self._types[kind])

        observations = np.ascontiguousarray(block.observations, "float32")
        steps = [(n.encode(), np.ascontiguousarray(getattr(block, n), k), k) for n, k in _STEP_ARRAYS.items()]
        infos = [(name.encode(), np.ascontiguousarray(block.infos[name], "float32")) for name in INFOS]
        for e in range(len(block)):
            count, patient = int(block.lengths[e]), int(block.patient[e])
            group = h5g.create(self._root, b"episode_%d" % self.episodes, gcpl=self._group)
            self._attribute(group, b"id", self.episodes)
            self._attribute(group, b"seed", int(block.seeds[e]))
            self._attribute(group, b"total_steps", count)
            self._attribute(group, b"options/patient", self.patients[patient])
            self._attribute(group, b"options/patient_index", patient)
            array(group, b"observations", observations[e, : count + 1], "float32")
            for name, values, kind in steps:
                array(group, name, values[e, :count], kind)
            inner = h5g.create(group, b"infos", gcpl=self._group)
            for name, values in infos:
                array(inner, name, values[e, : count + 1], "float32")
            self.episodes += 1
            self.steps += count

    def _attribute(self, group: Any, name: bytes, value: int | str) -> None:
        from h5py import h5a

        if isinstance(value, str):
            h5a.create(group, name, self._types["text"], self._scalar).write(np.array(value, self._text))
        else:
            kind = self._types["int64"]
            h5a.create(group, name, kind, self._scalar).write(np.array(value, np.int64), mtype=kind)


class _Reader:
    """Reads episodes of an open file; knows HDF5's types of what it expects, which h5py would look up every time."""

    def __init__(self, file: Any, path: Path, widths: tuple[int, int]):
        from h5py import h5t

        self.root, self.path, self.widths = file.id, path, widths
        self._types = {kind: h5t.py_create(np.dtype(kind), logical=True) for kind in ("float32", "bool", "int64")}

    def episode(self, number: int) -> dict[str, Any]:
        """Arrays by name, and `steps`, `seed` and `patient`."""
        from h5py import h5g

        where = f"{self.path}: episode_{number}"
        try:
            group = h5g.open(self.root, b"episode_%d" % number)
            found = {name: self._number(group, name) for name in _ATTRIBUTES}
            infos = h5g.open(group, b"infos")
        except (KeyError, OSError, TypeError, ValueError) as error:
            text = " ".join(str(error).strip("'\"").split())
            raise DatasetError(f"{where}: {text}; regenerate the dataset") from None
        if found["id"] != number:
            raise DatasetError(f"{where}: its id attribute is {found['id']}; regenerate the dataset")
        steps = found["total_steps"]
        episode: dict[str, Any] = {"steps": steps, "seed": found["seed"], "patient": found["options/patient_index"]}
        episode["observations"] = self._array(group, "observations", where, (steps + 1, self.widths[0]), "float32")
        for name, kind in _STEP_ARRAYS.items():
            shape = (steps, self.widths[1]) if name == "actions" else (steps,)
            episode[name] = self._array(group, name, where, shape, kind)
        for name in INFOS:
            episode[name] = self._array(infos, name, where, (steps + 1,), "float32")
        return episode

    def _number(self, group: Any, name: str) -> int:
        from h5py import h5a

        value = np.empty((), np.int64)
        h5a.open(group, name.encode()).read(value, mtype=self._types["int64"])
        return int(value)

    def _array(self, group: Any, name: str, where: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        from h5py import h5d, h5s

        try:
            dataset = h5d.open(group, name.encode())
        except KeyError:
            raise DatasetError(f"{where}: {name!r} is missing; regenerate the dataset") from None
        if dataset.shape != shape:
            raise DatasetError(f"{where}: {name!r} has shape {dataset.shape}, expected {shape}; regenerate the dataset")
        if not dataset.get_type().equal(self._types[kind]):
            raise DatasetError(f"{where}: {name!r} is {dataset.dtype}, expected {kind}; regenerate the dataset")
        array = np.empty(shape, kind)
        dataset.read(h5s.ALL, h5s.ALL, array, self._types[kind])
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
            reader, total = _Reader(file, path, widths), len(file)
            for first in range(0, total, size):
                numbers = range(first, min(first + size, total))
                yield _pack([reader.episode(number) for number in numbers], first)
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; regenerate the dataset") from None
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise DatasetError(f"{path}: not a readable HDF5 file ({text}); regenerate the dataset") from None


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
