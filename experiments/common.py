"""What the experiments share: recipes, resumable units of work, tidy scores, intervals, Markdown.

Scores are one tidy table: data, method, scope, timing, decisions, seed, patient, world, metric, value. A number of no
single patient has the patient "all"; facts about a training have the world "training"; `sofa@12` is a course at hour
12 and `support_distance@q95` a quantile over decisions.

Intervals are percentile bootstrap intervals (`scipy.stats.bootstrap`) over patients and, within each drawn patient,
over training seeds; comparisons are paired over patients, with `scipy.stats.wilcoxon`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import scipy.stats
from joblib import Parallel, delayed
from pydantic import BaseModel, ConfigDict, ValidationError

from medgym_offline import Evaluation, MedGymError
from medgym_offline.files import atomic_path, read_toml, write_text

__all__ = [
    "BETTER", "HERE", "NAMES", "Claim", "Estimate", "Gain", "Recipe", "Row", "Scores", "SCHEMA", "claims_table", "cut",
    "digest", "estimate", "facts", "main", "markdown_table", "parts_main", "plain_table", "read_scores", "shown",
    "shown_cut", "spread", "tidy", "tidy_rows", "units",
]  # fmt: skip

HERE = Path(__file__).parent
RESAMPLES = 10_000
CONFIDENCE = 0.95
MINIMUM = 6
"""Patients for a verdict: with five, all of them better, the two-sided sign test has p = 2 / 2**5 > 0.05."""

BETTER = {
    "severity_mean": -1, "severity_end": -1, "safe_hourly": 1, "safe_path": 1, "lactate_mean": -1, "cost_mean": -1,
    "return": 1, "support_distance": -1, "support_outside": -1, "error": -1, "decisions_used": 0, "first_interval": 0,
    "last_interval": 0, **dict.fromkeys(("dt_q05", "dt_q25", "dt_q50", "dt_q75", "dt_q95"), 0),
}  # fmt: skip
"""Metrics that are kept, with the direction that is better."""

NAMES = {"severity_mean": "SOFA (all)", "support_distance": "support distance", "return": "return"}
"""Metrics that claims compare, as tables call them."""

CURVES = {"severity": "sofa", "monitored": "lactate"}
"""A curve of an evaluation -> its name in the results of the studies, all of which are of sepsis."""

SCHEMA = {
    "data": pl.String, "method": pl.String, "scope": pl.String, "timing": pl.String, "decisions": pl.Int16,
    "seed": pl.Int16, "patient": pl.String, "world": pl.String, "metric": pl.String, "value": pl.Float64,
}  # fmt: skip
R = TypeVar("R", bound="Recipe")


# -- recipes -----------------------------------------------------------------------------------------------------------


class Recipe(BaseModel):
    """A recipe: TOML with known entries alone. `extends` names another recipe that gives the entries left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str

    @classmethod
    def load(cls: type[R], name_or_path: str | Path) -> R:
        """A recipe of this folder by name, or any by path.

        Raises:
            MedGymError: If the file is missing, is no TOML, or holds an unknown or wrong entry (named).
        """
        path = Path(name_or_path)
        path = path if path.suffix == ".toml" else HERE / f"{name_or_path}.toml"
        values = read_toml(path, MedGymError)
        if "extends" in values:
            values = read_toml(path.parent / f"{values.pop('extends')}.toml", MedGymError) | values
        try:
            return cls(**{"name": path.stem, **values})
        except ValidationError as error:
            first = error.errors()[0]
            raise MedGymError(f"{path}: {'.'.join(map(str, first['loc'])) or 'recipe'}: {first['msg']}") from None


