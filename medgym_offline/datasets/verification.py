"""Verification: is a dataset on this machine what its manifest says, and do its rows mean what they should?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from medgym_offline.compute import one_thread
from medgym_offline.config import from_values
from medgym_offline.datasets import trust
from medgym_offline.datasets.behaviors import SHARD_EPISODES, play_shard, process_config, recipe_behavior
from medgym_offline.datasets.catalogue import local_folder, read_manifest, read_metadata, release_manifest
from medgym_offline.datasets.generation import facts, facts_differ
from medgym_offline.datasets.load import REPLAY_TOLERANCE, read_rows
from medgym_offline.datasets.recipes import Recipe, known_recipe
from medgym_offline.datasets.transitions import COLUMNS, Transitions, content_hash, flat_name, read_flat
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.progress import Progress

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Check", "TOLERANCE", "VerificationReport", "check_rows", "verify"]

TOLERANCE = 1e-3
"""Largest difference allowed where a column is recomputed in float32, in the units of the columns."""


@dataclass(frozen=True)
class Check:
    """One check of a dataset.

    Attributes:
        name: Short name.
        ok: Whether it holds.
        detail: What was looked at, or the first fault and the number of them.
    """

    name: str
    ok: bool
    detail: str


def _rows(name: str, wrong: np.ndarray, transitions: Transitions, meaning: str) -> Check:
    """A check over rows: `wrong` (N,) bool."""
    if not wrong.any():
        return Check(name, True, meaning)
    row = int(np.flatnonzero(wrong)[0])
    where = f"first at row {row} (episode {int(transitions.episode[row])})"
    return Check(name, False, f"not so in {int(wrong.sum())} of {len(wrong)} rows, {where}: {meaning}")


def _far(one: np.ndarray, other: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Rows in which two arrays differ by more than the tolerance; NaN counts as different."""
    gap = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).reshape(len(one), -1)
    return np.asarray(~(gap <= tolerance).all(axis=1))


def check_rows(
    transitions: Transitions, bank: SimulatorBank, reward: str = "integral", simulated: bool = True
) -> list[Check]:
    """Check the meaning of every row.

    Chaining of observations, the clock (time, dt, remaining time and decisions, termination), the action box, dt as
    the action asks for it, and the monitored component, severity, cost and (for the kinds "paper" and "authors") reward
    recomputed from the observations and actions. The "integral" reward needs the path between decisions: replay checks
    it.

    Args:
        transitions: Rows in order.
        bank: The bank they were made with, for its units.
        reward: Kind of reward.
        simulated: Whether a simulator made the rows. Stays in records may end before the horizon, and what was charted
            need not be what is observed.
    """
    try:
        if not len(transitions.validate()):
            raise DatasetError("there are no rows")
    except DatasetError as error:
        return [Check("schema", False, str(error))]
    found = [*_clock(transitions, simulated)]
    if simulated:
        found += _medicine(transitions, bank, reward)
    elif reward == "death":
        paid = transitions.rewards != 0.0
        wrong = paid & ~(transitions.terminations & (transitions.rewards == -1.0))
        found.append(("reward", wrong, "reward is 0, and -1 where an episode ends in death"))
    schema = Check("schema", True, "shapes, types and finite values as documented")
    return [schema, *(_rows(name, wrong, transitions, meaning) for name, wrong, meaning in found)]


_Wrong: TypeAlias = "tuple[str, np.ndarray, str]"
"""Name of a check, rows in which it does not hold (N,) bool, and what holds in the others."""


