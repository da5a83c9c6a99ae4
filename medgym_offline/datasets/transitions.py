"""`Transitions`: an offline dataset as flat arrays, one row per decision.

The flat cache holds every column as one `.npy` file, memory-mapped on load.

Minari's episode-per-group layout takes seconds to read; these files take milliseconds. They are named by the
content hash and can always be rebuilt from the HDF5 file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import DatasetError
from medgym_offline.patients import PatientIndex, Patients, people_hash

__all__ = ["COLUMNS", "Transitions", "content_hash", "flat_name", "read_flat", "transitions_of", "write_flat"]

Vectors: TypeAlias = np.ndarray
"""(N, .) float32."""
Numbers: TypeAlias = np.ndarray
"""(N,) float32."""
Flags: TypeAlias = np.ndarray
"""(N,) bool."""
Places: TypeAlias = np.ndarray
"""(N,) int32."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """N decisions of many episodes, in order of patient, then episode, then decision.

    An episode of T decisions visits T + 1 observations; it fills T consecutive rows::

        time       0        t1        t2          ...         t(T-1)        H
        observed   o0 ----- o1 ------ o2 --       ...     --- o(T-1) ------ oT
        decision       a0        a1                                 a(T-1)

        row          observations  actions  next_observations  dt          time  severity, monitored  terminations
        first + 0    o0            a0       o1                 t1 - 0      t1    at t1                False
        first + 1    o1            a1       o2                 t2 - t1     t2    at t2                False
        ...
        first + T-1  o(T-1)        a(T-1)   oT                 H - t(T-1)  H     at the horizon H     True

    So `observations[i]` is what the policy saw, everything else in row i is a consequence of `actions[i]`:
    `time` is when the decision *ends*, `severity` and `monitored` are read there, `rewards` and `costs` belong to the
    decision. `next_observations[i]` equals `observations[i + 1]` inside an episode.

    Shapes and units:
        observations, next_observations (N, d): the columns of `definition.seen(view)`.
        actions (N, A): as executed, in [-1, 1]; the columns of `definition.action_names`, under fixed timing without
            the last.
        rewards, costs (N,): of the decision (kind of reward: see the dataset's recipe).
        terminations, truncations (N,) bool: horizon reached; never truncated.
        dt, time (N,) in the disease's unit of time.  severity (N,) points.  monitored (N,) the component that the first
            cost watches, in its unit. In Minari's infos the last two have the disease's own names.
        costs_path, costs_peak (N, C): integral over the decision of each cost's rate, and its largest value; the costs
            of `definition.costs`, of which `costs` has the first, as it is at the decision's end.
        behavior_log_prob (N,): log-probability of `actions` given `observations`, of the policy that played the
            episode: a density inside the box, a probability on its walls (:mod:`medgym_offline.policies.protocol`).
            NaN where the behavior acted without noise and its actions have no density.
        patient (N,) int32: index into the bank, and into `patients`.
        episode (N,) int32: the episode's number in the dataset (unchanged by `select`).

    The arrays may be memory-mapped copy-on-write: a write stays in memory and never reaches the file.
    """

    observations: Vectors
    actions: Vectors
    rewards: Numbers
    costs: Numbers
    next_observations: Vectors
    terminations: Flags
    truncations: Flags
    dt: Numbers
    time: Numbers
    severity: Numbers
    monitored: Numbers
    costs_path: Vectors
    costs_peak: Vectors
    behavior_log_prob: Numbers
    patient: Places
    episode: Places
    patients: tuple[str, ...] = ()
    """Patient ids of the whole bank: row i belongs to `patients[patient[i]]`."""
    timing: str = "adaptive"
    decisions: int = 20
    disease: str = DEFAULT
    dataset_id: str = ""
    identity: str = ""
    """Of what made the whole stored dataset (:mod:`.trust`); unchanged by `select`."""
    view: str = FULL
    """What the observations show: "full", or another view of the disease."""
    split: str = ""
    """Side of the bank's split of people that all rows are of, "train" or "test"; "": of anybody."""
    embedded: int = 0
    """Columns before the clocks that tell who the person is, of scope "context"; none in a stored dataset."""

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def definition(self) -> Disease:
        """The disease itself."""
        return find_disease(self.disease)

    @property
    def observation_dim(self) -> int:
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        return int(self.actions.shape[1])

    @property
    def present(self) -> np.ndarray:
        """Sorted bank indices (int32) of the patients that have rows here."""
        return np.unique(self.patient)

    @property
    def present_ids(self) -> tuple[str, ...]:
        """Ids of the patients that have rows here, in bank order."""
        return tuple(self.patients[i] for i in self.present)

    def resolve(self, patients: Patients) -> list[int]:
        """Bank indices of the patients meant, all of whom have rows here.

        Args:
            patients: None (all that have rows), a number n (the first n of them), an id, or several ids and indices.

        Raises:
            UnknownNameError: See :class:`~medgym_offline.patients.PatientIndex`.
        """
        return PatientIndex(self.patients, self.dataset_id or "transitions", self.present.tolist()).resolve(patients)

    def people(self, patients: Patients = None) -> dict[str, Any]:
        """What a policy's file says of whom it learned from: side and hash of ids; empty for rows of no one side."""
        ids = [self.patients[p] for p in self.resolve(patients)]
        return {"people": {"split": self.split, "sha256": people_hash(ids)}} if self.split else {}

    def select(self, mask: np.ndarray | slice | None = None, *, patients: Patients = None) -> Transitions:
        """Rows chosen by `mask` (bool (N,), integer rows or a slice) and/or the rows of `patients`.

        Row order, `patient` numbers and `episode` numbers stay. Patients are ids or bank indices; a
        patient that the bank has but the dataset has not gives no rows. Contiguous selections are views.
        """
        numbers = np.arange(len(self))[slice(None) if mask is None else mask]
        if patients is not None:
            index = PatientIndex(self.patients, self.dataset_id or "transitions")
            numbers = numbers[np.isin(self.patient, index.resolve(patients, repeats=True))[numbers]]
        rows = _as_slice(numbers)
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})

    def pooled(self) -> Transitions:
        """The same rows as those of one patient, "everyone"."""
        return dataclasses.replace(self, patient=np.zeros_like(self.patient), patients=("everyone",))

    def episode_starts(self) -> np.ndarray:
        """Row numbers (int64) at which an episode begins, found from `episode`."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.r_[True, np.diff(self.episode) != 0])

    def episode_lengths(self) -> np.ndarray:
        """Decisions (int64) of each episode."""
        return np.diff(np.r_[self.episode_starts(), len(self)])

    def validate(self) -> Transitions:
        """Return self if shapes, types and values are those documented; else raise `DatasetError`.

        Checks the container, not the medicine: `medgym_offline.datasets.verify` checks what rows mean.
        """
        name = self.dataset_id or "transitions"
        rows = len(self.rewards)
        for column, kind in COLUMNS.items():
            array = getattr(self, column)
            wanted = 2 if column in _VECTORS else 1
            if not isinstance(array, np.ndarray) or array.ndim != wanted or len(array) != rows:
                shape = getattr(array, "shape", None)
                raise DatasetError(f"{name}: {column} has shape {shape}, not {wanted} axes and {rows} rows; regenerate")
            if array.dtype != np.dtype(kind):
                raise DatasetError(f"{name}: {column} is {array.dtype}, expected {kind}; regenerate")
            odd = np.isinf(array) if column == "behavior_log_prob" else ~np.isfinite(array)
            if kind == "float32" and odd.any():
                row = int(np.flatnonzero(odd.reshape(rows, -1).any(axis=1))[0])
                raise DatasetError(f"{name}: {column} is not finite at row {row}; regenerate")
        if self.timing not in ("adaptive", "fixed"):
            raise DatasetError(f"{name}: timing {self.timing!r} is not 'adaptive' or 'fixed'")
        of = self.definition
        widths = {
            "next_observations": (self.observation_dim, "observations have"),
            "actions": (of.action_dim(self.timing), f"{self.timing} timing needs"),
            "costs_path": (len(of.costs), f"{self.disease} has"),
            "costs_peak": (len(of.costs), f"{self.disease} has"),
        }
        if self.view != FULL:
            widths["observations"] = len(of.seen(self.view)) + self.embedded, f"view {self.view!r} has"
        for column, (width, why) in widths.items():
            if (found := getattr(self, column).shape[1]) != width:
                raise DatasetError(f"{name}: {column} have width {found}, {why} {width}; regenerate")
        if rows and (self.patient.min() < 0 or self.patient.max() >= len(self.patients)):
            raise DatasetError(f"{name}: patient numbers exceed the {len(self.patients)} patient ids")
        return self


# A field is a column where the name of its type says what that holds.
_KINDS = {"Vectors": "float32", "Numbers": "float32", "Flags": "bool", "Places": "int32"}
COLUMNS = {f.name: _KINDS[str(f.type)] for f in dataclasses.fields(Transitions) if str(f.type) in _KINDS}
"""The array fields of `Transitions` and their NumPy types, in storage order."""
_VECTORS = [field.name for field in dataclasses.fields(Transitions) if field.type == "Vectors"]


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """The same rows as a slice where they are consecutive (a view instead of a copy)."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def content_hash(rows: Transitions) -> str:
    """SHA-256 of the bytes of all rows of a dataset, and of what gives them meaning (patients, timing, decisions).

    Equal hashes mean the very same rows. Unequal ones need not mean other data: a value beside the middle of two
    float32 numbers can be rounded either way on another processor (see :mod:`.trust`).
    """
    parts: dict[str, Any] = {"rows": len(rows), "shapes": {}}
    parts["meaning"] = {"patients": list(rows.patients), "timing": rows.timing, "decisions": rows.decisions}
    for name, kind in COLUMNS.items():
        array = np.ascontiguousarray(getattr(rows, name), dtype=np.dtype(kind).newbyteorder("<"))
        parts[name], parts["shapes"][name] = hashlib.sha256(array.data).hexdigest(), list(array.shape[1:])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def flat_name(content_hash: str) -> str:
    """Name of the folder of the flat cache of a dataset with this content."""
    return f"flat-{content_hash[:16]}"


