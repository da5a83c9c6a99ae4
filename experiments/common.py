"""What the experiments share: recipes, resumable units of work, tidy scores, intervals, Markdown.

Scores are one tidy table: data, method, scope, timing, decisions, seed, patient, world, metric, value. A number of no
single patient has the patient "all"; facts about a training have the world "training"; `sofa@12` is a course at hour
12 and `support_distance@q95` a quantile over decisions.

Intervals are those of `medgym_offline.evaluation.statistics`: 95 % bootstrap over patients and, within each drawn
patient, over training seeds; comparisons are paired over patients.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from joblib import Parallel, delayed
from pydantic import BaseModel, ConfigDict, ValidationError

from medgym_offline import Evaluation, MedGymError
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals, paired_difference
from medgym_offline.files import atomic_path, read_toml, write_text

HERE = Path(__file__).parent
BETTER = {
    "severity_mean": -1, "severity_end": -1, "safe_hourly": 1, "safe_path": 1, "lactate_mean": -1, "cost_mean": -1,
    "return": 1, "support_distance": -1, "support_outside": -1, "decisions_used": 0, "first_interval": 0,
    "last_interval": 0, **dict.fromkeys(("dt_q05", "dt_q25", "dt_q50", "dt_q75", "dt_q95"), 0),
}  # fmt: skip
"""Metrics that are kept, with the direction that is better."""
CURVES = {"severity": "sofa", "monitored": "lactate"}
"""A curve of an evaluation -> its name in the results of the studies, all of which are of sepsis."""
SCHEMA = {
    "data": pl.String, "method": pl.String, "scope": pl.String, "timing": pl.String, "decisions": pl.Int16,
    "seed": pl.Int16, "patient": pl.String, "world": pl.String, "metric": pl.String, "value": pl.Float64,
}  # fmt: skip
Estimate = tuple[float, ...]
"""A number, and its interval if it has one."""
R = TypeVar("R", bound="Recipe")


# -- recipes and command lines -----------------------------------------------------------------------------------------


class Form(BaseModel):
    """Settings of a recipe: known entries alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Form):
    """A recipe, from TOML. `extends` names another recipe that gives the entries left out."""

    name: str

    @classmethod
    def load(cls: type[R], name_or_path: str | Path) -> R:
        """A recipe of this folder by name, or any by path.

        Raises:
            MedGymError: If the file is missing, is no TOML, or holds an unknown or wrong entry (named).
        """
        path = HERE / f"{name_or_path}.toml" if Path(name_or_path).suffix != ".toml" else Path(name_or_path)
        values = read_toml(path, MedGymError)
        if "extends" in values:
            values = read_toml(path.parent / f"{values.pop('extends')}.toml", MedGymError) | values
        try:
            return cls(**{"name": path.stem, **values})
        except ValidationError as error:
            first = error.errors()[0]
            raise MedGymError(f"{path}: {'.'.join(map(str, first['loc'])) or 'recipe'}: {first['msg']}") from None


