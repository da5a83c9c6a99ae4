"""Minari's HDF5 layout, written and read in bulk.

One group per episode, as Minari reads it::

    episode_7/                  attributes: id, seed, total_steps, options/patient, options/patient_index
      observations   (T+1, d)   float32
      actions        (T, A)     float32
      rewards        (T,)       float32
      terminations   (T,)       bool
      truncations    (T,)       bool
      infos/{cost, dt, time, ..}   (T+1,) float32, with severity and monitored component by their own names;
      infos/{costs_path, costs_peak}   (T+1, number of costs); index 0 is the reset, t + 1 the end of decision t

Minari's own writer makes chunked, resizable arrays: about 29 kB for an episode of 20 decisions. Here an array lies
inside its object header (COMPACT layout, latest file format, no time stamps): about 3 kB, and the same data gives the
same bytes. It is written once: Minari can add episodes to it, but `load_dataset` then refuses it.

HDF5 takes longest to create objects, seventeen an episode. They are created once for every length of episode, in a
file in memory; an episode is written into these and HDF5 copies them to their place. That is faster than creating them
there, and smaller: a copied header has no room to grow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.errors import DatasetError

__all__ = ["EpisodeBlock", "EpisodeWriter", "INFOS", "hdf5_reason", "pack_episodes", "read_episodes"]

INFOS = ("cost", "dt", "time", "severity", "monitored", "costs_path", "costs_peak", "behavior_log_prob")
"""What is under `infos`, (T + 1,) float32, or (T + 1, number of costs) for the costs along the path; severity and
monitored component by the disease's own names (:func:`info_names`)."""

_ATTRIBUTES = ("id", "seed", "total_steps", "options/patient_index")
_PATIENT = "options/patient"
_STEP_ARRAYS = {"actions": "float32", "rewards": "float32", "terminations": "bool", "truncations": "bool"}


def info_names(disease: Disease) -> dict[str, str]:
    """The name that each of `INFOS` has in files."""
    return {n: n for n in INFOS} | {"severity": disease.severity.name, "monitored": disease.cost.component}


@dataclass
class EpisodeBlock:
    """E episodes, one after the other.

    Attributes:
        columns: Their rows (N, ...), of the names and types of `Transitions`.
        reset: `severity` and `monitored` (E,) before the first decision; nothing else has happened by then.
        seeds: (E,) int64.
    """

    columns: dict[str, np.ndarray]
    reset: dict[str, np.ndarray]
    seeds: np.ndarray

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def starts(self) -> np.ndarray:
        """(E,) rows at which an episode begins."""
        return np.flatnonzero(np.r_[True, np.diff(self.columns["episode"]) != 0])

    @property
    def lengths(self) -> np.ndarray:
        """(E,) decisions of each episode."""
        return np.diff(np.r_[self.starts, len(self.columns["episode"])])


def _arrays(disease: Disease, steps: int, widths: tuple[int, int]) -> list[tuple[str, str, tuple[int, ...], str]]:
    """The arrays of an episode in order: our name, that in the file (of INFOS below `infos`), shape and type."""
    names, costs = info_names(disease), (steps + 1, len(disease.costs))
    shapes: dict[str, tuple[int, ...]] = {"observations": (steps + 1, widths[0]), "actions": (steps, widths[1])}
    found = [("observations", "observations", shapes["observations"], "float32")]
    found += [(name, name, shapes.get(name, (steps,)), kind) for name, kind in _STEP_ARRAYS.items()]
    for name in INFOS:
        found.append((name, names[name], costs if name in ("costs_path", "costs_peak") else (steps + 1,), "float32"))
    return found


