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

import contextlib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.errors import DatasetError

__all__ = ["EpisodeBlock", "INFOS", "pack_episodes", "read_episodes", "unwritten", "write_episodes"]

INFOS = ("costs", "dt", "time", "severity", "monitored", "costs_path", "costs_peak", "behavior_log_prob")
"""What is under `infos`, (T + 1,) float32, or (T + 1, number of costs) for the costs along the path; costs, severity
and monitored component by names of their own (:func:`info_names`)."""

_ATTRIBUTES = ("id", "seed", "total_steps", "options/patient_index")
_PATIENT = "options/patient"
_STEP_ARRAYS = {"actions": "float32", "rewards": "float32", "terminations": "bool", "truncations": "bool"}


def info_names(disease: Disease) -> dict[str, str]:
    """The name that each of `INFOS` has in files."""
    own = {"costs": "cost", "severity": disease.severity.name, "monitored": disease.cost.component}
    return {name: own.get(name, name) for name in INFOS}


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
    shapes |= {"costs_path": costs, "costs_peak": costs}
    found = [("observations", "observations", shapes["observations"], "float32")]
    found += [(name, name, shapes.get(name, (steps,)), kind) for name, kind in _STEP_ARRAYS.items()]
    return found + [(name, names[name], shapes.get(name, (steps + 1,)), "float32") for name in INFOS]


def _types() -> dict[str, Any]:
    """HDF5's types, made once: h5py would find them out again for every array."""
    from h5py import h5t

    return {kind: h5t.py_create(np.dtype(kind), logical=True) for kind in ("float32", "bool", "int64")}


