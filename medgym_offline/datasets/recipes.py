"""Recipes: what decides the content of a dataset; those of the release are in `datasets/core.toml`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medgym_offline.config import configuration, from_values, plain_values, read
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import DatasetError, UnknownNameError, unknown_name
from medgym_offline.files import release_folder

__all__ = [
    "Recipe", "UnknownDatasetError", "find_recipe", "is_id", "known_recipe", "list_recipes", "read_recipe", "stream_of",
    "unknown_dataset",
]  # fmt: skip

# Minari's own rule, with the namespace and the version required: an id without a version cannot be loaded by it.
_ID = re.compile(r"^[-_\w][-_\w/]*[-_\w]+/[-_\w]+?-v\d+$")


class UnknownDatasetError(DatasetError, UnknownNameError):
    """No dataset has this id."""


@configuration("recipe", DatasetError)
class Recipe:
    """What decides the content of a dataset.

    Episode e of patient p starts from and is perturbed by (paper, eq. 15)

        x_0 <- clip(x_0 + 0.05 N),   a <- clip(behavior(o) + perturbation N)

    with every draw from the stream seeded by `episode_seeds(seed, "dataset:<id>", p, e)`.

    Attributes:
        id: `namespace/name-vN`.
        description: One sentence.
        bank: Name or path of the simulator bank; every episode runs in its patient's own simulator.
        behavior: Name of a shipped policy (`ind`, `dr`, `pop`, `ind-medium`, ...), a built-in (`random`, `zero`,
            `max`, `clinician`) or the path of a policy file. Several joined by ` + ` take turns: of n policies,
            policy e mod n plays episode e of every patient.
        timing: `adaptive` or `fixed`.
        decisions: K, the largest number of decisions in an episode.
        reward: `integral`, `state`, `paper` or `authors`; of records also `death`.
        episodes: Per patient.
        perturbation: Standard deviation of the noise on actions, in units of an action in [-1, 1]. The initial
            state's is the environment's own.
        seed: Root seed.
        world: World of the bank that the episodes run in: `own` (the fitted simulators), `crossfit`, or `true` (the
            known truth, which stands for the real patients).
        view: What the behavior sees. Rows are of the view `full` all the same: others are made of them when loaded. Of
            records: what is stored, for nobody knows more.
        records: Folders of clinical records, below the one that `$MEDGYM_CLINICAL_DATA` names: their stays are the
            episodes, their clinicians the behavior (`records`), and the bank gives the scales
            (:mod:`medgym_offline.datasets.charts`).
        license: Of the records.
    """

    id: str
    description: str
    bank: str
    behavior: str
    timing: Literal["adaptive", "fixed"] = "adaptive"
    decisions: Annotated[int, Field(ge=1, le=192)] = 20
    reward: Literal["integral", "state", "paper", "authors", "death"] = "integral"
    episodes: Annotated[int, Field(ge=1, le=1_000_000)] = 100  # more no machine holds
    perturbation: Annotated[float, Field(ge=0, le=2)] = 0.05  # beyond the width of an action it does nothing more
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    world: Literal["own", "crossfit", "true"] = "own"
    view: str = FULL
    records: tuple[str, ...] = ()
    license: str = ""

    def __post_init__(self) -> None:
        if not is_id(self.id):
            raise DatasetError(f"id {self.id!r} is not of the form namespace/name-vN (as medgym/<disease>-ind-v0)")
        if not all(self.policies):
            raise DatasetError(f"behavior {self.behavior!r} has an empty name in its mix")
        if bool(self.records) != (self.behavior == "records") or (self.reward == "death" and not self.records):
            raise DatasetError(f"{self.id}: `records`, behavior 'records' and reward 'death' go together")
        if self.records and (self.timing, self.reward in ("integral", "death")) != ("adaptive", True):
            raise DatasetError(f"{self.id}: records have adaptive timing, and reward 'death' or 'integral'")

    @property
    def stream(self) -> str:
        """Purpose of the seeds of this recipe's episodes."""
        return stream_of(self.id)

    @property
    def played_reward(self) -> Literal["integral", "state", "paper", "authors"]:
        """Reward of the simulators, in which nobody dies."""
        return "integral" if self.reward == "death" else self.reward

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the behavior policies, one or the parts of a mix, in turn."""
        return tuple(name.strip() for name in self.behavior.split(" + "))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; those about records only where there are any."""
        return {k: v for k, v in plain_values(self).items() if v or k not in ("records", "license")}


