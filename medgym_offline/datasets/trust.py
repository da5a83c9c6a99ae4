"""What a dataset is, and whether a copy of it may be believed.

Rows come out again to the last stored digit on almost every machine, and nowhere further than rounding, so their bytes
are no name for a dataset. What made them is: the recipe, the bank, the behavior, and the rules of generation.
Whether a copy really has those rows is another question, answered by its fingerprint.

A fingerprint holds every episode of a release in a few bytes: for episode e its number of decisions, its return, and
two sums over all of its rows r and columns c,

    S_k(e) = sum_rc w_k(e, r, c) x_rc / scale_c,        w_k in [1, 2), pseudo-random from the episode's seed,   k = 1, 2

with `scale` 1 for what is normalized already and the column's standard deviation for the rest. As no weight is below
1, one value that moves by 1e-3 of its scale moves both sums by at least that much, five times the tolerance; and two
changes that cancel in one sum do not in the other. A few episodes are kept whole, to say where a difference lies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.datasets.catalogue import DATA_FILE, MANIFEST, read_manifest, release_manifest
from medgym_offline.datasets.recipes import known_recipe, stream_of
from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.errors import DatasetError
from medgym_offline.files import json_difference, sha256_file

__all__ = [
    "Comparison", "Fingerprint", "GENERATOR", "TOLERANCE", "check_metadata", "compare_rows", "damaged_files",
    "departures", "fetched_manifest", "identity_of", "made_differently", "metadata_differs", "recipe_seeds",
    "require_release_rows",
]  # fmt: skip

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
        kept = np.isin(np.repeat(np.arange(len(starts)), lengths), numbers)
        return cls(
            scales,
            lengths.astype(np.int32),
            np.add.reduceat(rows.rewards.astype(np.float64), starts).astype(np.float32),
            _sums(rows, seeds, starts, lengths, scales),
            numbers,
            _scaled(rows, kept, scales).astype(np.float32),
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
        if (moved > TOLERANCE).any():
            e = int(moved.argmax())
            most = f"episode {e} of patient {rows.patients[int(rows.patient[starts[e]])]}"
            sums = f"its sums differ by {moved[e]:.2g}, accepted {TOLERANCE:.0e}"
            count = int((moved > TOLERANCE).sum())
            faults.append(f"{count} of {len(moved)} episodes have other values, most so {most} ({sums})")
        gap = np.abs(other.returns.astype(np.float64) - self.returns) / self.scales["rewards"]
        if len(wrong := np.flatnonzero(gap > np.maximum(TOLERANCE, 1e-6 * np.abs(self.returns)))):
            faults.append(f"{len(wrong)} returns differ, most so that of episode {int(wrong[np.argmax(gap[wrong])])}")
        value = np.abs(other.whole.astype(np.float64) - self.whole)
        if len(cells := np.argwhere(~(value <= TOLERANCE))):
            shapes = [(name, getattr(rows, name).shape[1:]) for name in _SCALED]
            columns = [f"{name}[{i}]" if shape else name for name, shape in shapes for i in range(math.prod(shape))]
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


GENERATOR = 3
"""Version of the rules by which a recipe becomes rows. Whoever changes what any recipe gives, beyond the tolerance of
the fingerprint, raises it. 1: integrated and sampled in float32; 2: in float64, stored as float32; 3: costs along the
path and the behavior's log-probabilities are columns."""

_LABELS = ("id", "description", "bank", "behavior", "records", "license")
"""Fields of a recipe that are names; what they name is in the identity by its hash."""


def _parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in manifest["recipe"].items() if name not in _LABELS}
    return {
        "generator": manifest["generator"],
        "random streams": manifest["source"],
        **{f"recipe field {name}": value for name, value in recipe.items()},
        "patients": list(manifest["patients"]),
        "bank": manifest["bank"]["content_hash"],
        "behavior": manifest["behavior"]["sha256"],
    }


