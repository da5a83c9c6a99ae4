"""Equality of datasets: every episode of a release in a few bytes, against which any copy of it is compared.

For every episode e its number of decisions, its return, and two sums over all of its rows r and columns c,

    S_k(e) = sum_rc w_k(e, r, c) x_rc / scale_c,        w_k in [1, 2), pseudo-random from the episode's seed,   k = 1, 2

with `scale` 1 for what is normalized already and the column's standard deviation for the rest. As no weight is below
1, one value that moves by 1e-3 of its scale moves both sums by at least that much, five times the tolerance; and two
changes that cancel in one sum do not in the other. A few episodes are kept whole, to say where a difference lies.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.errors import DatasetError

__all__ = ["TOLERANCE", "Comparison", "Fingerprint"]

TOLERANCE = 2e-4
"""Largest difference of a sum, or of any value of an episode kept whole, between equal copies, in scaled units.

Chosen: a fifth of the smallest change to be found. Measured between AVX2 and no vector instructions: 0 in all datasets
of the release (`benchmarks/instruction_sets.py`); one step in the last stored digit of every value moves a sum by less
than half of it (tested)."""

_QUANTUM = 1e-5
_WHOLE = 11
_SCALED = tuple(name for name in COLUMNS if name not in ("patient", "episode"))
_NORMALIZED = ("observations", "actions", "next_observations", "terminations", "truncations")
_CHUNK = 50_000


@dataclass(frozen=True)
class Comparison:
    """How a copy compares with a fingerprint.

    Attributes:
        largest: Largest difference of a sum or value, in scaled units; infinite where counts differ.
        faults: Each difference beyond the tolerance, in a line; empty if the copy is equal.
    """

    largest: float
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """A dataset in a few bytes per episode.

    Attributes:
        scales: Column -> what its values are divided by.
        lengths: (E,) decisions of each episode.
        returns: (E,) sum of its rewards.
        sums: (E, 2) weighted sums in steps of 1e-5, int32; what exceeds its range wraps, in both copies alike.
        numbers: (W,) episodes kept whole.
        whole: Their rows one after the other (R, C), scaled, float32.
    """

    scales: dict[str, float]
    lengths: np.ndarray
    returns: np.ndarray
    sums: np.ndarray
    numbers: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, rows: Transitions, seeds: np.ndarray, scales: dict[str, float] | None = None) -> Fingerprint:
        """Fingerprint of all rows of a dataset.

        Args:
            rows: In order.
            seeds: (E,) int64, of its episodes.
            scales: Of the dataset to compare with; its own standard deviations if None.
        """
        scales = scales or {name: _scale(name, getattr(rows, name)) for name in _SCALED}
        starts = rows.episode_starts()
        lengths = rows.episode_lengths()
        if len(seeds) != len(starts):
            raise DatasetError(f"{rows.dataset_id}: {len(starts)} episodes, {len(seeds)} seeds")
        numbers = np.unique(np.linspace(0, len(starts) - 1, _WHOLE).round().astype(np.int64))
        kept = [np.arange(starts[n], starts[n] + lengths[n]) for n in numbers]
        return cls(
            scales,
            lengths.astype(np.int32),
            np.add.reduceat(rows.rewards.astype(np.float64), starts).astype(np.float32),
            _sums(rows, seeds, starts, lengths, scales),
            numbers,
            _scaled(rows, np.concatenate(kept), scales).astype(np.float32),
        )

    def compare(self, rows: Transitions, seeds: np.ndarray) -> Comparison:
        """Compare a copy with this fingerprint, episode by episode.

        Args:
            rows: All rows of the copy, in order.
            seeds: (E,) that the episodes should have, by the recipe of this dataset.
        """
        starts = rows.episode_starts()
        if len(starts) != len(self.lengths):
            return Comparison(np.inf, (f"{len(starts)} episodes, the release has {len(self.lengths)}",))
        other = Fingerprint.of(rows, seeds, self.scales)
        if len(wrong := np.flatnonzero(other.lengths != self.lengths)):
            e = int(wrong[0])
            counts = f"{other.lengths[e]} decisions, the release {self.lengths[e]}"
            return Comparison(np.inf, (f"{len(wrong)} episodes of another length; episode {e} has {counts}",))
        faults = []
        # The difference is taken in int32, so that it wraps as the sums did.
        moved = np.abs((other.sums - self.sums).astype(np.float64)).max(axis=1) * _QUANTUM
        if len(wrong := np.flatnonzero(moved > TOLERANCE)):
            e = int(wrong[np.argmax(moved[wrong])])
            patient = rows.patients[int(rows.patient[starts[e]])]
            faults.append(
                f"{len(wrong)} of {len(moved)} episodes have other values, most so episode {e} of patient {patient} "
                f"(its sums differ by {moved[e]:.2g}, accepted {TOLERANCE:.0e})"
            )
        gap = np.abs(other.returns.astype(np.float64) - self.returns) / self.scales["rewards"]
        if len(wrong := np.flatnonzero(gap > np.maximum(TOLERANCE, 1e-6 * np.abs(self.returns)))):
            faults.append(f"{len(wrong)} returns differ, most so that of episode {int(wrong[np.argmax(gap[wrong])])}")
        value = np.abs(other.whole.astype(np.float64) - self.whole)
        if len(cells := np.argwhere(~(value <= TOLERANCE))):
            columns = _column_names(rows)
            named = list(dict.fromkeys(columns[c] for c in cells[:, 1].tolist()))
            faults.append(f"of the episodes kept whole these columns differ: {', '.join(named[:6])}")
        return Comparison(float(max(moved.max(), value.max())), tuple(faults))

    def to_text(self) -> str:
        """As text for a manifest."""
        from safetensors.numpy import save

        arrays = vars(self) | {"scales": np.array([self.scales[name] for name in _SCALED])}
        return base64.b64encode(zlib.compress(save(arrays), 9)).decode()

    @classmethod
    def from_text(cls, text: str, where: str) -> Fingerprint:
        """From a manifest's text; a `DatasetError` that names `where` if it is none."""
        from safetensors.numpy import load

        try:
            arrays = load(zlib.decompress(base64.b64decode(text, validate=True)))
            scales = dict(zip(_SCALED, arrays.pop("scales").tolist(), strict=True))
            return cls(scales, **arrays)
        except Exception as error:  # safetensors raises a type of its own, which has no common base with the others
            raise DatasetError(f"{where}: fingerprint is damaged ({type(error).__name__}: {error})") from None


