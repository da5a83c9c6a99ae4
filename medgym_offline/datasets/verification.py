"""Verification: is a dataset on this machine what its manifest says, and do its rows mean what they should?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.datasets.behaviors import process_config
from medgym_offline.datasets.catalogue import DATA_FILE, dataset_folder, local_ids, read_manifest
from medgym_offline.datasets.flat import ContentHash, flat_name, read_flat
from medgym_offline.datasets.identity import identity_of
from medgym_offline.datasets.load import read_columns, read_metadata, transitions_of
from medgym_offline.datasets.manifest import facts, facts_differ
from medgym_offline.datasets.recipes import Recipe, known_recipe, list_recipes, unknown_dataset
from medgym_offline.datasets.replay import check_replay
from medgym_offline.datasets.rows import TOLERANCE, Check, check_rows
from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.datasets.trust import compare_rows, not_the_releases, release_manifest
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.files import sha256_file
from medgym_offline.threads import one_thread

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
    dataset: str, *, root: str | Path | None = None, replay: int = 8, progress: bool = True
) -> VerificationReport:
    """Check a dataset on this machine: its files, its rows, and sampled episodes replayed from their seeds.

    Args:
        dataset: Dataset id.
        root: Folder of Minari datasets; Minari's own by default.
        replay: Number of episodes to replay, spread over the dataset; 0 leaves it out.
        progress: Show progress on standard error.

    Returns:
        All checks; a damaged dataset gives a report with faults, not an error.

    Raises:
        UnknownDatasetError: no such dataset.  DatasetError: it is not on this machine.
    """
    folder = dataset_folder(dataset, root)
    if not (folder / "data").is_dir():
        if known_recipe(dataset) is None:
            raise unknown_dataset(dataset, sorted({*list_recipes(), *local_ids(root)}))
        raise DatasetError(
            f"{dataset} is not on this machine ({folder}); make it with: medgym-offline generate {dataset}"
        )
    checks: list[Check] = []
    _check_all(dataset, folder, replay, progress, checks)
    return VerificationReport(dataset, tuple(checks))


def _check_all(dataset: str, folder: Path, replay: int, progress: bool, checks: list[Check]) -> None:
    """Append checks in order; stop where nothing further can be read."""
    try:
        manifest = read_manifest(folder / "data" / "manifest.json")
        recipe = Recipe.from_fields(manifest["recipe"], "manifest.json")
        process_config(recipe, manifest["disease"])  # K decisions must fill the horizon
        checks.append(Check("manifest", manifest["id"] == dataset, f"manifest of {manifest['id']}"))
        _check_recipe(dataset, manifest, checks)
        _check_files(folder, manifest, checks)
        metadata = read_metadata(folder)
        columns, seeds = read_columns(folder / DATA_FILE, metadata, progress)
    except MedGymError as error:
        checks.append(Check("readable", False, str(error)))
        return
    checks.append(Check("readable", True, f"{len(seeds)} episodes, {len(columns['rewards'])} steps"))
    _check_metadata(dataset, metadata, manifest, columns, len(seeds), checks)
    transitions = transitions_of(columns, metadata)
    transitions = dataclasses.replace(transitions, timing=recipe.timing, decisions=recipe.decisions)
    _check_content(folder, transitions, manifest, checks)
    _check_release(transitions, manifest, checks)
    try:
        from medgym_offline.simulators import load_simulators

        bank = load_simulators(recipe.bank).world(recipe.world)
    except MedGymError as error:
        checks.append(Check("bank", False, str(error)))
        return
    same = bank.content_hash == manifest["bank"]["content_hash"]
    same &= bool(recipe.records) or bank.patients == transitions.patients
    checks.append(Check("bank", same, f"bank {bank.name} is the one the dataset was made with"))
    checks.extend(check_rows(transitions, bank, recipe.reward, simulated=not recipe.records))
    if recipe.records:
        return
    # Replay needs rows that can be read as episodes, and the same simulators.
    if replay and same and all(c.ok for c in checks if c.name in ("schema", "order", "time", "action box")):
        check_replay(transitions, seeds, bank, recipe, manifest, replay, checks)


def _check_recipe(dataset: str, manifest: dict[str, Any], checks: list[Check]) -> None:
    """The identity is that of what the manifest says made it, and the release's where this release has the dataset."""
    stated = identity_of(manifest) == manifest["identity"]
    checks.append(
        Check(
            "identity",
            stated,
            f"{manifest['identity'][:16]}, of recipe, bank, behavior and generator {manifest['generator']}"
            if stated
            else "the manifest's identity is not that of the recipe, bank and behavior it names",
        )
    )
    if known_recipe(dataset) is None:
        return
    different = not_the_releases(manifest, dataset)
    again = f"not made as the release's: {'; '.join(different[:3])}; make it again: medgym-offline generate {dataset}"
    checks.append(Check("recipe", not different, again if different else "made as this release makes it"))