def is_id(name: str) -> bool:
    """Whether a text has the form of a dataset id, `namespace/name-vN`, and stays within the folder of datasets."""
    return _ID.fullmatch(name) is not None


def stream_of(dataset: str) -> str:
    """Purpose of the seeds of a dataset id."""
    return f"dataset:{dataset}"


def unknown_dataset(name: str, known: Iterable[str]) -> UnknownDatasetError:
    """Error for an id that names no dataset, with the nearest ones."""
    return UnknownDatasetError(f"{unknown_name('dataset', name, known)}; see: medgym-offline list")


def read_recipe(path: str | Path) -> Recipe:
    """Recipe from a TOML file; `DatasetError` if it is missing, no TOML, or has a wrong field."""
    recipe, home = read(Recipe, path), Path(path).parent
    # Files named by a recipe lie relative to it; an absolute name stays itself when joined to a folder.
    behavior = " + ".join(str(home / name) if Path(name).suffix else name for name in recipe.policies)
    bank = str(home / recipe.bank) if recipe.bank.endswith(".safetensors") else recipe.bank
    return dataclasses.replace(recipe, behavior=behavior, bank=bank)


@configuration("data", DatasetError)
class _Data:
    where: str
    fields: dict[str, Any]
    behaviors: tuple[str, ...] = ()
    change: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@configuration("core", DatasetError)
class _Core:
    behavior: dict[str, dict[str, Any]]
    data: dict[str, _Data]


def _core_recipes(path: Path) -> Iterator[Recipe]:
    """Every behavior on every disease's patients."""
    core = read(_Core, path)
    for name, data in core.data.items():
        for key in (*data.behaviors, *data.change):
            if key not in core.behavior:
                raise DatasetError(f"{path}: data.{name}: {unknown_name('behavior', key, core.behavior)}")
        for key in data.behaviors or core.behavior:
            fields = core.behavior[key] | data.fields | data.change.get(key, {})
            fields |= {"id": f"medgym/{name}-{key}-v0", "description": f"{fields.get('description')}, {data.where}."}
            yield from_values(Recipe, fields, f"{path}: data.{name}, behavior.{key}")


def list_recipes(records: bool = False) -> dict[str, Recipe]:
    """The recipes of this release by id, in alphabetical order: the core, and recipes in files of their own.

    Args:
        records: Also those of clinical records, whose rows no release holds.
    """
    found: list[Recipe] = []
    for path in release_folder("datasets").glob("*.toml"):
        found += _core_recipes(path) if path.name == "core.toml" else [read_recipe(path)]
    chosen = (recipe for recipe in found if records or not recipe.records)
    return {recipe.id: recipe for recipe in sorted(chosen, key=lambda recipe: recipe.id)}


def known_recipe(dataset: str) -> Recipe | None:
    """The release's recipe of an id; None if it has none."""
    return list_recipes(records=True).get(dataset)


def find_recipe(name: str | Path | Recipe) -> Recipe:
    """Recipe by dataset id, or from the path of a `.toml` file; `UnknownDatasetError` names the nearest id."""
    if isinstance(name, Recipe):
        return name
    if str(name).endswith(".toml"):
        return read_recipe(name)
    recipe = known_recipe(str(name))
    if recipe is None:
        raise unknown_dataset(str(name), list_recipes(records=True))
    return recipe