def write_flat(folder: Path, rows: Transitions) -> None:
    """Write the flat cache of the rows of a dataset into a new folder."""
    folder.mkdir(parents=True)
    for name in COLUMNS:
        np.save(folder / f"{name}.npy", getattr(rows, name))


def read_flat(folder: str | Path) -> dict[str, np.ndarray]:
    """The columns of a flat cache, memory-mapped copy-on-write: changing them changes memory, never the files.

    Raises:
        DatasetError: a file is missing, truncated or of another type; the cache can be deleted and is rebuilt.
    """
    columns = {}
    for name, kind in COLUMNS.items():
        path = Path(folder) / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            text = " ".join(str(error).split())
            raise DatasetError(f"{path}: unreadable flat cache ({text}); delete {folder}, it is rebuilt") from None
        if array.dtype != np.dtype(kind):
            raise DatasetError(f"{path}: type {array.dtype}, expected {kind}; delete {folder}, it is rebuilt")
        columns[name] = np.asarray(array)
    if len({len(array) for array in columns.values()}) != 1:
        raise DatasetError(f"{folder}: columns differ in length; delete it, it is rebuilt")
    return columns


def transitions_of(columns: dict[str, np.ndarray], metadata: dict[str, Any]) -> Transitions:
    """Columns with the meaning that Minari's metadata of the dataset give them."""
    ours = metadata["medgym"]
    return Transitions(
        **columns,
        patients=tuple(ours["patients"]),
        timing=ours["timing"],
        decisions=int(ours["decisions"]),
        disease=ours["disease"],
        dataset_id=metadata["dataset_id"],
        identity=ours["identity"],
        view=ours.get("view", FULL),
        split="",
        embedded=0,
    )