def main(
    description: str | None, kind: type[R], run: Callable[..., pl.DataFrame], markdown: Callable[[R, Scores], str],
    **files: str,
) -> None:  # fmt: skip
    """The command line of an experiment: run what a recipe asks for, write NAME.parquet and NAME.md.

    Args:
        description: Help.
        kind: Of the recipe.
        run: (recipe, folder of the finished units, workers, **files) -> tidy table.
        markdown: (recipe, scores) -> text.
        files: Name of a file that `run` reads -> help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", help="name of a recipe in experiments/, or a .toml file")
    parser.add_argument("--output", type=Path, help="folder for NAME.parquet, NAME.md and work/ (default: runs/NAME)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--tables", action="store_true", help="only write NAME.md again, from NAME.parquet")
    for name, words in files.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(f"runs/{name}.parquet"), help=words)
    options = parser.parse_args()
    try:
        recipe = kind.load(options.recipe)
        path = (options.output or Path("runs") / recipe.name) / f"{recipe.name}.parquet"
        if not options.tables:
            found = run(recipe, path.parent / "work", options.workers, *(getattr(options, name) for name in files))
            write(path, found.with_columns(pl.col("value").round(6)).unique(maintain_order=True))
        write_text(path.with_suffix(".md"), markdown(recipe, Scores(read_scores(path))))
    except MedGymError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {path} and {path.with_suffix('.md')}", file=sys.stderr)


def parts_main(
    description: str | None, recipe: Any, run: Callable[[Any, str, int], Path], tables: Callable[[Any], str], page: Path
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
    commands.add_parser("tables", help=f"write {page.name}").set_defaults(parts=[])
    options = parser.parse_args()
    for name in options.parts:
        print(f"wrote {run(recipe, name, options.workers)}", file=sys.stderr)
    if options.command == "tables":
        write_text(page, tables(recipe))


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


def write(path: Path, table: pl.DataFrame) -> Path:
    """Write a table of results whole, or not at all."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, compression_level=19)
    return path


def units(calls: Mapping[str, tuple[Any, ...]], folder: Path, workers: int = 1) -> pl.DataFrame:
    """The tables of every call, below each other; each is kept in `folder` as it finishes.

    Args:
        calls: Name of a unit -> a function that workers can import, and its arguments. The name must hold a digest of
            what decides the result: a unit whose file is there is read, not run.
        folder: Of the files.
        workers: Processes at a time.
    """

    def one(path: Path, function: Callable[..., pl.DataFrame], *values: Any) -> None:
        write(path, function(*values))

    paths = {name: folder / f"{name}.parquet" for name in calls}
    missing = [name for name, path in paths.items() if not path.exists()]
    print(f"{len(calls) - len(missing)} of {len(calls)} units are there", file=sys.stderr)
    Parallel(n_jobs=workers, verbose=5)(delayed(one)(paths[name], *calls[name]) for name in missing)
    return pl.concat([pl.read_parquet(path) for path in paths.values()])


# -- tidy scores -------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One policy of a table, trained at one or more seeds."""

    method: str
    scope: str
    timing: str
    decisions: int


