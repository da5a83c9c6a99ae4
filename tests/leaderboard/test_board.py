"""The board: sorted, idempotent, locked, sealed; its pages; the release's own entries."""

import json
import re
import shlex
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from experiments import board as own
from medgym_offline.config import to_values
from medgym_offline.errors import SubmissionError
from medgym_offline.files import read_toml, release_folder
from medgym_offline.leaderboard import add_entry, build_page, read_board, sealed
from medgym_offline.leaderboard.entry import Verification
from tests import helpers
from tests.leaderboard.workshop import DATASET, refused, variant

RECORD = Verification("x", "0" * 64, 0.0, True, None, "")


def test_adding_is_idempotent_and_sorted(entry):
    board = Path("board.json")
    for name in ("zeta", "alpha", "mu"):
        assert add_entry(variant(entry, name), board)
    before = board.read_bytes()
    assert not add_entry(variant(entry, "alpha"), board)
    assert board.read_bytes() == before
    assert [e.name for e in read_board(board)] == ["alpha", "mu", "zeta"]
    for name in ("alpha", "zeta", "mu"):
        add_entry(variant(entry, name), "other.json")
    assert Path("other.json").read_bytes() == before


def test_taken_names_and_copied_policies_are_refused(entry):
    add_entry(entry, "board.json")
    alike = variant(entry, "METHOD!")  # the same id, since the names look alike
    renamed = replace(variant(entry, "Mine"), policies=entry.policies)
    for other, words in ((alike, "different entry"), (renamed, "already has these policies")):
        helpers.refused(SubmissionError, words, partial(add_entry, other, "board.json"))
    assert read_board("board.json") == [entry]


def test_a_verification_is_recorded_and_kept(entry):
    signed = sealed(entry, RECORD)
    add_entry(entry, "board.json")
    assert add_entry(signed, "board.json")
    assert not add_entry(entry, "board.json")
    assert read_board("board.json") == [signed]


EDITS = (
    lambda e: e["metrics"]["own"].update(severity_mean=1.0),
    lambda e: e["per_patient"]["own"]["severity_mean"][0].reverse(),
    lambda e: e["policies"][0].update(sha256="0" * 64),
    lambda e: e["verification"].update(version="other"),
    lambda e: e["verification"].update(fresh_seeds=False),
    lambda e: e["authors"].append("Somebody Else"),
)


def test_a_seal_shows_what_was_changed_after_verification(entry):
    board = Path("board.json")
    add_entry(sealed(entry, RECORD), board)
    text = board.read_text()
    for edit in EDITS:
        content = json.loads(text)
        edit(content["entries"][0])
        board.write_text(json.dumps(content))
        changed = r"board\.json: entry .* changed after it was verified"
        helpers.refused(SubmissionError, changed, lambda: read_board(board))
    other = replace(sealed(entry, RECORD), authors=("Somebody Else",))
    helpers.refused(SubmissionError, "changed after it was verified", lambda: add_entry(other, "another.json"))


def test_adds_at_once_lose_nothing(entry):
    rows = [variant(entry, f"entry {n}") for n in range(12)]
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        assert all(workers.map(add_entry, rows, repeat("board.json")))
    assert len(read_board("board.json")) == 12


def test_a_damaged_board_is_refused_and_not_overwritten(entry):
    board = Path("board.json")
    for text in ("{", "[]", '{"format": "x", "entries": []}', '{"format": "medgym-leaderboard/2", "entries": [{}]}'):
        board.write_text(text)
        helpers.refused(SubmissionError, r"board\.json", lambda: add_entry(entry, board))
        assert board.read_text() == text


def test_a_page_for_every_table_and_nothing_of_a_stranger_is_markup(entry):
    level = 5.0 + np.random.default_rng(0).normal(0, 3.0, (1, 30))
    rows = [variant(entry, name, level + n, authors=["A & B"]) for n, name in enumerate(("best", "second"))]
    rows.append(variant(entry, "elsewhere", level, bank={"name": "other", "content_hash": "0" * 64}))
    rows[0] = replace(rows[0], software={"<script>alert(1)</script>": "1"}, notes=("<b>bold</b>",))
    index = build_page(rows, "site")
    pages = (index, *Path("site").glob("medgym-workshop-v0-adaptive-20-*.html"))
    texts = [page.read_text() for page in pages]
    assert not any(re.search("<script|<b>|http-equiv|src=", text) for text in texts)
    (both,) = (text for text in texts[1:] if "second" in text)
    assert (len(texts), both.index("best") < both.index("second")) == (3, True)
    assert all(f">{name} (" in texts[0] for name in ("best", "second", "elsewhere"))
    assert "elsewhere" not in both
    assert json.loads(Path("site/leaderboard.json").read_text())["entries"] == [to_values(row) for row in rows]


def test_build_refuses_other_folders_and_a_missing_board(shop):
    Path("b.json").write_text('{"format": "medgym-leaderboard/2", "entries": []}')
    assert "holds something else" in refused("leaderboard", "build", "--file", "b.json", "--output", ".")
    assert "no such leaderboard" in refused("leaderboard", "build", "--file", "absent.json", "--output", "site")


RECIPE = """
datasets = ["{dataset}"]
bank = "{bank}"
seeds = 2
authors = ["A", "B"]
train = ["--updates", "3"]
evaluate = ["--episodes", "2", "--worlds", "own,crossfit"]
[[entries]]
name = "Zero"
policy = "zero"
[[entries]]
name = "DQN"
algorithm = "dqn"
scopes = ["pop"]
"""


def test_the_board_holds_what_the_recipe_names():
    expected = dict(own.entries(read_toml(own.RECIPE, ValueError)))
    board = read_board()
    assert {(e.name, e.dataset.id) for e in board} == {(e["name"], e["dataset"]) for e in expected.values()}
    assert all(e.verification is not None and e.verification.fresh_seeds for e in board)
    folders = {p.name for p in (release_folder("leaderboard") / "submissions").iterdir() if p.is_dir()}
    assert folders == set(expected)


@pytest.mark.slow
def test_entries_are_made_verified_and_not_made_again(shop, tmp_path, monkeypatch, capsys):
    recipe, board = tmp_path / "recipe.toml", tmp_path / "b" / "board.json"
    recipe.write_text(RECIPE.format(dataset=DATASET, bank=shop.bank))
    argv = ["board", "--recipe", str(recipe), "--work", str(tmp_path / "work"), "--board", str(board)]
    monkeypatch.setattr("sys.argv", argv)
    own.main()
    made = read_board(board)
    assert [(e.name, len(e.runs), e.authors) for e in made] == [("DQN", 2, ("A", "B")), ("Zero", 1, ("A", "B"))]
    assert all(e.verification is not None and e.verification.fresh_seeds for e in made)
    first = capsys.readouterr().out.splitlines()
    text = (tmp_path / "b" / "submissions" / "dqn-workshop-v0-pop" / "README.md").read_text()
    taken = [line.partition(": ")[2] for line in first if "dqn" in line.lower()]
    assert taken == [line for line in text.splitlines() if line.startswith("medgym-offline")]
    assert shlex.split(first[-1])[-1] == str(board)
    own.main()
    assert capsys.readouterr().out == ""
    assert read_board(board) == made
