"""`leaderboard seed`: the release's own entries by the commands a contributor would type, each run once."""

import json
import shutil
from pathlib import Path

import pytest

from medgym_offline.files import release_folder
from medgym_offline.leaderboard import read_board
from medgym_offline.leaderboard.seeding import read_seed_recipe
from tests.leaderboard.workshop import DATASET, run


@pytest.fixture
def recipe(shop, tmp_path):
    """One baseline, one learner, one that needs a package nobody has."""
    path = tmp_path / "seed.toml"
    path.write_text(
        f"""
        datasets = ["{DATASET}"]
        bank = "{shop.bank}"
        seeds = 2
        authors = ["A", "B"]
        code = "https://example.org/code"
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
    )
    return path


def test_the_shipped_recipe_is_what_the_board_holds():
    recipe = read_seed_recipe()
    assert recipe.seeds >= 3
    expected = {(m.name, d) for m in recipe.entries for d in m.datasets or recipe.datasets}
    board = read_board(release_folder("leaderboard") / "leaderboard.json")
    assert {(e.name, e.dataset.id) for e in board} == expected
    assert all(e.verification is not None and e.verification.fresh_seeds for e in board)
    folders = [p for p in (release_folder("leaderboard") / "submissions").iterdir() if p.is_dir()]
    assert len(folders) == len(board)


@pytest.mark.slow
def test_entries_are_made_verified_and_not_made_again(recipe):
    arguments = ("leaderboard", "seed", recipe, "-o", "work", "--file", "b/board.json")
    first = run(*arguments)
    assert first.code == 0, first.out + first.err
    assert "2 of 2 entries are verified" in first.out
    board = read_board("b/board.json")
    assert [(e.name, len(e.runs)) for e in board] == [("DQN", 2), ("Zero", 1)]
    for entry in board:
        assert entry.verification.fresh_seeds
        assert entry.authors == ("A", "B")
    assert board[0].compute is not None
    assert board[0].compute.updates == 3
    again = run(*arguments)
    assert again.code == 0
    assert "medgym-offline train" not in again.out
    assert read_board("b/board.json") == board
    # What is missing is made again, and nothing else: an entry of the board, a submission.
    text = json.loads(Path("b/board.json").read_text())
    text["entries"] = text["entries"][1:]
    Path("b/board.json").write_text(json.dumps(text))
    shutil.rmtree("b/submissions/zero-workshop-v0")
    out = run(*arguments).out
    commands = [line for line in out.splitlines() if ": medgym-offline" in line and not line.startswith("next")]
    assert [line.split()[2] for line in commands] == ["submit", "leaderboard"]
    assert read_board("b/board.json") == board