def tidy_rows(data: str, row: Row, seed: int, world: str, values: Mapping[tuple[str, str], float]) -> pl.DataFrame:
    """(Patient, metric) -> value, as tidy rows."""
    rows = [(data, *row, seed, patient, world, metric, float(value)) for (patient, metric), value in values.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def facts(data: str, row: Row, seed: int, values: Mapping[str, float | None], world: str = "training") -> pl.DataFrame:
    """Numbers that belong to no single patient as tidy rows; None is left out."""
    return tidy_rows(data, row, seed, world, {("all", name): v for name, v in values.items() if v is not None})


def tidy(evaluation: Evaluation, data: str, row: Row, seed: int) -> pl.DataFrame:
    """An evaluation as tidy rows: every metric of :data:`BETTER` per patient, mean courses, support quantiles."""
    parts = []
    for world, found in evaluation.worlds.items():
        columns = found.per_patient
        values = {(p, m): v for m in BETTER if m in columns for p, v in zip(columns["patient"], columns[m])}
        parts.append(tidy_rows(data, row, seed, world, values))
        for who, policy, run in (("policy", row, seed), ("behavior", row._replace(method="data", scope="data"), 0)):
            if who in found.support:
                quantiles = enumerate(found.support[who]["quantiles"])
                parts.append(facts(data, policy, run, {f"support_distance@q{q}": v for q, v in quantiles}, world))
        for curve in (curve for curve in CURVES if curve in found.curves):
            mean = enumerate(found.curves[curve]["mean"][:97:4])
            parts.append(facts(data, row, seed, {f"{CURVES[curve]}@{4 * i}": v for i, v in mean}, world))
    return pl.concat(parts)


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


class Scores:
    """Estimates and comparisons of a tidy table, and columns of tables that show them.

    Args:
        frame: Of :func:`tidy`.
        resamples: Of the bootstrap.
    """

    def __init__(self, frame: pl.DataFrame, resamples: int = 4_000):
        self.frame, self.bootstrap = frame, Bootstrap(resamples=resamples)
        keys = [*Row._fields, "world", "metric", "patient"]
        self._of: dict[tuple[Row, str, str], dict[str, list[float]]] = {}
        self._gains: dict[tuple[Row, Row, str, str], dict[str, Estimate]] = {}
        for *row, world, metric, patient, values in frame.group_by(keys, maintain_order=True).agg("value").iter_rows():
            self._of.setdefault((Row(*row), world, metric), {})[patient] = values
        scored = [(row, world) for row, world, metric in self._of if metric in BETTER]
        self.rows = list(dict.fromkeys(row for row, _ in scored))
        """Policies, in the order of the table."""
        found = list(dict.fromkeys(world for _, world in scored))
        head = next((world for world in ("true", "crossfit") if world in found), found[0] if found else "")
        self.worlds = sorted(found, key=lambda world: world != head)
        """The one that decides first: "true", else "crossfit", else the first."""

    def patients(self, row: Row) -> int:
        """On how many a policy was scored."""
        return len(self._of.get((row, self.worlds[0], "severity_mean"), {}))

    def fact(self, row: Row, metric: str, world: str = "training") -> float | None:
        """A number of no single patient, or None."""
        found = self._of.get((row, world, metric), {}).get("all")
        return None if found is None else float(np.mean(found))

    def course(self, row: Row, world: str, name: str) -> tuple[list[float], list[float]]:
        """Positions and values of `name@position`, in order of position."""
        places = (metric.split("@")[1] for one, where, metric in self._of if (one, where) == (row, world)
                  and metric.startswith(f"{name}@"))  # fmt: skip
        ordered = sorted(places, key=lambda place: float(place.removeprefix("q")))
        values = [self.fact(row, f"{name}@{place}", world) or 0.0 for place in ordered]
        return [float(place.removeprefix("q")) for place in ordered], values

    def mean(self, row: Row, world: str, metric: str) -> Estimate | None:
        """Mean over patients; None where it was not measured."""
        found = self._of.get((row, world, metric))
        if found is None:
            return None
        values = np.array(list(found.values())).T
        interval = mean_intervals(values[None], self.bootstrap)[0] if len(found) > 1 else ()
        return float(values.mean()), *interval

    def gain(self, method: Row, reference: Row, world: str, metric: str = "severity_mean") -> dict[str, Estimate]:
        """`method` against `reference` over the patients that both have; empty if one was not scored.

        A record that kept no seeds may keep `gain METRIC over REFERENCE@low` and `@high`, the interval of the time.

        Returns:
            `percent`: gain in per cent of the reference's mean, positive if the method is better; `wins`: per cent of
            patients in whom it is, ties count one half; `difference`: mean of method minus reference.
        """
        a, b = self._of.get((method, world, metric)), self._of.get((reference, world, metric))
        if not a or not b or method == reference:
            return {}
        key = method, reference, world, metric
        if key not in self._gains:
            x, y = (np.array([one[p] for p in a if p in b]).T for one in (a, b))
            found = paired_difference(x, y, BETTER[metric], self.bootstrap)
            kept = [self.fact(method, f"gain {metric} over {reference.method}@{end}", world) for end in ("low", "high")]
            percent = [end for end in kept if end is not None] or found.percent_interval
            self._gains[key] = {
                "percent": (found.percent, *percent),
                "wins": (100 * found.share, *(100 * end for end in found.share_interval)),
                "difference": (found.difference, *found.difference_interval),
            }
        return self._gains[key]

    def facts(self, metric: str, form: str = ".2f", world: str = "training") -> Callable[[Row], str]:
        """Column of numbers of no single patient; "-" where it was not recorded."""
        return lambda row: "-" if (found := self.fact(row, metric, world)) is None else format(found, form)

    def means(self, world: str, metric: str, show: Callable[..., str] | None = None) -> Callable[[Row], str]:
        """Column of the means of a metric."""
        return lambda row: (show or shown)(self.mean(row, world, metric))

    def gains(self, world: str, what: str, **other: str) -> Callable[[Row], str]:
        """Column of the gains in severity over the policy that differs in `other`."""
        return lambda row: shown_cut(self.gain(row, row._replace(**other), world).get(what))


def median_gain(better: np.ndarray, worse: np.ndarray) -> str:
    """Gain of harm over patients (P,): median (quartiles), and in how many there is any."""
    gain = 100.0 * (worse - better) / worse
    low, middle, high = np.quantile(gain, (0.25, 0.5, 0.75))
    return f"{middle:.1f} % ({low:.0f}..{high:.0f}), {(gain > 0).sum()} of {len(gain)}"


# -- Markdown ----------------------------------------------------------------------------------------------------------


def label(row: Row) -> str:
    """A policy's name in tables: algorithm, timing (A adaptive, F fixed), scope.

    >>> label(Row("trpo-lag", "pop", "fixed", 20)), label(Row("random", "baseline", "adaptive", 20))
    ('TRPO-Lag-F-Pop', 'random-A')
    """
    words = {name: name.upper() for name in ("sac", "ppo", "trpo", "bc", "dqn", "cql", "gcql")}
    words |= {"lag": "Lag", "dr": "dr"}
    scope = [] if row.scope in ("baseline", "data") else [words.get(row.scope, row.scope.capitalize())]
    return "-".join([*(words.get(part, part) for part in row.method.split("-")), row.timing[0].upper(), *scope])


def cut(value: float, digits: int = 1) -> str:
    """`value` with `digits` decimals, cut downwards: percentages that speak for a method are never rounded up.

    >>> cut(49.97), cut(-0.01), cut(float("nan"))
    ('49.9', '-0.1', '-')
    """
    if math.isnan(value):
        return "-"
    # Values such as 33.3 * 3 carry an error in their last bits: they must not fall by a whole digit.
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits + 0.0:.{digits}f}"