def write_episodes(path: Path, block: EpisodeBlock, patients: tuple[str, ...], disease: Disease) -> None:
    """Write a new `main_data.hdf5`.

    Args:
        path: The file; replaced if it exists.
        block: All episodes; they are numbered from 0.
        patients: Ids of the whole bank, for the episodes' metadata.
        disease: Gives infos their names.

    Raises:
        DatasetError: HDF5 cannot lock the file.  OSError, RuntimeError: It cannot be written.
    """
    import h5py
    from h5py import h5a, h5d, h5f, h5g, h5o, h5p, h5s, h5t

    types, text = _types(), h5py.string_dtype()
    text_type, scalar = h5t.py_create(text, logical=True), h5s.create(h5s.SCALAR)
    plain, compact = h5p.create(h5p.GROUP_CREATE), h5p.create(h5p.DATASET_CREATE)
    compact.set_layout(h5d.COMPACT)
    for made in (plain, compact):
        made.set_obj_track_times(False)

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

    @functools.cache
    def template(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Create an episode of `count` decisions in the file in memory; its open attributes and arrays by name."""
        group = h5g.create(drafts, b"%d" % count, gcpl=plain)
        attributes = {name: h5a.create(group, name.encode(), types["int64"], scalar) for name in _ATTRIBUTES}
        attributes[_PATIENT] = h5a.create(group, _PATIENT.encode(), text_type, scalar)
        found, where = {}, group
        for name, stored, shape, kind in _arrays(disease, count, widths):
            if name == INFOS[0]:
                where = h5g.create(group, b"infos", gcpl=plain)
            found[name] = h5d.create(where, stored.encode(), types[kind], h5s.create_simple(shape), compact)
        return attributes, found

    rows, starts = block.columns, block.starts
    widths = rows["observations"].shape[1], rows["actions"].shape[1]

    def with_reset(first: Any, after: np.ndarray) -> np.ndarray:
        """(N + E, ...): every episode's rows after what was at its reset."""
        return np.insert(after, starts, first, axis=0)

    arrays = {"observations": with_reset(rows["observations"][starts], rows["next_observations"])}
    arrays |= {n: with_reset(block.reset.get(n, 0.0), rows[n]) for n in INFOS}
    # Per array: name, values, type (named, h5py need not find it out), rows beyond the decisions.
    columns = [(name, np.ascontiguousarray(array, "float32"), types["float32"], 1) for name, array in arrays.items()]
    columns += [(name, np.ascontiguousarray(rows[name], kind), types[kind], 0) for name, kind in _STEP_ARRAYS.items()]
    try:
        file = create(str(path).encode(), in_memory=False)
    except OSError as error:
        raise _locked(path, error) or error from None
    with contextlib.closing(file), contextlib.closing(create(b"templates", in_memory=True)) as memory:
        target, drafts = h5g.open(file, b"/"), h5g.open(memory, b"/")
        for e, (start, count) in enumerate(zip(starts.tolist(), block.lengths.tolist())):
            patient = int(rows["patient"][start])
            attributes, found = template(count)
            for name, value in zip(_ATTRIBUTES, (e, int(block.seeds[e]), count, patient)):
                attributes[name].write(np.array(value, np.int64), mtype=types["int64"])
            attributes[_PATIENT].write(np.array(patients[patient], text))
            for name, values, kind, more in columns:
                begin = start + e * more
                found[name].write(h5s.ALL, h5s.ALL, values[begin : begin + count + more], kind)
            h5o.copy(drafts, b"%d" % count, target, b"episode_%d" % e)


def _read_episode(root: Any, number: int, widths: tuple[int, int], disease: Disease, types: Any) -> dict[str, Any]:
    """Arrays by name, and `seed` and `patient`; errors that say what is wrong."""
    from h5py import h5a, h5d, h5g, h5s

    group = h5g.open(root, b"episode_%d" % number)
    numbers, infos = {name: np.empty((), np.int64) for name in _ATTRIBUTES}, h5g.open(group, b"infos")
    for name, value in numbers.items():
        h5a.open(group, name.encode()).read(value, mtype=types["int64"])
    found, seed, steps, patient = (int(value) for value in numbers.values())
    if found != number:
        raise ValueError(f"its id attribute is {found}")
    episode: dict[str, Any] = {"seed": seed, "patient": patient}
    for name, stored, shape, kind in _arrays(disease, steps, widths):
        dataset = h5d.open(infos if name in INFOS else group, stored.encode())
        if dataset.shape != shape:
            raise ValueError(f"array {stored!r} has shape {dataset.shape}, expected {shape}")
        if not dataset.get_type().equal(types[kind]):
            raise ValueError(f"array {stored!r} is {dataset.dtype}, expected {kind}")
        episode[name] = np.empty(shape, kind)
        dataset.read(h5s.ALL, h5s.ALL, episode[name], types[kind])
    return episode


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

    path, episodes = Path(path), []
    try:
        with h5py.File(path, "r") as file:
            widths, types = (len(disease.seen(view)), disease.action_dim(timing)), _types()
            for number in range(len(file)):
                try:
                    episodes.append(_read_episode(file.id, number, widths, disease, types))
                except (KeyError, OSError, TypeError, ValueError) as error:
                    text = " ".join(str(error).strip("'\"").split())
                    raise DatasetError(f"{path}: episode_{number}: {text}; regenerate the dataset") from None
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; regenerate the dataset") from None
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        wrong = DatasetError(f"{path}: not a readable HDF5 file ({text}); regenerate the dataset")
        raise _locked(path, error) or wrong from None
    if not episodes:
        raise DatasetError(f"{path}: holds no episodes; regenerate the dataset")
    return pack_episodes(episodes)


def hdf5_reason(error: Exception | str) -> str:
    """One line of an error of the HDF5 library, which writes a paragraph around the operating system's message."""
    text = " ".join(str(error).split())
    inner = re.search(r"error message = '([^']+)'", text)
    return inner[1] if inner else text


def unwritten(folder: Path, error: Exception) -> DatasetError:
    """What to say and do where the dataset in a folder could not be written."""
    file, reason = (getattr(error, name, None) for name in ("filename", "strerror"))
    why = f"{folder}: cannot write the dataset ({hdf5_reason(reason or error)}{f': {file}' if file else ''})"
    remedy = "set MINARI_DATASETS_PATH (datasets) and MEDGYM_CACHE (work) to other folders"
    return DatasetError(f"{why}; free some space, or {remedy}, and run again: what is done is kept")


def _locked(path: Path, error: Exception) -> DatasetError | None:
    """What to say where HDF5 could not lock a file (with which nothing is wrong); None where it failed otherwise."""
    text = " ".join(str(error).split())
    if "lock" not in text and "already open" not in text:
        return None
    cause = "another program has it open for writing, or this file system has no locks"
    remedy = "close that program, or set HDF5_USE_FILE_LOCKING=FALSE where nobody is writing"
    return DatasetError(f"{path}: HDF5 cannot lock the file ({hdf5_reason(error)}): {cause}; {remedy}")


def pack_episodes(episodes: list[dict[str, Any]]) -> EpisodeBlock:
    """One block of episodes, numbered from 0.

    Args:
        episodes: Of each: `seed`, `patient`, and its arrays of K decisions by the names of `Transitions`
            and :data:`INFOS` (observations and infos K + 1, of the reset and of the end of each decision).
    """
    after, before = slice(1, None), slice(None, -1)

    def rows(name: str, part: slice = slice(None)) -> np.ndarray:
        return np.concatenate([episode[name][part] for episode in episodes])

    columns = {"observations": rows("observations", before), "next_observations": rows("observations", after)}
    columns |= {name: rows(name) for name in _STEP_ARRAYS}
    columns |= {name: rows(name, after) for name in INFOS}
    steps = [len(episode["actions"]) for episode in episodes]
    columns["patient"] = np.repeat(np.array([episode["patient"] for episode in episodes], np.int32), steps)
    columns["episode"] = np.repeat(np.arange(len(episodes), dtype=np.int32), steps)
    reset = {name: np.array([episode[name][0] for episode in episodes]) for name in ("severity", "monitored")}
    return EpisodeBlock(columns, reset, np.array([episode["seed"] for episode in episodes], np.int64))
