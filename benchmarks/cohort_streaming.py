"""Does the full MIMIC-III fit through? A synthetic CHARTEVENTS of many millions of rows, read, timed and weighed.

    POLARS_MAX_THREADS=1 python benchmarks/cohort_streaming.py                  # 20 million rows, minutes
    POLARS_MAX_THREADS=1 python benchmarks/cohort_streaming.py --rows 1000000   # seconds

Writes raw MIMIC-III tables to a temporary folder (CHARTEVENTS compressed, lines as long as the real ones, the share of
rows worth keeping that the open demo has), builds the whole cohort table from a quarter of the rows and from all of
them, each in its own process, and projects time and peak memory to the 330 million rows of the real file by the line
through both. Writes `benchmarks/results/cohort_streaming.json`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "cohort_streaming.json"
FULL_ROWS = 330_712_483
ROWS_PER_STAY = FULL_ROWS // 61_532
PARTS = 4
BLOCK = 500_000
START = np.datetime64("2150-01-01T00:00:00", "ms")
STAY_HOURS = 90
#: Item -> share of the rows, of the 758,355 of the MIMIC-III demo: 4 % are worth keeping.
KEPT = {
    **{"220277": 0.0106, "646": 0.0096, "223835": 0.0016, "190": 0.0016, "226512": 0.0005},
    **{"220739": 0.0027, "223900": 0.0027, "223901": 0.0027, "184": 0.0026, "723": 0.0026, "454": 0.0026},
}
GCS = ("220739", "223900", "223901", "184", "723", "454")
RANGES = {"220277": (88, 101), "646": (88, 101), "223835": (30, 100), "190": (30, 100), "226512": (50, 120)}
HEADER = (
    "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,STORETIME,CGID,VALUE,VALUENUM,VALUEUOM,WARNING,ERROR,"
    "RESULTSTATUS,STOPPED\n"
)


def chart_block(first: int, rows: int, stays: int, rng: np.random.Generator) -> bytes:
    """`rows` lines of CHARTEVENTS."""
    import polars as pl

    names = list(KEPT)
    others = [str(220_000 + n) for n in range(1000, 1400)]
    shares = np.array([*KEPT.values(), *np.full(len(others), (1 - sum(KEPT.values())) / len(others))])
    item = rng.choice(len(shares), rows, p=shares / shares.sum())
    low = np.array([RANGES.get(n, (1, 5))[0] for n in names] + [40] * len(others))
    high = np.array([RANGES.get(n, (1, 5))[1] for n in names] + [160] * len(others))
    value = rng.integers(low[item], high[item])
    stay = rng.integers(0, stays, rows)
    quarter = rng.integers(0, STAY_HOURS * 4, rows)
    # The parts of the coma scale are charted together, every four hours.
    quarter = np.where(np.isin(item, [names.index(n) for n in GCS]), quarter // 16 * 16, quarter)
    when = START + (15 * quarter).astype("timedelta64[m]")
    frame = pl.DataFrame(
        {
            "row": np.arange(first, first + rows),
            "subject": stay + 10_000,
            "hadm": stay + 100_000,
            "stay": stay + 200_000,
            "item": np.array([*names, *others])[item],
            "charted": when,
            "stored": when + np.timedelta64(11, "m"),
            "cgid": rng.integers(10_000, 22_000, rows),
            "value": value,
            "number": value,
            "unit": np.full(rows, "insp/min"),
            "warning": np.zeros(rows, np.int8),
            "error": np.zeros(rows, np.int8),
            "status": np.full(rows, ""),
            "stopped": np.full(rows, ""),
        }
    )
    buffer = io.BytesIO()
    frame.write_csv(buffer, include_header=False, datetime_format="%Y-%m-%d %H:%M:%S", quote_style="never")
    return buffer.getvalue()


def write_chart(path: Path, rows: int, stays: int, seed: int) -> int:
    """One compressed file; returns its size before compression."""
    rng, size = np.random.default_rng(seed), 0
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(HEADER.encode())
        for first in range(0, rows, BLOCK):
            block = chart_block(first, min(BLOCK, rows - first), stays, rng)
            size += len(block)
            handle.write(block)
    return size


def write_tables(folder: Path, rows: int) -> None:
    """All tables of `rows` rows of CHARTEVENTS; print their sizes."""
    stays = max(rows // ROWS_PER_STAY, 1)
    write_small_tables(folder, stays)
    chart = folder / "CHARTEVENTS.csv.gz"
    size = write_chart(chart, rows, stays, seed=rows)
    print(json.dumps({"stays": stays, "csv_mb": size / 1e6, "gz_mb": chart.stat().st_size / 1e6}))


def write_small_tables(folder: Path, stays: int) -> None:
    """Everything but CHARTEVENTS: a few rows a stay."""

    def put(name: str, header: str, line: str) -> None:
        rows = (line.format(s=10_000 + i, h=100_000 + i, i=200_000 + i) for i in range(stays))
        (folder / f"{name}.csv").write_text(header + "\n" + "\n".join(rows) + "\n", encoding="utf-8")

    put(
        "ICUSTAYS",
        "SUBJECT_ID,HADM_ID,ICUSTAY_ID,INTIME,OUTTIME",
        "{s},{h},{i},2150-01-01 00:00:00,2150-01-04 18:00:00",
    )
    put("PATIENTS", "SUBJECT_ID,GENDER,DOB", "{s},F,2090-01-01 00:00:00")
    put("ADMISSIONS", "HADM_ID,HOSPITAL_EXPIRE_FLAG", "{h},0")
    put("DIAGNOSES_ICD", "HADM_ID,ICD9_CODE", "{h},99592")
    put("LABEVENTS", "SUBJECT_ID,ITEMID,CHARTTIME,VALUE,VALUENUM", "{s},50813,2150-01-01 06:00:00,2.1,2.1")
    put(
        "OUTPUTEVENTS",
        "SUBJECT_ID,ICUSTAY_ID,ITEMID,CHARTTIME,VALUE,ISERROR",
        "{s},{i},40055,2150-01-01 05:00:00,200,",
    )
    put(
        "INPUTEVENTS_CV",
        "SUBJECT_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,AMOUNTUOM,RATE,RATEUOM,STOPPED",
        "{s},{i},2150-01-01 04:00:00,30018,100,ml,,,",
    )


def build(folder: Path) -> None:
    """Build the cohort table of `folder`; print wall time and peak memory."""
    from medgym_offline.cohorts import build_cohort
    from medgym_offline.diseases.sepsis.cohort import COHORT

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    summary = build_cohort([folder], folder / "cohort.parquet", COHORT)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = sum(summary.rows.values())
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "start_mb": before / 1024, "table_rows": kept}))


def apart(*arguments: str) -> dict[str, Any]:
    """Run this file in a process of its own and read the JSON it prints.

    Writing is apart too: a process inherits the peak of the one that starts it, so this one stays small.
    """
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def project(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """The line through both measurements at the size of the real file."""
    steps = (FULL_ROWS - large["rows"]) / (large["rows"] - small["rows"])
    out = {"rows": FULL_ROWS}
    for key in ("seconds", "peak_mb", "table_rows"):
        out[key] = large[key] + steps * (large[key] - small[key])
    return out


def main() -> None:
    """Write the tables, measure, project, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write is not None:
        write_tables(args.write, args.rows)
        return
    if args.build is not None:
        build(args.build)
        return
    runs = []
    for rows in (args.rows // PARTS, args.rows):
        with tempfile.TemporaryDirectory(prefix="cohort-streaming-") as folder:
            sizes = apart("--write", folder, "--rows", str(rows))
            found = apart("--build", folder)
        runs.append({"rows": rows, "rows_per_second": rows / found["seconds"], **sizes, **found})
        print(f"{rows} rows: {found['seconds']:.1f} s, peak {found['peak_mb']:.0f} MB", flush=True)
    # Imported last: a process inherits the peak of the one that starts it.
    from benchmarks.timing import machine
    from medgym_offline.files import write_json

    result = {
        "what": "raw MIMIC-III tables with a synthetic CHARTEVENTS.csv.gz -> cohort table (Parquet), one process",
        "command": f"POLARS_MAX_THREADS={os.environ.get('POLARS_MAX_THREADS', '')} python benchmarks/"
        f"cohort_streaming.py --rows {args.rows}",
        "machine": machine(polars=version("polars")),
        "kept_share": sum(KEPT.values()),
        "runs": runs,
        "projected_full_mimic_iii": project(runs[0], runs[1]),
    }
    write_json(args.output, result)
    print(json.dumps(result["projected_full_mimic_iii"], indent=2))


if __name__ == "__main__":
    main()
