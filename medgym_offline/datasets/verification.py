"""Verification: is a dataset on this machine what its manifest says, and do its rows mean what they should?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.compute import one_thread
from medgym_offline.config import from_values
from medgym_offline.datasets import trust
from medgym_offline.datasets.behaviors import process_config, recipe_behavior
from medgym_offline.datasets.catalogue import local_folder, read_manifest, read_metadata, release_manifest
from medgym_offline.datasets.generation import facts, facts_differ
from medgym_offline.datasets.load import REPLAY_TOLERANCE, read_rows
from medgym_offline.datasets.recipes import Recipe, known_recipe
from medgym_offline.datasets.rows import TOLERANCE, Check, check_rows
from medgym_offline.datasets.shards import SHARD_EPISODES, play_shard
from medgym_offline.datasets.transitions import COLUMNS, Transitions, content_hash, flat_name, read_flat
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["VerificationReport", "verify"]


@dataclass(frozen=True)
class VerificationReport:
    """Result of `verify`.

    Attributes:
        id: Dataset.
        checks: Each with a name, whether it holds, and a detail.
    """

    id: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"id": self.id, "ok": self.ok, "checks": [dataclasses.asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'ok   ' if c.ok else 'FAULT'}  {c.name:<{width}}  {c.detail}" for c in self.checks]
        verdict = "verified" if self.ok else f"{len(self.faults)} of {len(self.checks)} checks failed"
        return "\n".join([*lines, f"{self.id}: {verdict}"])


@one_thread()
def verify(
    dataset: str, *, root: str | Path | None = None, replay: int = 4, progress: bool = True
) -> VerificationReport:
    """Check a dataset on this machine: its files, its rows, and some patients' episodes, played again from their seeds.

    Args:
        dataset: Dataset id.
        root: Folder of Minari datasets; Minari's own by default.
        replay: Number of patients whose episodes are played again, spread over the dataset; 0 leaves it out.
        progress: Show progress on standard error.

    Returns:
        All checks; a damaged dataset gives a report with faults, not an error.

    Raises:
        UnknownDatasetError: no such dataset.  DatasetError: it is not on this machine.
    """
    folder = local_folder(dataset, root)
    with Progress(f"verifying {dataset}", 1, enabled=progress) as bar:
        report = VerificationReport(dataset, tuple(_checks(dataset, folder, replay)))
        bar.advance()
    return report


def _checks(dataset: str, folder: Path, replay: int) -> Iterator[Check]:
    """All checks in order; they stop where nothing further can be read."""
    try:
        manifest = read_manifest(folder)
        recipe = from_values(Recipe, manifest["recipe"], "manifest.json")
        process_config(recipe, manifest["disease"])  # K decisions must fill the horizon
        yield Check("manifest", manifest["id"] == dataset, f"manifest of {manifest['id']}")
        yield from _check_making(dataset, manifest)
        yield from _check_files(folder, manifest)
        metadata = read_metadata(folder)
        rows, seeds = read_rows(folder, metadata)
    except MedGymError as error:
        yield Check("readable", False, str(error))
        return
    yield Check("readable", True, f"{len(seeds)} episodes, {len(rows)} steps")
    yield _check_metadata(metadata, manifest, rows)
    rows = dataclasses.replace(rows, timing=recipe.timing, decisions=recipe.decisions)
    yield from _check_content(folder, rows, manifest)
    yield from _check_release(rows, manifest)
    try:
        from medgym_offline.simulators import load_simulators

        bank = load_simulators(recipe.bank).world(recipe.world)
    except MedGymError as error:
        yield Check("bank", False, str(error))
        return
    same = bank.content_hash == manifest["bank"]["content_hash"]
    same &= bool(recipe.records) or bank.patients == rows.patients
    yield Check("bank", same, f"bank {bank.name} is the one the dataset was made with")
    meaning = check_rows(rows, bank, recipe.reward, simulated=not recipe.records)
    yield from meaning
    # Replay needs rows that can be read as episodes, and the same simulators.
    readable = all(check.ok for check in meaning if check.name in ("schema", "order", "time", "action box"))
    if replay and same and readable and not recipe.records:
        yield from _check_replay(rows, seeds, bank, recipe, manifest, replay)


def _check_making(dataset: str, manifest: dict[str, Any]) -> Iterator[Check]:
    """The identity is that of what the manifest says made it, and the release's where this release has the dataset."""
    stated = trust.identity_of(manifest) == manifest["identity"]
    made = f"{manifest['identity'][:16]}, of recipe, bank, behavior and generator {manifest['generator']}"
    wrong = "the manifest's identity is not that of the recipe, bank and behavior it names"
    yield Check("identity", stated, made if stated else wrong)
    if known_recipe(dataset) is not None:
        different = trust.departures(manifest, dataset)
        remedy = f"make it again: medgym-offline generate {dataset}"
        wrong = f"not made as the release's: {'; '.join(different[:3])}; {remedy}"
        yield Check("recipe", not different, wrong if different else "made as this release makes it")


def _check_release(rows: Transitions, manifest: dict[str, Any]) -> Iterator[Check]:
    """The rows are those of the release's manifest (not of the one beside the copy): it says how nearly."""
    release = release_manifest(rows.dataset_id)
    if release is None or not len(rows):
        return
    try:
        found = trust.compare_rows(rows, release)
    except MedGymError as error:
        yield Check("release", False, str(error))
        return
    text = f"equal to the release's rows within rounding (largest difference {found.largest:.1e})"
    if found.faults:
        text = f"different: {'; '.join(found.faults)}"
    elif manifest["content_hash"] == release["content_hash"]:
        text = "identical to the release's rows"
    yield Check("release", not found.faults, text)


