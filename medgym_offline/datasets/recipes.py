"""Recipes: one TOML file per dataset says everything that decides its content."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.errors import DatasetError, UnknownNameError, unknown_name
from medgym_offline.files import read_toml, release_folder

__all__ = [
    "LARGE_EPISODES",
    "Recipe",
    "UnknownDatasetError",
    "find_recipe",
    "known_recipe",
    "list_recipes",
    "read_recipe",
    "stream_of",
    "unknown_dataset",
]

LARGE_EPISODES = 1000
"""Episodes per patient of the `-large` form of a dataset, made on demand and never shipped."""

# Minari's own rule, with the namespace and the version required: an id without a version cannot be loaded by it.
_ID = re.compile(r"^[-_\w][-_\w/]*[-_\w]+/[-_\w]+?-v\d+$")
# Perturbations beyond the width of an action do nothing more; more episodes than these no machine holds.
_RANGES = {"decisions": (1, 192), "episodes": (1, 1_000_000), "perturbation": (0, 2), "seed": (0, 2**63 - 1)}
_LARGE = re.compile(r"-large(-v\d+)$")


class UnknownDatasetError(DatasetError, UnknownNameError):
    """No dataset has this id."""


@dataclass(frozen=True)
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
        reward: `integral`, `paper` or `authors`.
        episodes: Per patient.
        perturbation: Standard deviation of the noise on actions, in units of an action in [-1, 1]. The initial
            state's is the environment's own.
        seed: Root seed.
        world: World of the bank that the episodes run in: `own` (the fitted simulators), `crossfit`, or `true` (the
            known truth, which stands for the real patients).
    """

    id: str
    description: str
    bank: str
    behavior: str
    timing: str = "adaptive"
    decisions: int = 20
    reward: str = "integral"
    episodes: int = 100
    perturbation: float = 0.05
    seed: int = 0
    world: str = "own"

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise DatasetError(
                f"dataset id {self.id!r} is not of the form namespace/name-vN (for example medgym/sepsis-ind-v0)"
            )
        _one_of(self.id, "timing", self.timing, ("adaptive", "fixed"))
        _one_of(self.id, "reward", self.reward, ("integral", "paper", "authors"))
        _one_of(self.id, "world", self.world, ("own", "crossfit", "true"))
        if not all(self.policies):
            raise DatasetError(f"recipe {self.id}: behavior {self.behavior!r} has an empty name in its mix")
        for field, (least, most) in _RANGES.items():
            value = getattr(self, field)
            if not least <= value <= most:  # NaN too
                raise DatasetError(
                    f"recipe {self.id}: {field} = {value} must be at least {least} and at most {most}; correct it"
                )

    @property
    def name(self) -> str:
        """The id without its namespace: the stem of the recipe's and manifest's files."""
        return self.id.rsplit("/", 1)[1]

    @property
    def stream(self) -> str:
        """Purpose of the seeds of this recipe's episodes."""
        return stream_of(self.id)

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the behaviour policies, one or the parts of a mix, in turn."""
        return tuple(name.strip() for name in self.behavior.split(" + "))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_fields(fields: dict[str, Any], source: str) -> Recipe:
        """Recipe from parsed fields; `DatasetError` names `source` and the field that is wrong."""
        known = {f.name: f for f in dataclasses.fields(Recipe)}
        for name in fields:
            if name not in known:
                raise DatasetError(f"{source}: {unknown_name('recipe field', name, known)}")
        kinds: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float)}
        for name, field in known.items():
            if name not in fields:
                if field.default is dataclasses.MISSING:
                    raise DatasetError(f"{source}: recipe field {name!r} is missing")
                continue
            if isinstance(fields[name], bool) or not isinstance(fields[name], kinds[str(field.type)]):
                raise DatasetError(f"{source}: recipe field {name!r} is {fields[name]!r}, expected {field.type}")
        return Recipe(**fields)


def _one_of(dataset: str, field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DatasetError(f"recipe {dataset}: {unknown_name(field, value, known)}")


def stream_of(dataset: str) -> str:
    """Purpose of the seeds of a dataset id; the `-large` form continues the episodes of the dataset it enlarges."""
    return "dataset:" + _LARGE.sub(r"\1", dataset)


def unknown_dataset(name: str, known: list[str]) -> UnknownDatasetError:
    """Error for an id that names no dataset, with the nearest ones; it says so if the version is what is missing."""
    versions = [other for other in known if re.fullmatch(re.escape(name) + r"-v\d+", other)]
    if versions:
        return UnknownDatasetError(f"dataset {name!r} lacks its version; did you mean {versions[-1]!r}?")
    other_versions = [o for o in known if re.sub(r"-v\d+$", "", o) == re.sub(r"-v\d+$", "", name)]
    if other_versions:
        found = " or ".join(repr(other) for other in other_versions)
        return UnknownDatasetError(f"dataset {name!r} has no such version; did you mean {found}?")
    return UnknownDatasetError(f"{unknown_name('dataset', name, known)}; see: medgym-offline list")


def read_recipe(path: str | Path) -> Recipe:
    """Recipe from a TOML file; `DatasetError` if it is missing, no TOML, or has a wrong field."""
    path = Path(path)
    fields = read_toml(path, DatasetError)
    recipe = Recipe.from_fields(fields, str(path))
    bank = Path(recipe.bank)
    # Files named by a recipe lie relative to it; an absolute name stays itself when joined to a folder.
    behavior = " + ".join(str(path.parent / name) if Path(name).suffix else name for name in recipe.policies)
    recipe = dataclasses.replace(recipe, behavior=behavior)
    if bank.suffix == ".safetensors" and not bank.is_absolute():
        recipe = dataclasses.replace(recipe, bank=str(path.parent / bank))
    return recipe


def list_recipes() -> dict[str, Recipe]:
    """The recipes of this release by id, in alphabetical order."""
    recipes = (read_recipe(path) for path in sorted(release_folder("datasets").glob("*.toml")))
    return {recipe.id: recipe for recipe in recipes}


def known_recipe(dataset: str) -> Recipe | None:
    """The release's recipe of an id, or of the `-large` form of one; None if it has none."""
    recipes = list_recipes()
    if dataset in recipes or not _LARGE.search(dataset):
        return recipes.get(dataset)
    base = recipes.get(_LARGE.sub(r"\1", dataset))
    if base is None:
        return None
    text = f"{base.description} {LARGE_EPISODES} episodes per patient."
    return dataclasses.replace(base, id=dataset, episodes=LARGE_EPISODES, description=text)


def find_recipe(name: str | Path | Recipe) -> Recipe:
    """Recipe by dataset id, or from the path of a `.toml` file; `UnknownDatasetError` names the nearest id."""
    if isinstance(name, Recipe):
        return name
    if str(name).endswith(".toml"):
        return read_recipe(name)
    recipe = known_recipe(str(name))
    if recipe is None:
        raise unknown_dataset(str(name), list(list_recipes()))
    return recipe
