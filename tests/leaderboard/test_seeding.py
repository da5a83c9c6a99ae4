"""`leaderboard seed`: the release's own entries by the commands a contributor would type, each run once."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from medgym_offline.errors import SubmissionError
from medgym_offline.files import cache_folder, release_folder
from medgym_offline.leaderboard import read_board, read_submission
from medgym_offline.leaderboard.seeding import plan, read_seed_recipe, run_entry
from tests.datasets.hub import ORG, TOKEN
from tests.datasets.test_hub import connected
from tests.leaderboard.workshop import DATASET, Workshop, refused, run


@pytest.fixture
def recipe(shop: Workshop, tmp_path: Path) -> Path:
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
        evaluate = ["--episodes", "2", "--worlds", "own,held-out"]
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


def test_the_shipped_recipe_names_every_seed_entry() -> None:
    from medgym_offline.offline import ALGORITHMS
    from medgym_offline.third_party import BASELINES

    recipe = read_seed_recipe()
    assert recipe.datasets == ("medgym/sepsis-ind-v0", "medgym/sepsis-ind-fixed-v0")
    assert recipe.seeds >= 3
    learned = {(a, s) for _, _, a, scopes in recipe.entries if a for s in scopes}
    both = {(a, s) for a in ALGORITHMS for s in ("ind", "pop")}
    assert learned == both | {(f"d3rlpy-{a}", "pop") for a in ("iql", "td3bc", "cql")}
    assert {a for a, _ in learned} <= {*ALGORITHMS, *BASELINES}
    assert {p for _, p, _, _ in recipe.entries if p} == {"random", "zero", "clinician", "behavior:ind"}
    assert (release_folder("leaderboard") / "submissions").is_dir()


@pytest.mark.slow
def test_entries_are_made_verified_and_not_made_again(recipe: Path) -> None:
    arguments = ("leaderboard", "seed", recipe, "-o", "work", "--file", "b/board.json")
    first = run(*arguments)
    assert first.code == 0, first.out + first.err
    assert "2 of 2 entries are verified" in first.out
    board = read_board("b/board.json")
    assert [(e["name"], len(e["runs"])) for e in board] == [("DQN", 2), ("Zero", 1)]
    for entry in board:
        assert entry["verification"]["fresh_seeds"] is True
        assert entry["authors"] == ["A", "B"]
    assert board[0]["compute"]["updates"] == 3
    commands = Path("b/submissions/dqn-workshop-v0-pop/README.md").read_text()
    for word in ("train dqn", "--scope pop", "--updates 3", "eval --policy", "submit", "leaderboard verify"):
        assert word in commands

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
    assert [line.split()[2] for line in commands] == ["submit", "leaderboard", "leaderboard"]
    assert read_board("b/board.json") == board


def test_a_dry_run_prints_the_commands_and_runs_none(recipe: Path) -> None:
    done = run("leaderboard", "seed", recipe, "-o", "work", "--file", "b/board.json", "--dry-run", "--only", "dqn")
    assert done.code == 0
    kinds = [line.split()[1] for line in done.out.splitlines()]
    assert kinds == ["train", "eval", "eval", "submit", "leaderboard"]
    assert not Path("work").exists()
    assert not Path("b").exists()


def test_a_whole_name_picks_one_entry_and_part_of_a_name_all_that_have_it(recipe: Path) -> None:
    longer = recipe.read_text().replace('name = "Zero"', 'name = "My DQN"')
    recipe.write_text(longer.replace('policy = "zero"', 'algorithm = "dqn"\nscopes = ["pop"]'))

    def made(only: str) -> list[str]:
        done = run("leaderboard", "seed", recipe, "-o", "w", "--file", "b.json", "--dry-run", "--only", only)
        lines = [shlex.split(line) for line in done.out.splitlines() if " submit " in line]
        return [words[words.index("--name") + 1] for words in lines]

    assert made("dqn-workshop-v0-pop") == ["DQN"]
    assert made("my-dqn-workshop-v0-pop") == ["My DQN"]
    assert made("qn-workshop-v0-pop") == ["My DQN", "DQN"]


def test_folders_follow_what_they_depend_on(recipe: Path) -> None:
    def folders(text: str) -> set[str]:
        recipe.write_text(text)
        found = plan(read_seed_recipe(recipe), Path("work"), Path("s"), Path("b.json"))
        return {entry.work.name for entry in found}

    text = recipe.read_text()
    assert folders(text) == folders(text)
    assert len(folders(text) & folders(text.replace('"--updates", "3"', '"--updates", "4"'))) == 1  # zero's
    assert not folders(text) & folders(text.replace('"--episodes", "2"', '"--episodes", "3"'))


def test_a_missing_package_is_said_and_skipped(recipe: Path) -> None:
    from dataclasses import replace

    entry = plan(read_seed_recipe(recipe), Path("work"), Path("s"), Path("b.json"))[0]
    said: list[str] = []
    assert run_entry(replace(entry, needs="package_that_nobody_has"), said.append) is False
    assert "skipped" in said[0]
    assert not Path("work").exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("seeds = 2", 'seeds = "two"', "seeds"),
        ("seeds = 2", "seed = 2", "unknown field 'seed'"),
        ('policy = "zero"', "", "either policy or algorithm"),
        ('name = "Zero"', "", "needs name"),
        ('train = ["--updates", "3"]', 'train = "--updates 3"', "train must be a list"),
    ],
)
def test_bad_recipes_are_refused(recipe: Path, old: str, new: str, reason: str) -> None:
    recipe.write_text(recipe.read_text().replace(old, new))
    assert reason in refused("leaderboard", "seed", recipe, "--dry-run")


def test_large_policies_leave_the_folder_and_are_found_by_their_sha256(shop: Workshop) -> None:
    from medgym_offline.leaderboard.assets import slim

    assert run("submit", shop.result(0), "--name", "X", "--output", "s").code == 0
    entry = read_submission("s").entry
    assert slim(Path("s"), entry, limit=10**9) == []
    (kept,) = slim(Path("s"), entry, limit=1)
    assert kept == cache_folder() / "policies" / f"{entry['policies'][0]['sha256']}.safetensors"
    assert not Path("s/policies").exists()
    assert read_submission("s").policies == (kept,)
    assert run("leaderboard", "verify", "s", "--bank", shop.bank, "--no-fresh").code == 0

    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "sha256 does not match" in refused("leaderboard", "verify", "s", "--bank", shop.bank)
    kept.unlink()
    line = refused("leaderboard", "verify", "s", "--bank", shop.bank)
    assert "is missing" in line
    assert "policies" in line
    # An asset is found by the entry's own sha256 alone: an entry cannot name another place.
    text = json.loads(Path("s/entry.json").read_text())
    text["policies"][0]["sha256"] = "../" * 20 + "etc/passwd"
    Path("s/entry.json").write_text(json.dumps(text))
    assert "sha256" in refused("leaderboard", "verify", "s", "--bank", shop.bank)


def test_large_policies_are_fetched_from_the_hub(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi

    from medgym_offline.leaderboard.assets import FOLDER, REPOSITORY, slim

    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path / "cache"))
    with connected(monkeypatch, tmp_path / "hf") as server:
        monkeypatch.setenv("MINARI_REMOTE", f"hf://{ORG}")
        assert run("submit", shop.result(0), "--name", "X", "--output", "s").code == 0
        entry = read_submission("s").entry
        (kept,) = slim(Path("s"), entry, limit=1)
        api = HfApi(endpoint=os.environ["HF_ENDPOINT"], token=TOKEN)
        api.create_repo(f"{ORG}/{REPOSITORY}", repo_type="dataset")
        where = {"repo_id": f"{ORG}/{REPOSITORY}", "repo_type": "dataset", "path_in_repo": f"{FOLDER}/{kept.name}"}
        content = kept.read_bytes()
        for sent in (content[:-1] + bytes([content[-1] ^ 1]), content):
            api.upload_file(path_or_fileobj=sent, **where)
            kept.unlink(missing_ok=True)
            if sent != content:
                assert "sends other bytes" in refused("leaderboard", "add", "s", "--file", "b.json")
                assert not kept.exists()
            else:
                assert read_submission("s").policies == (kept,)
                assert kept.read_bytes() == content
        assert server.repositories


def test_an_asset_with_other_bytes_is_not_kept(shop: Workshop, tmp_path: Path) -> None:
    from medgym_offline.leaderboard.assets import keep_asset

    other = tmp_path / "other.pt"
    other.write_bytes(b"x")
    with pytest.raises(SubmissionError, match="sha256"):
        keep_asset({"sha256": "0" * 64, "file": "policies/a.pt", "bytes": 1}, other)