def _check_release(rows: Transitions, manifest: dict[str, Any], checks: list[Check]) -> None:
    """The rows are those of the release's manifest (not of the one beside the copy): it says how nearly."""
    release = release_manifest(rows.dataset_id)
    if release is None or not len(rows):
        return
    try:
        found = compare_rows(rows, release)
    except MedGymError as error:
        checks.append(Check("release", False, str(error)))
        return
    if found.faults:
        text = f"different: {'; '.join(found.faults)}"
    elif manifest["content_hash"] == release["content_hash"]:
        text = "identical to the release's rows"
    else:
        text = f"equal to the release's rows within rounding (largest difference {found.largest:.1e})"
    checks.append(Check("release", not found.faults, text))


def _check_files(folder: Path, manifest: dict[str, Any], checks: list[Check]) -> None:
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            checks.append(Check(f"sha256 {path.name}", False, "there is no such file"))
            continue
        size, digest = path.stat().st_size, sha256_file(path)
        detail = digest[:16] if digest == wanted["sha256"] else f"{digest[:16]}, expected {wanted['sha256'][:16]}"
        if size != wanted["bytes"]:
            detail += f"; {size} bytes, expected {wanted['bytes']}"
        checks.append(Check(f"sha256 {path.name}", digest == wanted["sha256"], detail))


def _check_metadata(
    dataset: str,
    metadata: dict[str, Any],
    manifest: dict[str, Any],
    columns: dict[str, np.ndarray],
    episodes: int,
    checks: list[Check],
) -> None:
    """Minari's metadata agree with the rows and the manifest."""
    import json

    from minari.serialization import deserialize_space

    steps = len(columns["rewards"])
    wrong = [name for name, value in (("total_episodes", episodes), ("total_steps", steps)) if metadata[name] != value]
    if metadata.get("dataset_id") != dataset:
        wrong.append("dataset_id")
    same = {name: manifest["recipe"][name] for name in ("timing", "decisions")}
    same |= {name: manifest[name] for name in ("identity", "content_hash")}
    wrong += [f"medgym.{name}" for name, value in same.items() if metadata["medgym"][name] != value]
    try:
        wrong += [name for name in ("env_spec", "eval_env_spec") if json.loads(metadata[name]) != manifest[name]]
        for name, column in (("observation_space", "observations"), ("action_space", "actions")):
            space: Any = deserialize_space(metadata[name])
            rows = columns[column]
            inside = (rows >= space.low - TOLERANCE) & (rows <= space.high + TOLERANCE)
            if space.shape != rows.shape[1:] or not inside.all():
                wrong.append(f"{column} outside {name}")
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        wrong.append(f"spaces and specs ({type(error).__name__}: {error})")
    detail = f"wrong: {', '.join(wrong)}" if wrong else "counts, id, spaces and environment specs agree"
    checks.append(Check("metadata", not wrong, detail))


def _check_content(folder: Path, transitions: Transitions, manifest: dict[str, Any], checks: list[Check]) -> None:
    """The rows have the manifest's content hash, and so has the flat cache where there is one."""
    meaning = {
        "patients": list(transitions.patients),
        "timing": transitions.timing,
        "decisions": transitions.decisions,
    }
    digest = ContentHash()
    digest.update({name: getattr(transitions, name) for name in COLUMNS})
    found = digest.hexdigest(**meaning)
    wanted = manifest["content_hash"]
    checks.append(Check("content hash", found == wanted, f"{found[:16]}, manifest {wanted[:16]}"))
    wrong = facts_differ(facts(transitions), manifest) if len(transitions) else "steps"
    detail = f"the manifest's {wrong} is not that of the rows" if wrong else "counts, returns and columns as stated"
    checks.append(Check("statistics", wrong is None, detail))
    flat = folder / flat_name(wanted)
    if flat.is_dir():
        try:
            columns = read_flat(flat)
        except DatasetError as error:
            checks.append(Check("flat cache", False, str(error)))
            return
        different = [
            name for name in COLUMNS if not np.array_equal(columns[name], getattr(transitions, name), equal_nan=True)
        ]
        detail = f"{', '.join(different)} differ from the HDF5 file; delete {flat}" if different else "same rows"
        checks.append(Check("flat cache", not different, detail))