def shown(
    found: Estimate | float | None, digits: int = 2, show: Callable[[float, int], str] = "{0:.{1}f}".format
) -> str:
    """A number, with its interval if it has one, rounded (or by `show`); "-" for None."""
    if found is None:
        return "-"
    text, *ends = (show(value, digits) for value in (found if isinstance(found, tuple) else (found,)))
    return f"{text} ({' to '.join(ends)})" if ends else text


def shown_cut(found: Estimate | float | None, digits: int = 1) -> str:
    """As :func:`shown`, cut."""
    return shown(found, digits, cut)


def table(caption: str, rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    """A captioned table with a line per policy: its name, and what each column says of it, if it does of any."""
    cells = {head: [column(row) for row in rows] for head, column in columns.items()}
    cells = {head: column for head, column in cells.items() if set(column) != {"-"}}
    return markdown_table(caption, ["Policy", *cells], zip(map(label, rows), *cells.values()))


def compared(scores: Scores, world: str, pairs: Iterable[tuple[Row, Row]], metrics: Sequence[str]) -> str:
    """A line per policy and the one it is compared with, where both were scored: severity, and `metrics`."""
    body = []
    for row, other in pairs:
        if severity := scores.gain(row, other, world):
            cells = [f"{label(row)} over {label(other)}", shown(severity["percent"]), shown_cut(severity["wins"])]
            for metric in metrics:
                what = "difference" if metric == "safe_hourly" else "percent"
                cells.append(shown(scores.gain(row, other, world, metric).get(what)))
            body.append(cells)
    names = {"safe_hourly": "Safe %, points", "support_distance": "distance, %", "return": "return, %"}
    heads = ["Gain", "SOFA (all), %", "better in, %", *(names[metric] for metric in metrics)]
    return markdown_table(f"Compared, {world} world", heads, body)


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