def identity_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what made a dataset; the id it is stored under is not part of it.

    Args:
        manifest: With `generator`, `source` (the id that names the random streams), `recipe`, `patients` (indices in
            the bank), and the hashes of `bank` and `behavior`.
    """
    return hashlib.sha256(json.dumps(_parts(manifest), sort_keys=True).encode()).hexdigest()


def made_differently(manifest: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    """What differs in the making of two datasets, in words: `recipe field seed: 7 -> 8 here`; may be empty.

    Args:
        manifest, release: Of the one here, and of the one it should be.
    """
    return [f"{line} here" for line in json_difference(_parts(manifest), _parts(release))]


def fetched_manifest(folder: Path, dataset: str, where: str) -> dict[str, Any]:
    """A manifest that came from elsewhere and is of `dataset`; errors name `where`, not the file here."""
    manifest = read_manifest(folder, where, "it cannot be used")
    if manifest["id"] != dataset:
        raise DatasetError(f"{where}: it is the manifest of {manifest['id']!r}")
    return manifest


def departures(manifest: dict[str, Any], dataset: str) -> list[str]:
    """What made a dataset otherwise than this release makes the one of that id, in words; empty if nothing did.

    Versions of code and packages may differ, and with them the bytes of its files. Whether its rows are the release's
    is :func:`compare_rows`.

    Args:
        manifest: Of the dataset.
        dataset: Id; without a recipe in this release, nothing is compared.
    """
    recipe, release = known_recipe(dataset), release_manifest(dataset)
    if recipe is None:
        return []
    made = {"recipe": recipe.to_json(), "source": recipe.id, "generator": GENERATOR}
    different = made_differently(manifest, {**(release or manifest), **made})
    return different or made_differently(manifest, release or manifest)


def recipe_seeds(manifest: dict[str, Any], patients: Sequence[str]) -> np.ndarray:
    """(E,) seeds of all episodes of a dataset, as its recipe gives them.

    Args:
        manifest: Of the dataset.
        patients: Ids of its patients, in order.
    """
    from medgym_offline.envs.rollout import episode_seeds

    recipe = manifest["recipe"]
    return episode_seeds(recipe["seed"], stream_of(manifest["source"]), patients, recipe["episodes"]).reshape(-1)


def compare_rows(rows: Transitions, release: dict[str, Any]) -> Comparison:
    """Rows of a copy against the fingerprint of the release's manifest."""
    fingerprint = Fingerprint.from_text(release["fingerprint"], f"the release's manifest of {release['id']}")
    if (seeds := recipe_seeds(release, rows.present_ids)).shape != (len(rows.episode_starts()),):
        seeds = np.zeros(len(rows.episode_starts()), np.int64)  # another number of episodes: no seed fits
    return fingerprint.compare(rows, seeds)


def require_release_rows(rows: Transitions) -> None:
    """Refuse rows that are not the release's, where the release has a dataset of this id.

    Raises:
        DatasetError: with the first difference, and what to do.
    """
    release = release_manifest(rows.dataset_id)
    if release is None:
        return
    remedy = f"make it again: medgym-offline generate {rows.dataset_id}"
    if rows.identity != release["identity"]:
        raise DatasetError(f"{rows.dataset_id} on this machine was made by other means than the release's; {remedy}")
    if faults := compare_rows(rows, release).faults:
        raise DatasetError(f"{rows.dataset_id} on this machine has other rows than the release: {faults[0]}; {remedy}")


def metadata_differs(metadata: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Names of entries in which Minari's metadata (from `read_metadata`) are not those of the manifest."""
    same = {"dataset_id": "id", "total_episodes": "episodes", "total_steps": "steps"}
    same |= {name: name for name in ("env_spec", "eval_env_spec", "identity", "content_hash")}
    wanted = {name: manifest[stated] for name, stated in same.items()}
    wanted |= {"bytes": manifest["files"][DATA_FILE]["bytes"]}
    stated = {**metadata, **metadata["medgym"]}
    return [name for name, value in wanted.items() if stated[name] != value]


def check_metadata(metadata: dict[str, Any], manifest: dict[str, Any], where: str) -> None:
    """Minari's metadata of a fetched dataset name the manifest's environment and counts; else a `DatasetError`.

    `recover_environment` imports what these specs name, so they are looked at before they can be used.
    """
    if wrong := metadata_differs(metadata, manifest):
        raise DatasetError(f"{where} and the manifest disagree on {wrong[0]!r}")
    for name in ("env_spec", "eval_env_spec"):
        for point in ("entry_point", "vector_entry_point"):
            entry = metadata[name].get(point)
            if not isinstance(entry, str) or not entry.startswith("medgym_offline.envs:"):
                raise DatasetError(f"{where}: {name} has the {point} {entry!r}, which is not of this package")


def damaged_files(folder: Path) -> list[str]:
    """Files of a dataset's folder that are missing or do not have the bytes its own manifest states."""
    try:
        stated = read_manifest(folder)["files"]
    except DatasetError:
        return [MANIFEST]
    files = {name: folder / name for name in stated}
    return [n for n, file in files.items() if not file.is_file() or sha256_file(file) != stated[n]["sha256"]]
