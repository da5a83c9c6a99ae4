"""The leaderboard: entries built from evaluations, submissions that are checked and re-executed, a static page.

Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgym_offline.leaderboard.advice import gaps
    from medgym_offline.leaderboard.board import add_entry, default_board, read_board
    from medgym_offline.leaderboard.entry import build_entry, entry_id, policy_of
    from medgym_offline.leaderboard.pack import submit
    from medgym_offline.leaderboard.page import build_page
    from medgym_offline.leaderboard.schema import entry_schema, require_valid
    from medgym_offline.leaderboard.seal import sealed
    from medgym_offline.leaderboard.submission import Submission, read_submission, write_submission
    from medgym_offline.leaderboard.verify import VerificationReport, verify_submission

__all__ = [
    "Submission",
    "VerificationReport",
    "add_entry",
    "build_entry",
    "build_page",
    "default_board",
    "entry_id",
    "entry_schema",
    "gaps",
    "policy_of",
    "read_board",
    "read_submission",
    "require_valid",
    "sealed",
    "submit",
    "verify_submission",
    "write_submission",
]

_HOMES = {
    "advice": ("gaps",),
    "board": ("add_entry", "default_board", "read_board"),
    "entry": ("build_entry", "entry_id", "policy_of"),
    "page": ("build_page",),
    "schema": ("entry_schema", "require_valid"),
    "seal": ("sealed",),
    "submission": ("Submission", "read_submission", "write_submission"),
    "pack": ("submit",),
    "verify": ("VerificationReport", "verify_submission"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