@dataclass
class EpisodeWriter:
    """Writes blocks of episodes, in order, to a new `main_data.hdf5` (a context manager).

    Args:
        path: The file; replaced if it exists.
        patients: Ids of the whole bank, for the episodes' metadata.
        disease: Gives infos their names.
    """

    path: Path
    patients: tuple[str, ...]
    disease: Disease
    episodes: int = 0
    steps: int = 0

    def __enter__(self) -> EpisodeWriter:
        import h5py
        from h5py import h5d, h5f, h5g, h5p, h5s, h5t

        def create(name: bytes, in_memory: bool) -> Any:
            access, creation = h5p.create(h5p.FILE_ACCESS), h5p.create(h5p.FILE_CREATE)
            access.set_libver_bounds(h5f.LIBVER_LATEST, h5f.LIBVER_LATEST)
            # Closing the file closes what is open in it, so that it is complete on disk.
            access.set_fclose_degree(h5f.CLOSE_STRONG)
            # Without time stamps, anywhere, the same data gives the same bytes on another day.
            creation.set_obj_track_times(False)
            if in_memory:
                access.set_fapl_core(2**16, False)
            return h5f.create(name, h5f.ACC_TRUNC, creation, access)

        try:
            self._file = create(str(self.path).encode(), in_memory=False)
        except OSError as error:
            raise _locked(self.path, error) or error from None
        self._memory = create(b"templates", in_memory=True)
        self._root, self._drafts = (h5g.open(file, b"/") for file in (self._file, self._memory))
        self._group, self._layout = h5p.create(h5p.GROUP_CREATE), h5p.create(h5p.DATASET_CREATE)
        self._layout.set_layout(h5d.COMPACT)
        for made in (self._group, self._layout):
            made.set_obj_track_times(False)
        self._scalar = h5s.create(h5s.SCALAR)
        self._types = {kind: h5t.py_create(np.dtype(kind), logical=True) for kind in ("float32", "bool", "int64")}
        self._text = h5py.string_dtype()
        self._types["text"] = h5t.py_create(self._text, logical=True)
        self._templates: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()
        self._file.close()

    def write(self, block: EpisodeBlock) -> None:
        """Append the episodes of `block`; their numbers continue those written before."""
        from h5py import h5o, h5s

        rows, starts = block.columns, block.starts

        def with_reset(first: Any, after: np.ndarray) -> np.ndarray:
            """(N + E, ...): every episode's rows after what was at its reset."""
            return np.insert(after, starts, first, axis=0)

        arrays = {"observations": with_reset(rows["observations"][starts], rows["next_observations"])}
        arrays |= {n: with_reset(block.reset.get(n, 0.0), rows["costs" if n == "cost" else n]) for n in INFOS}
        # Per array: name, values, HDF5's type of them (named, h5py need not find it out), rows beyond the decisions.
        columns = [(name, np.ascontiguousarray(array, "float32"), "float32", 1) for name, array in arrays.items()]
        columns += [(name, np.ascontiguousarray(rows[name], kind), kind, 0) for name, kind in _STEP_ARRAYS.items()]
        typed = [(name, values, self._types[kind], more) for name, values, kind, more in columns]
        widths = rows["observations"].shape[1], rows["actions"].shape[1]
        for e, (start, count) in enumerate(zip(starts.tolist(), block.lengths.tolist())):
            patient = int(rows["patient"][start])
            attributes, drafts = self._templates.get(count) or self._template(count, widths)
            for name, value in zip(_ATTRIBUTES, (self.episodes, int(block.seeds[e]), count, patient)):
                attributes[name].write(np.array(value, np.int64), mtype=self._types["int64"])
            attributes[_PATIENT].write(np.array(self.patients[patient], self._text))
            for name, values, kind, more in typed:
                begin = start + e * more
                drafts[name].write(h5s.ALL, h5s.ALL, values[begin : begin + count + more], kind)
            h5o.copy(self._drafts, b"%d" % count, self._root, b"episode_%d" % self.episodes)
            self.episodes += 1
            self.steps += count

    def _template(self, count: int, widths: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Create an episode of `count` decisions in the file in memory; its open attributes and arrays by name."""
        from h5py import h5a, h5d, h5g, h5s

        group = h5g.create(self._drafts, b"%d" % count, gcpl=self._group)
        attributes = {n: h5a.create(group, n.encode(), self._types["int64"], self._scalar) for n in _ATTRIBUTES}
        attributes[_PATIENT] = h5a.create(group, _PATIENT.encode(), self._types["text"], self._scalar)

        arrays, where = {}, group
        for ours, stored, shape, kind in _arrays(self.disease, count, widths):
            if ours == INFOS[0]:
                where = h5g.create(group, b"infos", gcpl=self._group)
            space = h5s.create_simple(shape)
            arrays[ours] = h5d.create(where, stored.encode(), self._types[kind], space, self._layout)
        self._templates[count] = attributes, arrays
        return attributes, arrays


class _Reader:
    """Reads episodes of an open file; knows HDF5's types of what it expects, which h5py would look up every time."""

    def __init__(self, file: Any, path: Path, widths: tuple[int, int], disease: Disease):
        from h5py import h5t

        self.root, self.path, self.widths, self.disease = file.id, path, widths, disease
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
        for name, stored, shape, kind in _arrays(self.disease, steps, self.widths):
            episode[name] = self._array(infos if name in INFOS else group, stored, where, shape, kind)
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


def read_episodes(path: str | Path, disease: Disease, timing: str, view: str = FULL) -> EpisodeBlock:
    """All episodes of a `main_data.hdf5` in order.

    Args:
        path: The file.
        disease, timing: Give the widths of observations and actions, and the names of infos.
        view: What the observations show.

    Raises:
        DatasetError: the file is missing, locked, truncated or damaged, holds no episodes, or an episode lacks an
            array, has one of another shape or type, or has another number than its place says.
    """
    import h5py

    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            widths = len(disease.seen(view)), disease.action_dim(timing)
            reader = _Reader(file, path, widths, disease)
            episodes = [reader.episode(number) for number in range(len(file))]
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; regenerate the dataset") from None
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        wrong = DatasetError(f"{path}: not a readable HDF5 file ({text}); regenerate the dataset")
        raise _locked(path, error) or wrong from None
    if not episodes:
        raise DatasetError(f"{path}: holds no episodes; regenerate the dataset")
    return pack_episodes(episodes, 0)


def hdf5_reason(error: Exception | str) -> str:
    """One line of an error of the HDF5 library, which writes a paragraph around the operating system's message."""
    text = " ".join(str(error).split())
    inner = re.search(r"error message = '([^']+)'", text)
    return inner[1] if inner else text


def _locked(path: Path, error: Exception) -> DatasetError | None:
    """What to say where HDF5 could not lock a file (with which nothing is wrong); None where it failed otherwise."""
    text = " ".join(str(error).split())
    if "lock" not in text and "already open" not in text:
        return None
    cause = "another program has it open for writing, or this file system has no locks"
    remedy = "close that program, or set HDF5_USE_FILE_LOCKING=FALSE where nobody is writing"
    return DatasetError(f"{path}: HDF5 cannot lock the file ({hdf5_reason(error)}): {cause}; {remedy}")


def pack_episodes(episodes: list[dict[str, Any]], first: int) -> EpisodeBlock:
    """One block of episodes, numbered from `first`.

    Args:
        episodes: Of each: `steps` K, `seed`, `patient`, and its arrays of K decisions by the names of `Transitions`
            and :data:`INFOS` (observations and infos K + 1, of the reset and of the end of each decision).
        first: Number of the first of them.
    """
    after, before = slice(1, None), slice(None, -1)

    def rows(name: str, part: slice = slice(None)) -> np.ndarray:
        return np.concatenate([episode[name][part] for episode in episodes])

    columns = {"observations": rows("observations", before), "next_observations": rows("observations", after)}
    columns |= {name: rows(name) for name in _STEP_ARRAYS}
    columns |= {"costs" if name == "cost" else name: rows(name, after) for name in INFOS}
    steps = [episode["steps"] for episode in episodes]
    columns["patient"] = np.repeat(np.array([episode["patient"] for episode in episodes], np.int32), steps)
    columns["episode"] = np.repeat(np.arange(first, first + len(episodes), dtype=np.int32), steps)
    reset = {name: np.array([episode[name][0] for episode in episodes]) for name in ("severity", "monitored")}
    return EpisodeBlock(columns, reset, np.array([episode["seed"] for episode in episodes], np.int64))
