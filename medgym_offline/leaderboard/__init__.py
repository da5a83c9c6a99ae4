"""The leaderboard: entries of evaluations, re-executed, ranked patient by patient, shown as static pages."""

from medgym_offline.leaderboard.board import add_entry, default_board, groups, rank, read_board, sealed
from medgym_offline.leaderboard.building import read_submission, submit
from medgym_offline.leaderboard.entry import Entry, entry_schema, gaps
from medgym_offline.leaderboard.site import build_page
from medgym_offline.leaderboard.verify import Reexecution, verify_submission

__all__ = [
    "Entry", "Reexecution", "add_entry", "build_page", "default_board", "entry_schema", "gaps", "groups", "rank",
    "read_board", "read_submission", "sealed", "submit", "verify_submission",
]  # fmt: skip
