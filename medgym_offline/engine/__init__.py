"""Where shards of patients run: in this process, on all local cores, or on a Ray cluster. Results are the same."""

from __future__ import annotations

from medgym_offline.engine.run import blocks, run
from medgym_offline.engine.workers import ENGINES, check_engine, decode, encode, report

__all__ = ["ENGINES", "blocks", "check_engine", "decode", "encode", "report", "run"]
