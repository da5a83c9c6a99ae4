"""The recipe of an online study: who is treated, by whom, trained how long, scored how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medgym_offline.errors import MedGymError, ProtocolError, unknown_name
from medgym_offline.files import code_version, read_toml, release_folder
from medgym_offline.online.config import ALGORITHMS
from medgym_offline.online.recipe import SCOPES, BehaviorRecipe

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["BACKENDS", "SOURCES", "CheckedRecipe", "Sets", "StudyRecipe", "load_study_recipe", "read_recipe", "spread"]

BACKENDS = ("ode", "map")
SOURCES = ("shipped", "trained")
Recipe = TypeVar("Recipe")
_TIMINGS = ("adaptive", "fixed")


@dataclass(frozen=True)
class _Kind:
    type: type | tuple[type, ...]
    one: str
    plural: str = ""


_TYPES = {
    "int": _Kind(int, "a whole number", "whole numbers"),
    "float": _Kind((int, float), "a number", "numbers"),
    "str": _Kind(str, "a text", "texts"),
    "tuple": _Kind(tuple, "a list"),
    "Mapping": _Kind(dict, "a table"),
}


def _is(value: Any, wanted: type | tuple[type, ...]) -> bool:
    """Whether `value` has the wanted type; true and false are no numbers here, nor is NaN."""
    return isinstance(value, wanted) and not isinstance(value, bool) and value == value


@dataclass(frozen=True)
class CheckedRecipe:
    """Entries whose types are checked against their annotations, and a hash of all of them.

    Args:
        name: Of the study.
    """

    name: str

    def check_types(self) -> None:
        """Require every entry to have the type of its annotation; true and false are no numbers."""
        for entry in dataclasses.fields(self):
            self._check_type(entry.name, str(entry.type))

    def _check_type(self, name: str, annotation: str) -> None:
        value, wanted = getattr(self, name), _TYPES[annotation.partition("[")[0]]
        if annotation.startswith("tuple"):
            kind, items = _TYPES[annotation[6:].partition(",")[0]], value
            fits = isinstance(value, list | tuple) and all(_is(item, kind.type) for item in items)
            self.require(name, fits, f"a list of {kind.plural}")
        elif annotation.startswith("Mapping"):
            self._tables(name, value, annotation.count("Mapping"))
        else:
            self.require(name, _is(value, wanted.type), wanted.one)

    def _tables(self, name: str, value: Any, depth: int) -> None:
        """Require tables within tables, `depth` deep."""
        if not isinstance(value, Mapping):
            raise MedGymError(f"study {self.name!r}: {name} is {value!r}; it must be a table, [{name}] in TOML")
        if depth > 1:
            for key, item in value.items():
                self._tables(f"{name}.{key}", item, depth - 1)

    def require(self, name: str, holds: bool, wanted: str) -> None:
        """Refuse the entry `name` unless `holds`; `wanted` says what it must be."""
        if not holds:
            raise MedGymError(f"study {self.name!r}: {name} is {getattr(self, name)!r}; it must be {wanted}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able recipe."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def content_hash(self) -> str:
        """SHA-256 of the recipe."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def provenance(self, protocol_hash: str, first_seed: int, seeds: int) -> dict[str, Any]:
        """What every study's result says of how it was made; `seeds` training seeds from `first_seed` on."""
        return {
            "study": self.name,
            "recipe_hash": self.content_hash,
            "protocol_hash": protocol_hash,
            "training_seeds": list(range(first_seed, first_seed + seeds)),
            "code": code_version(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }


@dataclass(frozen=True)
class Sets:
    """Patient ids of a study: `release` are scored by the release behaviours and baselines, `table`, some of them,
    by every other policy too."""

    release: tuple[str, ...]
    table: tuple[str, ...]


@dataclass(frozen=True)
class StudyRecipe(CheckedRecipe):
    """An online study.

    Args:
        name: Of the study.
        bank: Name or path of a bank.
        patients: Patients of the study, evenly spread over the bank; 0: all.
        every: Every so many of them is in the table's subset, on which the 20 rows are trained and compared.
        algorithms, timings: Of the table: each with one policy per patient and one for all.
        individual: Scope of the table's individual policies: "ind-scratch" (the paper's) or "ind".
        decisions: K of the table and of the release behaviours.
        seed: Root of the training; seeds are `seed`, `seed` + 1, ...
        seeds: Trainings per row.
        behaviors: The release behaviours are "shipped" with the bank, or "trained" here.
        safe_limit: Cost per decision that Lagrangian algorithms keep to, in every row.
        episodes: Per patient, policy and world in evaluation; at least 50 for numbers to be cited.
        backend: Flow that scores: "ode" (solver) or "map" (solution map, whose errors policies exploit).
        shard: Patients trained together; part of the result.
        budget_decisions: K values of the budget study; empty for none.
        budget_algorithm, budget_scope: What is trained there, with equally many episodes at every K.
        case_percentiles: Severity percentiles, under the clinicians' doses, of the patients of the case studies.
        ceiling_steps, ceiling_refine: Gradient steps of the open-loop ceilings; 0 steps: none are searched.
        ceiling_patients: Patients of the release set whose ceilings are searched, evenly spread; 0: all.
        case_episodes: Episodes per patient of the case studies; at most `episodes`.
        settings: Scope -> settings of `TrainConfig`, for every algorithm.
        algorithm_settings: Algorithm -> scope -> settings that differ for it.

    Raises:
        MedGymError: If a value has the wrong type or is out of range, named; UnknownNameError for an unknown name.
    """

    bank: str = "sepsis-v0"
    patients: int = 0
    every: int = 1
    algorithms: tuple[str, ...] = ALGORITHMS
    timings: tuple[str, ...] = _TIMINGS
    individual: str = "ind-scratch"
    decisions: int = 20
    seed: int = 0
    seeds: int = 1
    behaviors: str = "shipped"
    safe_limit: float = 0.25
    episodes: int = 50
    backend: str = "ode"
    shard: int = 11
    budget_decisions: tuple[int, ...] = (5, 10, 15, 20)
    budget_algorithm: str = "trpo-lag"
    budget_scope: str = "ind"
    case_percentiles: tuple[float, ...] = (50.0, 90.0)
    ceiling_steps: int = 150
    ceiling_refine: int = 60
    ceiling_patients: int = 0
    case_episodes: int = 20
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    algorithm_settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("algorithms", "timings", "budget_decisions", "case_percentiles"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            self.require(name, len(set(getattr(self, name))) == len(getattr(self, name)), "a list without repetition")
        for name, least in (("every", 1), ("decisions", 1), ("seeds", 1), ("episodes", 1), ("shard", 1)):
            self.require(name, getattr(self, name) >= least, f"at least {least}")
        for name in ("patients", "seed", "ceiling_steps", "ceiling_refine", "ceiling_patients", "safe_limit"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        self.require("case_episodes", 1 <= self.case_episodes <= self.episodes, "1 to episodes")
        for name in ("algorithms", "timings"):
            self.require(name, bool(getattr(self, name)), "a list of at least one name")
        self.require("case_percentiles", all(0 <= p <= 100 for p in self.case_percentiles), "between 0 and 100")
        for kind, given, known in (
            ("algorithm", [*self.algorithms, self.budget_algorithm, *self.algorithm_settings], ALGORITHMS),
            ("timing", self.timings, _TIMINGS),
            ("individual scope", [self.individual, self.budget_scope], ("ind", "ind-scratch")),
            ("source of behaviors", [self.behaviors], SOURCES),
            ("backend", [self.backend], BACKENDS),
        ):
            for value in given:
                if value not in known:
                    raise unknown_name(f"{kind} of study {self.name!r}", value, known)
        for algorithm in {*self.algorithms, self.budget_algorithm}:
            training = self.training(algorithm)
            for scope in SCOPES:
                self._check_settings(training, scope, algorithm)
        for decisions in (self.decisions, *self.budget_decisions):
            self.training(self.budget_algorithm, decisions).process("fixed")

    def _check_settings(self, training: BehaviorRecipe, scope: str, algorithm: str) -> None:
        given, where = training.settings.get(scope, {}), f"study {self.name!r}, settings of {algorithm}, {scope}"
        try:
            config = training.config(scope)
        except TypeError as error:
            raise MedGymError(f"{where}: an entry has the wrong type ({error})") from None
        except MedGymError as error:
            raise type(error)(f"{where}: {error}") from None
        defaults = {f.name: f.default for f in dataclasses.fields(config)}
        for name, value in given.items():
            kind = _TYPES.get(type(defaults.get(name)).__name__)
            if kind is not None and not _is(value, kind.type):
                raise MedGymError(f"{where}: {name} is {value!r}; it must be {kind.one}")

    def training(self, algorithm: str, decisions: int | None = None, number: int = 0) -> BehaviorRecipe:
        """How `algorithm` is trained for K = `decisions`, at the `number`-th seed."""
        special = self.algorithm_settings.get(algorithm, {})
        for scope in special:
            if scope not in SCOPES:
                raise unknown_name(f"scope of study {self.name!r}, {algorithm}", scope, SCOPES)
        limit = {"cost_limit": self.safe_limit}
        settings = {s: {**limit, **self.settings.get(s, {}), **special.get(s, {})} for s in SCOPES}
        return BehaviorRecipe(
            seed=self.seed + number,
            decisions=decisions or self.decisions,
            algorithm=algorithm,
            shard=self.shard,
            settings=settings | {s: v for s, v in self.settings.items() if s not in SCOPES},
        )

    def sets(self, bank: SimulatorBank) -> Sets:
        """Who is in the study."""
        if self.patients > len(bank):
            raise ProtocolError(f"study {self.name!r}: patients is {self.patients}; bank {bank.name!r} has {len(bank)}")
        chosen = spread(bank.patients, self.patients)
        return Sets(chosen, chosen[:: self.every])


def spread(patients: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of `patients`, evenly spread, in order; 0, or more than there are: all."""
    total = len(patients)
    count = min(count or total, total)
    return tuple(patients[i * total // count] for i in range(count))


def load_study_recipe(name_or_path: str | Path) -> StudyRecipe:
    """A recipe of an online study; see :func:`read_recipe`."""
    return read_recipe(name_or_path, StudyRecipe, "study-online*")


def read_recipe(name_or_path: str | Path, kind: type[Recipe], pattern: str) -> Recipe:
    """A recipe by name (`study-online-quick`, a file of the release's `evaluation/` folder) or by path.

    `extends = "study-online"` takes every entry that the file leaves out from another recipe: by name, or by path from
    the file's folder. Tables such as `settings` are replaced whole.

    Args:
        name_or_path: What to read.
        kind: A dataclass whose fields are the entries, `name` among them.
        pattern: Of the names that ship, for the message about one that does not.

    Raises:
        MedGymError: If the file is missing, is no TOML, or holds an unknown or ill-typed entry.
    """
    path = _recipe_file(name_or_path, pattern)
    values = read_toml(path, MedGymError)
    if "extends" in values:
        base = values.pop("extends")
        if not isinstance(base, str):
            raise MedGymError(f"{path}: extends is {base!r}; name another recipe, or its .toml file")
        base_path = _recipe_file(path.parent / base if base.endswith(".toml") else base, pattern, f"extends of {path}:")
        base_values = read_toml(base_path, MedGymError)
        if "extends" in base_values:
            raise MedGymError(f"{path}: extends {base!r}, which extends another recipe itself; name that one instead")
        values = base_values | values
    values = {"name": path.stem, **values}
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name(f"entry of {path.name}", name, known)
    try:
        return kind(**values)
    except TypeError as error:
        raise MedGymError(f"{path}: an entry has the wrong type ({error})") from None
    except MedGymError as error:
        raise type(error)(f"{path}: {error}") from None


def _recipe_file(name_or_path: str | Path, pattern: str, where: str = "") -> Path:
    """The file of a shipped recipe by its name, or `name_or_path` itself where it ends in .toml."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = release_folder("evaluation") / f"{name_or_path}.toml"
        if not path.exists():
            recipes = [p.stem for p in path.parent.glob(f"{pattern}.toml")]
            raise unknown_name(f"{where} study recipe".strip(), str(name_or_path), recipes)
    return path