def main(
    description: str, default: str, kind: type[R], run: Callable[..., pl.DataFrame],
    markdown: Callable[[R, pl.DataFrame], str], **files: str,
) -> None:  # fmt: skip
    """The command line of an experiment: run what a recipe asks for, write NAME.parquet and NAME.md.

    Args:
        description: Help.
        default: Recipe.
        kind: Of the recipe.
        run: (recipe, folder of the finished units, workers, **files) -> tidy table.
        markdown: (recipe, tidy table) -> text.
        files: Name of a file that `run` reads -> help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", nargs="?", default=default, help="name of a recipe in experiments/, or a .toml file")
    parser.add_argument("--output", type=Path, help="folder for NAME.parquet, NAME.md and work/ (default: runs/NAME)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--tables", action="store_true", help="only write NAME.md again, from NAME.parquet")
    for name, words in files.items():
        parser.add_argument(f"--{name}", type=Path, help=words)
    options = parser.parse_args()
    home = options.output or Path("runs") / Path(options.recipe).stem
    try:
        recipe = kind.load(options.recipe)
        path = home / f"{recipe.name}.parquet"
        if not options.tables:
            given = {name: getattr(options, name) for name in files}
            if missing := [name for name, value in given.items() if value is None]:
                parser.error(f"--{missing[0]} is needed: {files[missing[0]]}")
            found = run(recipe, home / "work", options.workers, **given).with_columns(pl.col("value").round(6))
            with atomic_path(path) as temporary:
                found.unique(maintain_order=True).write_parquet(temporary, compression_level=19)
        write_text(path.with_suffix(".md"), markdown(recipe, read_scores(path)))
    except MedGymError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {path} and {path.with_suffix('.md')}", file=sys.stderr)


def parts_main(
    description: str, recipe: Any, run: Callable[[Any, str, int], Path], tables: Callable[[Any], str], page: Path
) -> None:
    """The command line of a study in parts: `run PART...`, and `tables`, which writes `page` from those that are there.

    Args:
        description: Help.
        recipe: Has `part`, by name.
        run: (recipe, name of a part, workers) -> where its results are.
        tables: recipe -> Markdown.
        page: Where that goes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run parts")
    running.add_argument("parts", nargs="+", choices=list(recipe.part), metavar="PART", help=", ".join(recipe.part))
    running.add_argument("--workers", type=int, default=1, help="processes at a time")
    commands.add_parser("tables", help=f"write {page.name}")
    options = parser.parse_args()
    if options.command == "tables":
        write_text(page, tables(recipe))
        return
    for name in options.parts:
        print(f"wrote {run(recipe, name, options.workers)}", file=sys.stderr)


