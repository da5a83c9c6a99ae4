"""What timing and individual policies gain on the published truth: behaviors trained in the fitted simulators.

    python -m experiments.anesthesia.acceptance FOLDER[=PATIENTS]...

Each FOLDER is one that `behavior train` wrote for the first so many PATIENTS (110); K is that of its policies. Writes
`results.md` and `results.parquet` beside this file: harm per patient and operation-minute, events per operation. What
`results.parquet` has of a K and so many patients is not scored again; without a FOLDER only `results.md` is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

import medgym_offline as mgo
from experiments.common import median_gain, plain_table, write
from medgym_offline.diseases.anesthesia import DISEASE
from medgym_offline.files import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results.parquet"
COURSE = ("severity_mean", "bis_in_range", "low_pressure", "low_pressure_share", "awakening", "first_interval")
EVENTS = ("low_events", "low_unseen", "light_events", "light_unseen")
KINDS = ("decisions", "patients", "scope", "timing")
SCOPES = ("ind", "dr", "pop", "clinician")
TIMINGS = ("adaptive", "fixed")
WORLDS = ("own", "true")
EPISODES = 16
SCHEMA = {
    "decisions": pl.Int64, "patients": pl.Int64, "scope": pl.String, "timing": pl.String, "world": pl.String,
    "patient": pl.Int64, "metric": pl.String, "value": pl.Float64,
}  # fmt: skip


def scores(folder: Path, patients: int, known: pl.DataFrame) -> pl.DataFrame:
    """A row per policy of a folder, world, patient and metric, of the first so many patients; with individual policies
    those of the clinician. Empty if their K is `known`.

    Raises:
        SystemExit: If the folder has no policies, or some of several K.
    """
    paths = {(s, t): folder / f"anesthesia-v0-{s}-{t}.safetensors" for s in SCOPES for t in TIMINGS}
    policies = {key: str(path) for key, path in paths.items() if path.exists()}
    decisions = {mgo.load_policy(path).decisions or 0 for path in policies.values()}
    if len(decisions) != 1:
        raise SystemExit(f"{folder}: holds policies of K = {sorted(decisions)}; one K is needed")
    (budget,) = decisions
    if len(known.filter(decisions=budget, patients=patients)):
        return known.clear()
    if any(scope == "ind" for scope, _ in policies):
        policies |= {("clinician", timing): "clinician" for timing in TIMINGS}
    parts = []
    for (scope, timing), policy in policies.items():
        scored = mgo.evaluate(policy, timing, budget, patients, EPISODES, 0, "anesthesia-v0", WORLDS)
        for world in WORLDS:
            found = pl.DataFrame({metric: scored.worlds[world].per_patient[metric] for metric in COURSE + EVENTS})
            rows = found.cast(pl.Float64).with_row_index("patient").unpivot(index="patient", variable_name="metric")
            key = dict(zip(KINDS, (budget, patients, scope, timing)))
            parts.append(rows.with_columns(**{n: pl.lit(v) for n, v in key.items()}, world=pl.lit(world)))
    return pl.DataFrame(pl.concat(parts).select(*SCHEMA), schema=SCHEMA)


def _gain(part: pl.DataFrame, better: tuple[str, str], worse: tuple[str, str]) -> str:
    """Of one (scope, timing) over another on the truth; "" where one is missing."""
    harm = part.filter(world="true", metric="severity_mean").sort("patient")
    one, other = (harm.filter(scope=s, timing=t)["value"].to_numpy() for s, t in (better, worse))
    return median_gain(one, other) if len(one) and len(other) else ""


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def markdown(table: pl.DataFrame) -> str:
    """The tables."""
    head = ["K", "patients", "policy", "timing", "harm, own world", "truth", "ratio", "BIS 40..60", "MAP < 65"]
    head += ["awakening", "first", "mmHg x min below 65", "lows", "unseen", "light sleep", "unseen"]
    body = []
    for key, part in table.group_by(KINDS, maintain_order=True):
        mean = {(w, m): v for w, m, v in part.group_by("world", "metric").agg(pl.mean("value")).iter_rows()}
        own, (harm, inside, low, share, awake, first) = mean["own", COURSE[0]], (mean["true", m] for m in COURSE)
        lows, low_unseen, lights, light_unseen = (mean["true", m] for m in EVENTS)
        cells = [f"{own:.3f}", f"{harm:.3f}", f"{harm / own:.2f}", f"{inside:.0f} %", f"{share:.1f} %"]
        # The mean depth times the time is the integral: the cost along the path.
        cells += [f"{awake:.1f} min", f"{first:.1f} min", f"{low * DISEASE.process.horizon:.1f}"]
        cells += [f"{lows:.2f}", _share(low_unseen, lows), f"{lights:.2f}", _share(light_unseen, lights)]
        body.append([*map(str, key), *cells])
    studies = {f"K = {k}, {n}": part for (k, n), part in table.group_by(KINDS[:2], maintain_order=True)}
    pairs = [(f"{s}: adaptive over fixed", (s, "adaptive"), (s, "fixed")) for s in SCOPES]
    pairs += [(f"ind over {s}, {t}", ("ind", t), (s, t)) for s in SCOPES[1:] for t in TIMINGS]
    gains = [[label, *(_gain(part, *pair) for part in studies.values())] for label, *pair in pairs]
    blocks = [
        f"Trained on, and mean over, the first so many patients; {EPISODES} operations each. Per operation on the "
        "truth: cost along the path, and events; unseen ones hold no decision.",
        plain_table(head, body),
        "Gain of harm by K and patients: median (quartiles); better in so many.",
        plain_table(["on the truth", *studies], gains),
    ]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Evaluate what is new, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER[=PATIENTS]")
    table = pl.read_parquet(RESULTS) if RESULTS.exists() else pl.DataFrame(schema=SCHEMA)
    for folder, _, count in (f.partition("=") for f in parser.parse_args().folders):
        table = pl.concat([table, scores(Path(folder), int(count or 110), table)])
        table = table.sort(KINDS[:2], maintain_order=True)
        write(RESULTS, table)
    write_text(HERE / "results.md", markdown(table))


if __name__ == "__main__":
    main()