def _clock(t: Transitions, simulated: bool) -> Iterator[_Wrong]:
    import torch

    from medgym_offline.envs.timing import ProcessConfig, action_to_interval, decision_interval

    horizon = t.definition.process.horizon
    time, remaining = t.observation_dim - 2, t.observation_dim - 1
    first = np.zeros(len(t), bool)
    first[t.episode_starts()] = True
    last = np.r_[first[1:], True]
    start = t.time.astype(np.float64) - t.dt
    step = np.arange(len(t)) - np.flatnonzero(first)[np.cumsum(first) - 1]

    inside = ~last[:-1]
    broken = _far(t.next_observations[:-1], t.observations[1:], 0.0) & inside
    yield "chain", np.r_[broken, False], "next_observations of a row are the observations of the next in the episode"
    jump = np.r_[False, (np.diff(t.episode) != 1) & first[1:]] | np.r_[False, (np.diff(t.patient) != 0) & inside]
    yield "order", jump, "episodes are numbered one after the other, each of one patient"
    sums = np.cumsum(t.dt, dtype=np.float64)
    before = np.where(first, sums - t.dt, 0.0)[np.maximum.accumulate(np.where(first, np.arange(len(t)), 0))]
    yield "time", _far(t.time, sums - before), "time is the running sum of dt within the episode"
    gone = _far(t.observations[:, time] * horizon, horizon - start)
    gone |= _far(t.next_observations[:, time] * horizon, horizon - t.time)
    yield "remaining time", gone, "observed remaining time is (horizon - time)/horizon before and after the decision"
    left = t.decisions - step
    wrong = _far(t.observations[:, remaining] * t.decisions, left)
    wrong |= _far(t.next_observations[:, remaining] * t.decisions, left - 1)
    yield "remaining decisions", wrong | (left < 1), "remaining decisions start at K and fall by one"
    at_end = np.abs(t.time - horizon) <= TOLERANCE if simulated else last & (t.time <= horizon + TOLERANCE)
    ended = (t.terminations != at_end) | (t.terminations != last)
    where = "at the horizon, there only, once" if simulated else "at the end, by the horizon, once"
    yield "termination", ended, f"terminated {where}"
    yield "truncation", t.truncations.copy(), "no episode is truncated"
    yield "action box", (np.abs(t.actions) > 1.0).any(axis=1), "actions lie in [-1, 1]"

    config = ProcessConfig(timing=t.timing, decisions=t.decisions, disease=t.disease)  # type: ignore[arg-type]
    wish = action_to_interval(torch.from_numpy(t.actions[:, -1].copy()), config) if t.timing == "adaptive" else None
    clock = torch.from_numpy(start.astype(np.float32))
    # A stay need not fill the horizon: what its decisions asked for is what they got.
    decided = decision_interval(clock, torch.from_numpy(np.maximum(left, 1).astype(np.float32)), config, wish)
    hours = decided if simulated or wish is None else wish
    limit = t.costs_peak.astype(np.float64) * t.dt[:, None] * (1 + TOLERANCE) + TOLERANCE
    odd = ((t.costs_path < 0) | (t.costs_path > limit)).any(axis=1)
    yield (
        "costs along the path",
        odd,
        "a cost's integral over the decision is between 0 and dt times its largest rate",
    )
    yield "dt", _far(t.dt, hours.numpy()), "dt is the feasible interval that the action asks for"


def _medicine(t: Transitions, bank: SimulatorBank, reward: str) -> Iterator[_Wrong]:
    disease = bank.disease
    if disease.features:
        return  # what is observed there is not the state; replay checks the rest
    observed = disease.observed_dim
    before = bank.denormalize(t.observations[:, :observed].astype(np.float64))
    after = bank.denormalize(t.next_observations[:, :observed].astype(np.float64))
    u = (t.actions[:, : len(disease.treatments)].astype(np.float64) + 1.0) / 2.0
    dose = bank.denormalize_treatment(u)
    name, unit = disease.cost.component, disease.components[disease.monitored].unit
    monitored = after[:, disease.monitored]
    yield name, _far(t.monitored, monitored), f"{name} is the next observation's, in {unit}"
    severity = disease.severity.score(after, dose)
    key = disease.severity.name
    yield key, _far(t.severity, severity), f"{key} is that of the next observation under the dose given"
    cost = disease.cost.at_end(before[:, disease.monitored], monitored)
    yield "cost", _far(t.costs, cost), f"cost is that of the {name} before and after"
    burden = disease.severity.burden(u)
    if reward == "paper":
        yield "reward", _far(t.rewards, -severity - burden), "reward is that of the paper's eq. 4"
    elif reward == "authors":
        import torch

        from medgym_offline.envs.reward import authors_reward

        numbers = (disease.severity.score(before, dose), severity, burden, t.dt.astype(np.float64))
        expected = authors_reward(*(torch.from_numpy(n) for n in numbers)).numpy()
        yield "reward", _far(t.rewards, expected, 5 * TOLERANCE), "reward is that of the authors' code"
    else:
        # Severity is never negative: the integral over dt cannot be below that of the burden alone.
        outside = t.rewards > -0.1 * t.dt * (burden if reward == "integral" else 0.0) + TOLERANCE
        yield "reward", outside, "reward is in the range of the integral over dt"


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
