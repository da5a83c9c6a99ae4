"""What timing and individual policies gain on the published truth: behaviors trained in the fitted simulators.

    python -m experiments.anesthesia.acceptance BEHAVIORS [EPISODES]

BEHAVIORS is the folder that `behavior train` wrote; K is that of its policies. Writes `results.md` and
`results.parquet` beside this file: harm per patient and operation-minute, of EPISODES operations (16).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

import medgym_offline as mgo
from medgym_offline.files import write_text

__all__ = ["compare", "main", "scores"]

HERE = Path(__file__).parent
METRICS = ("severity_mean", "bis_in_range", "low_pressure", "low_pressure_share", "awakening", "first_interval")
SCOPES = ("ind", "dr", "pop", "clinician")
WORLDS = ("own", "true")


def scores(folder: Path, episodes: int) -> pl.DataFrame:
    """A row per scope, timing, world, patient and metric, of the policies that `folder` holds, and the clinician."""
    rows = []
    for scope in SCOPES:
        for timing in ("adaptive", "fixed"):
            policy = scope if scope == "clinician" else str(folder / f"anesthesia-v0-{scope}-{timing}.safetensors")
            if scope != "clinician" and not Path(policy).exists():
                continue
            found = mgo.evaluate(
                policy, bank="anesthesia-v0", timing=timing, worlds=list(WORLDS), episodes=episodes, seed=0
            )
            for world in WORLDS:
                for metric in METRICS:
                    values = found.worlds[world].per_patient[metric]
                    rows += [(scope, timing, world, i, metric, float(v)) for i, v in enumerate(values)]
    schema = ["scope", "timing", "world", "patient", "metric", "value"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _harm(table: pl.DataFrame, scope: str, timing: str, world: str = "true") -> np.ndarray | None:
    chosen = table.filter(scope=scope, timing=timing, world=world, metric="severity_mean").sort("patient")
    return chosen["value"].to_numpy() if len(chosen) else None


def compare(better: np.ndarray | None, worse: np.ndarray | None) -> str:
    """Median gain in per cent, and the share of patients with any."""
    if better is None or worse is None:
        return "not trained"
    gain = 100.0 * (1.0 - better / worse)
    low, middle, high = np.percentile(gain, (25, 50, 75))
    return f"{middle:.0f} % ({low:.0f}..{high:.0f}); {100 * (gain > 0).mean():.0f} % of patients"


def markdown(table: pl.DataFrame, episodes: int) -> str:
    """The tables."""
    lines = [
        f"Mean over {table['patient'].n_unique()} patients x {episodes} operations; median gain (quartiles) of harm.",
        "",
        "| policy | timing | harm, own world | truth | BIS 40..60 | TWA-MAP < 65 | MAP < 65 | awakening | first |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (scope, timing), part in table.group_by("scope", "timing", maintain_order=True):
        mean = {(w, m): v for w, m, v in part.group_by("world", "metric").agg(pl.mean("value")).iter_rows()}
        true = [mean["true", m] for m in METRICS]
        lines.append(
            f"| {scope} | {timing} | {mean['own', 'severity_mean']:.3f} | {true[0]:.3f} | {true[1]:.0f} % "
            f"| {true[2]:.2f} mmHg | {true[3]:.1f} % | {true[4]:.1f} min | {true[5]:.1f} min |"
        )
    lines += ["", "| on the truth | gain |", "|---|---|"]
    for scope in SCOPES:
        gain = compare(_harm(table, scope, "adaptive"), _harm(table, scope, "fixed"))
        lines.append(f"| {scope}: adaptive over fixed | {gain} |")
    for other in SCOPES[1:]:
        for timing in ("adaptive", "fixed"):
            gain = compare(_harm(table, "ind", timing), _harm(table, other, timing))
            lines.append(f"| ind over {other}, {timing} | {gain} |")
    return "\n".join(lines) + "\n"


def main(folder: str, episodes: str = "16") -> None:
    """Evaluate, print and write."""
    table = scores(Path(folder), int(episodes))
    table.write_parquet(HERE / "results.parquet")
    write_text(HERE / "results.md", markdown(table, int(episodes)))
    print(markdown(table, int(episodes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