def _check_files(folder: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    damaged = trust.damaged_files(folder)
    for name in manifest["files"]:
        detail = "missing, or other bytes than the manifest states" if name in damaged else "as the manifest states"
        yield Check(f"sha256 {Path(name).name}", name not in damaged, detail)


def _check_metadata(metadata: dict[str, Any], manifest: dict[str, Any], rows: Transitions) -> Check:
    """Minari's metadata agree with the manifest, and the rows lie in its spaces."""
    from minari.serialization import deserialize_space

    wrong = trust.metadata_differs(metadata, manifest)
    wrong += [name for name in ("timing", "decisions") if metadata["medgym"][name] != manifest["recipe"][name]]
    try:
        for name, column in (("observation_space", "observations"), ("action_space", "actions")):
            space: Any = deserialize_space(metadata[name])
            array = getattr(rows, column)
            inside = (array >= space.low - TOLERANCE) & (array <= space.high + TOLERANCE)
            if space.shape != array.shape[1:] or not inside.all():
                wrong.append(f"{column} outside {name}")
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        wrong.append(f"spaces ({type(error).__name__}: {error})")
    detail = f"wrong: {', '.join(wrong)}" if wrong else "counts, id, spaces and environment specs agree"
    return Check("metadata", not wrong, detail)


def _check_content(folder: Path, rows: Transitions, manifest: dict[str, Any]) -> Iterator[Check]:
    """The rows have the manifest's content hash, and so has the flat cache where there is one."""
    found, wanted = content_hash(rows), manifest["content_hash"]
    yield Check("content hash", found == wanted, f"{found[:16]}, manifest {wanted[:16]}")
    wrong = facts_differ(facts(rows), manifest) if len(rows) else "steps"
    detail = f"the manifest's {wrong} is not that of the rows" if wrong else "counts, returns and columns as stated"
    yield Check("statistics", wrong is None, detail)
    flat = folder / flat_name(wanted)
    if flat.is_dir():
        try:
            columns = read_flat(flat)
        except DatasetError as error:
            yield Check("flat cache", False, str(error))
            return
        different = [name for name in COLUMNS if not np.array_equal(columns[name], getattr(rows, name), equal_nan=True)]
        detail = f"{', '.join(different)} differ from the HDF5 file; delete {flat}" if different else "same rows"
        yield Check("flat cache", not different, detail)


_ACTED = ("actions", "behavior_log_prob")
"""Columns that the behavior decides; the others are what the simulators make of it."""


def _check_replay(
    rows: Transitions, seeds: np.ndarray, bank: SimulatorBank, recipe: Recipe, manifest: dict[str, Any], count: int
) -> Iterator[Check]:
    """Checks: seeds are the recipe's, the behavior is the one named, and the episodes come out again.

    Args:
        rows: All rows, in order.
        seeds: (E,) of the episodes.
        bank: The bank the dataset was made with, in its world.
        recipe: As the manifest states it.
        manifest: Of the dataset.
        count: Patients to play again, spread over the dataset: up to `SHARD_EPISODES` first episodes of each.
    """
    present = rows.present
    expected = trust.recipe_seeds(manifest, rows.present_ids)
    layout = np.repeat(present, recipe.episodes)
    same = np.array_equal(seeds, expected) and np.array_equal(rows.patient[rows.episode_starts()], layout)
    detail = f"{recipe.episodes} episodes of each of {len(present)} patients, seeded from {recipe.seed}"
    yield Check("seeds", same, detail if same else f"seeds or patients are not those of the recipe ({detail})")
    try:
        behavior = recipe_behavior(recipe, bank)
    except MedGymError as error:
        yield Check("behavior", False, str(error))
        return
    if behavior.digest != manifest["behavior"]["sha256"]:
        yield Check("behavior", False, f"policy {behavior.name} is not the one the dataset was made with")
        return
    places = np.unique(np.linspace(0, len(present) - 1, min(count, len(present))).round().astype(int))
    chosen = present[places].tolist()
    part = bank.select(chosen)
    own = expected.reshape(len(present), recipe.episodes)[places, :SHARD_EPISODES]
    again = play_shard(part, behavior.select(part.patients), recipe, own, chosen).columns
    stored = rows.select(rows.episode % recipe.episodes < SHARD_EPISODES, patients=chosen)
    gaps = {name: _gap(again[name], getattr(stored, name)) for name in COLUMNS if name != "episode"}
    for title, acted in (("replay", False), ("behavior", True)):
        worst = max((name for name in gaps if (name in _ACTED) == acted), key=lambda name: gaps[name])
        detail = f"{own.size} episodes of {len(chosen)} patients again from their seeds, by policy {behavior.name}"
        detail += f"; largest difference {gaps[worst]:.1e} ({worst})"
        yield Check(title, gaps[worst] <= REPLAY_TOLERANCE, detail)


def _gap(again: np.ndarray, stored: np.ndarray) -> float:
    """Largest difference, relative where values are large: a log-probability divides by the noise's variance."""
    if again.shape != stored.shape:
        return float("inf")
    one, other = again.astype(np.float64), stored.astype(np.float64)
    gap = np.abs(one - other) / np.maximum(1.0, np.abs(other))
    gap[np.isnan(one) & np.isnan(other)] = 0.0  # no probability, then as now
    return float(np.nan_to_num(gap, nan=np.inf).max())
