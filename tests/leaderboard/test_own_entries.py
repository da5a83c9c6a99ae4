"""The release's own entries, and the commands that make them."""

import shlex

import pytest

from experiments import board as own
from medgym_offline.files import read_toml, release_folder
from medgym_offline.leaderboard import read_board
from tests.leaderboard.workshop import DATASET

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
    assert [line.partition(": ")[2] for line in first if "DQN" in line or "dqn" in line] == [
        line for line in text.splitlines() if line.startswith("medgym-offline")
    ]
    assert shlex.split(first[-1])[-1] == str(board)
    own.main()
    assert capsys.readouterr().out == ""
    assert read_board(board) == made