def spread(patients: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of `patients`, evenly spread, in order; 0: all.

    >>> spread("abcdef", 3)
    ('a', 'c', 'e')
    """
    if count > len(patients):
        raise MedGymError(f"the recipe asks for {count} patients, there are {len(patients)}")
    return tuple(patients[i * len(patients) // count] for i in range(count)) if count else tuple(patients)


# -- units of work -----------------------------------------------------------------------------------------------------


def digest(*values: Any) -> str:
    """Twelve hexadecimal digits of what decides a result (JSON values)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def units(calls: Mapping[str, tuple[Any, ...]], folder: Path, workers: int = 1) -> pl.DataFrame:
    """The tables of every call, below each other; each is kept in `folder` as it finishes.

    Args:
        calls: Name of a unit -> a function that workers can import, and its arguments. The name must hold a digest of
            what decides the result: a unit whose file is there is read, not run.
        folder: Of the files.
        workers: Processes at a time.
    """

    def one(name: str, function: Callable[..., pl.DataFrame], *values: Any) -> None:
        found = function(*values)
        with atomic_path(folder / f"{name}.parquet") as path:
            found.write_parquet(path)

    missing = [name for name in calls if not (folder / f"{name}.parquet").exists()]
    print(f"{len(calls) - len(missing)} of {len(calls)} units are there", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    Parallel(n_jobs=workers, verbose=5 if missing else 0)(delayed(one)(name, *calls[name]) for name in missing)
    return pl.concat([pl.read_parquet(folder / f"{name}.parquet") for name in calls])


# -- tidy scores -------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One policy of a table, trained at one or more seeds."""

    method: str
    scope: str
    timing: str
    decisions: int


def facts(data: str, row: Row, seed: int, values: Mapping[str, float | None], world: str = "training") -> pl.DataFrame:
    """Numbers that belong to no single patient as tidy rows; None is left out."""
    rows = [(data, *row, seed, "all", world, metric, value) for metric, value in values.items() if value is not None]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def tidy_rows(data: str, row: Row, seed: int, world: str, metric: str, values: Mapping[str, float]) -> pl.DataFrame:
    """One metric, patient -> value, as tidy rows."""
    rows = [(data, *row, seed, patient, world, metric, float(value)) for patient, value in values.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def tidy(evaluation: Evaluation, data: str, row: Row, seed: int) -> pl.DataFrame:
    """An evaluation as tidy rows: every metric of :data:`BETTER` per patient, mean courses, support quantiles."""
    parts = []
    for world, found in evaluation.worlds.items():
        columns = dict(found.per_patient)
        patients = [str(p) for p in columns["patient"]]
        for metric in (m for m in BETTER if m in columns):
            parts.append(tidy_rows(data, row, seed, world, metric, dict(zip(patients, columns[metric]))))
        courses = {CURVES[k]: v["mean"] for k, v in found.curves.items() if isinstance(v, Mapping)}
        single = {
            f"{name}@{h}": float(course[h])
            for name, course in courses.items()
            for h in range(0, 97, 4)
            if h < len(course)
        }
        if found.support:
            single |= _quantiles(found.support["policy"]["quantiles"])
            if "behavior" in found.support:
                own = _quantiles(found.support["behavior"]["quantiles"])
                parts.append(facts(data, Row("data", "data", row.timing, row.decisions), 0, own, world))
        parts.append(facts(data, row, seed, single, world))
    return pl.concat(parts)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {f"support_distance@q{percent}": float(value) for percent, value in enumerate(values)}


def read_scores(path: str | Path) -> pl.DataFrame:
    """The tidy table of a study.

    Raises:
        MedGymError: If the file is missing or none.
    """
    try:
        return pl.read_parquet(path).cast(SCHEMA)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MedGymError(f"{path}: cannot read scores ({error}); run the experiment first") from None


# -- statistics --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (NaN: none) over so many patients."""

    value: float
    low: float = math.nan
    high: float = math.nan
    patients: int = 1


@dataclass(frozen=True)
class Gain:
    """A method against a reference, paired over patients.

    Attributes:
        percent: Gain in per cent of the reference's mean; positive: the method is better.
        wins: Per cent of patients in whom the method is better; ties count one half.
        difference: Mean of method minus reference.
        p: Wilcoxon signed-rank test over patients, two-sided.
        ratio: Mean of the method over that of the reference.
    """

    percent: Estimate
    wins: Estimate
    difference: Estimate
    p: float
    ratio: float


def estimate(values: np.ndarray, statistic: Callable[..., Any] = np.mean, resamples: int = RESAMPLES) -> Estimate:
    """`statistic` of one number per patient, with its interval."""
    low, high = scipy.stats.bootstrap(
        (values,), statistic, n_resamples=resamples, method="percentile", confidence_level=CONFIDENCE,
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(float(statistic(values)), float(low), float(high), len(values))


@dataclass(frozen=True)
class Claim:
    """What must hold: a measure in every world against the value of no effect.

    The verdict is a comparison of the interval with `null`, nothing else: it *holds* if the whole interval lies on the
    wanted side, *does not hold* if it lies on the other, is *not shown* if it contains the value, and below
    :data:`MINIMUM` patients there is none.
    """

    text: str
    measure: str
    found: Mapping[str, Estimate]
    null: float = 0.0
    better: int = 1
    digits: int = 1

    def verdict(self, world: str) -> str:
        """Of one world."""
        one = self.found[world]
        if one.patients < MINIMUM:
            return "too few"
        ends = [self.better * (end - self.null) for end in (one.low, one.high)]
        return "holds" if min(ends) > 0 else "does not hold" if max(ends) < 0 else "not shown"


class Scores:
    """Estimates and comparisons of a tidy table.

    Args:
        frame: Of :func:`tidy`.
        resamples: Of the bootstrap.
    """

    def __init__(self, frame: pl.DataFrame, resamples: int = RESAMPLES):
        self.frame, self.resamples = frame, resamples
        keys = [*Row._fields, "world", "metric", "patient"]
        self._of: dict[tuple[Row, str, str], dict[str, list[float]]] = {}
        for *row, world, metric, patient, values in frame.group_by(keys, maintain_order=True).agg("value").iter_rows():
            self._of.setdefault((Row(*row), world, metric), {})[patient] = values

    @cached_property
    def rows(self) -> list[Row]:
        """Policies, in the order of the table."""
        return list(dict.fromkeys(row for row, _, metric in self._of if metric in BETTER))

    @cached_property
    def worlds(self) -> list[str]:
        """Worlds, the one that decides first: "true", else "crossfit", else the first."""
        found = dict.fromkeys(world for _, world, metric in self._of if metric in BETTER)
        head = next((w for w in ("true", "crossfit") if w in found), next(iter(found)))
        return sorted(found, key=lambda w: w != head)

    def patients(self, row: Row, metric: str = "severity_mean") -> list[str]:
        """Ids a policy was scored on."""
        return list(self._of.get((row, self.worlds[0], metric), {}))

    def fact(self, row: Row, metric: str, world: str = "training") -> float | None:
        """A number of no single patient, or None."""
        found = self._of.get((row, world, metric), {}).get("all")
        return None if found is None else float(np.mean(found))

    def course(self, row: Row, world: str, name: str) -> tuple[list[float], list[float]]:
        """Positions and values of `name@position`, in order of position."""
        found = []
        for (one, where, metric), values in self._of.items():
            variable, _, place = metric.partition("@")
            if (one, where, variable) == (row, world, name) and place and "all" in values:
                found.append((float(place.removeprefix("q")), float(np.mean(values["all"]))))
        found.sort()
        return [x for x, _ in found], [y for _, y in found]

    def mean(self, row: Row, world: str, metric: str, patients: Iterable[str] | None = None) -> Estimate | None:
        """Mean over patients; None where it was not measured."""
        found = self._of.get((row, world, metric))
        if found is None:
            return None
        chosen = list(found) if patients is None or "all" in found else [p for p in patients if p in found]
        return self._estimates(lambda x: x.mean(-1)[None], [np.array([found[p] for p in chosen])])[0]

    def gain(
        self, method: Row, reference: Row, world: str, metric: str = "severity_mean", among: Iterable[str] | None = None
    ) -> Gain | None:
        """`method` against `reference` over the patients that both have (and `among`); None if one was not scored.

        A record that kept no seeds may keep `gain METRIC over REFERENCE@low` and `@high`, the interval of the time.
        """
        a, b = self._of.get((method, world, metric)), self._of.get((reference, world, metric))
        if not a or not b:
            return None
        wanted = set(b) if among is None else set(among) & set(b)
        chosen = [p for p in a if p in wanted]
        x, y = (np.array([one[p] for p in chosen]) for one in (a, b))
        better = BETTER[metric]

        def compare(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            mine, base = x.mean(-1), y.mean(-1)
            wins = np.mean((better * (x - y) > 0) + 0.5 * (x == y), -1)
            return np.stack([100 * better * (mine - base) / np.abs(base), 100 * wins, mine - base])

        percent, wins, difference = self._estimates(compare, [x, y])
        kept = [self.fact(method, f"gain {metric} over {reference.method}@{end}", world) for end in ("low", "high")]
        if None not in kept:
            percent = Estimate(percent.value, *kept, percent.patients)
        gap = x.mean(1) - y.mean(1)
        p = float(scipy.stats.wilcoxon(gap).pvalue) if np.any(gap) else 1.0
        return Gain(percent, wins, difference, p, float(x.mean() / y.mean()))

    def claim(
        self, text: str, method: Row, reference: Row, most: bool = False, metric: str = "severity_mean",
        among: Iterable[str] | None = None,
    ) -> list[Claim]:  # fmt: skip
        """That `method` is better than `reference`, in the mean or in `most` patients; none if one was not scored."""
        gains = {w: g for w in self.worlds if (g := self.gain(method, reference, w, metric, among))}
        if not gains:
            return []
        if most:
            return [Claim(text, "patients in whom it is better, %", {w: g.wins for w, g in gains.items()}, 50.0)]
        return [Claim(text, f"gain in mean {NAMES[metric]}, %", {w: g.percent for w, g in gains.items()})]

    def _estimates(self, statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray]) -> list[Estimate]:
        """Values of `statistic` of patients' means (..., P), with intervals; `samples` are (P, seeds)."""
        count, rng = len(samples[0]), np.random.default_rng(0)
        values = statistic(*(s.mean(1) for s in samples))
        if count < 2:
            return [Estimate(float(v), patients=count) for v in values]

        def resampled(patients: np.ndarray, axis: int = -1) -> np.ndarray:
            drawn = []
            for scores in samples:
                seeds = scores.shape[1]
                if seeds == 1:
                    drawn.append(scores[patients, 0])
                else:
                    drawn.append(scores[patients, rng.integers(seeds, size=(seeds, *patients.shape))].mean(0))
            return statistic(*drawn)

        ends = scipy.stats.bootstrap(
            (np.arange(count),), resampled, vectorized=True, n_resamples=self.resamples, batch=2000,
            method="percentile", confidence_level=CONFIDENCE, random_state=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        return [Estimate(float(v), float(low), float(high), count) for v, low, high in zip(values, *ends)]


# -- Markdown ----------------------------------------------------------------------------------------------------------


def cut(value: float, digits: int = 1) -> str:
    """`value` with `digits` decimals, cut downwards: percentages that speak for a method are never rounded up.

    >>> cut(49.97), cut(-0.01), cut(float("nan"))
    ('49.9', '-0.1', '-')
    """
    if math.isnan(value):
        return "-"
    # Values such as 33.3 * 3 carry an error in their last bits: they must not fall by a whole digit.
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits + 0.0:.{digits}f}"


def shown(found: Estimate | float | None, digits: int = 2, show: Callable[[float, int], str] | None = None) -> str:
    """A number, with its interval if it has one, rounded (or by `show`); "-" for None."""
    if found is None:
        return "-"
    show = show or (lambda value, places: f"{value:.{places}f}")
    if isinstance(found, float | int):
        return show(found, digits)
    text = show(found.value, digits)
    return text if math.isnan(found.low) else f"{text} ({show(found.low, digits)} to {show(found.high, digits)})"


def shown_cut(found: Estimate | float | None, digits: int = 1) -> str:
    """As :func:`shown`, cut."""
    return shown(found, digits, cut)


def markdown_table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A captioned table; the first column left-aligned, the others right-aligned; empty without rows.

    >>> print(markdown_table("T", ["a", "b"], [["x", "1"]]))
    **T**
    <BLANKLINE>
    | a | b |
    |:-|-:|
    | x | 1 |
    """
    return f"**{caption}**\n\n" + plain_table(heads, rows, "|:-|" + "-:|" * (len(heads) - 1))


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "") -> str:
    """A table without a caption; `rule` is the line below its heads."""
    first, *lines = ("| " + " | ".join(cells) + " |" for cells in (heads, *rows))
    return "\n".join([first, rule or "|" + "-|" * len(heads), *lines])


def claims_table(claims: Sequence[Claim], worlds: Sequence[str]) -> str:
    """Claims with value, interval and verdict in every world; the verdict that counts is the first world's."""
    rows = []
    for claim in claims:
        show = cut if claim.digits == 1 else None
        cells = [f"{shown(claim.found[w], claim.digits, show)}, {claim.verdict(w)}" for w in worlds]
        rows.append([claim.text, claim.verdict(worlds[0]), *cells, claim.measure])
    return markdown_table("What must hold", ["Claim", "Verdict", *worlds, "Measure"], rows)
