"""What is kept of a study in `evaluation/`: its tables as Markdown, and its result as compressed JSON."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgym_offline.files import atomic_path, json_text, write_text

__all__ = ["KEPT_SCORES", "record_study", "write_record"]

KEPT_SCORES = ("sofa_all",)
"""Metrics whose scores are kept for every seed and patient; of the others the means over seeds, in `per_patient`."""


def record_study(result: Mapping[str, Any], markdown: str, stem: str | Path) -> tuple[Path, Path]:
    """Write `stem`.md and `stem`.json.gz, atomically; the same result gives the same bytes.

    Args:
        result: What `run_offline_study` or `run_online_study` returned.
        markdown: Its tables, from `studies/markdown.py`.
        stem: Path without ending, such as `evaluation/study-offline`.

    Returns:
        The two files. `load_offline_study` and `load_study` read the second.
    """
    rows = []
    for row in result["rows"].values():
        kept = {w: {m: v for m, v in found.items() if m in KEPT_SCORES} for w, found in row.get("scores", {}).items()}
        rows.append({**row, "scores": kept} if kept else row)
    return write_record({**result, "rows": rows}, markdown, stem)


def write_record(content: Mapping[str, Any], markdown: str, stem: str | Path) -> tuple[Path, Path]:
    """Write `markdown` to `stem`.md and plain values to `stem`.json.gz, atomically; equal content gives equal bytes."""
    page, data = Path(f"{stem}.md"), Path(f"{stem}.json.gz")
    write_text(page, markdown)
    with atomic_path(data) as temporary:
        temporary.write_bytes(gzip.compress(json_text(dict(content)).encode(), 9, mtime=0))
    return page, data