def _scale(name: str, column: np.ndarray) -> float:
    spread = 0.0 if name in _NORMALIZED else float(np.nan_to_num(column).std(dtype=np.float64))
    return spread if spread > 1e-6 else 1.0


def _scaled(rows: Transitions, where: slice | np.ndarray, scales: dict[str, float]) -> np.ndarray:
    """Rows (R, C) of all columns, scaled, float64."""
    # A behavior without noise has no probabilities: NaN throughout.
    parts = [np.nan_to_num(np.asarray(getattr(rows, name)[where], np.float64)) / scales[name] for name in _SCALED]
    return np.concatenate([part if part.ndim == 2 else part[:, None] for part in parts], axis=1)


def _column_names(rows: Transitions) -> list[str]:
    names = []
    for name in _SCALED:
        shape = getattr(rows, name).shape[1:]
        names += [f"{name}[{i}]" for i in range(shape[0])] if shape else [name]
    return names


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), elementwise: (...) uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sums(
    rows: Transitions, seeds: np.ndarray, starts: np.ndarray, lengths: np.ndarray, scales: dict[str, float]
) -> np.ndarray:
    golden = np.uint64(0x9E3779B97F4A7C15)
    row = np.arange(len(rows)) - np.repeat(starts, lengths)
    keys = np.repeat(_mixed(seeds.astype(np.uint64) + golden), lengths)
    found = np.empty((len(rows), 2))
    for begin in range(0, len(rows), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        values = _scaled(rows, part, scales)
        width = values.shape[1]
        place = row[part, None].astype(np.uint64) * np.uint64(width) + np.arange(width, dtype=np.uint64)
        for k in range(2):
            number = _mixed(keys[part, None] + (np.uint64(2) * place + np.uint64(k + 1)) * golden)
            weight = 1.0 + (number >> np.uint64(11)).astype(np.float64) * 2.0**-53
            found[part, k] = (weight * values).sum(axis=1)
    whole = np.add.reduceat(found, starts, axis=0)
    return np.rint(whole / _QUANTUM).astype(np.int64).astype(np.int32)
