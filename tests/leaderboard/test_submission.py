"""Submissions: built from results, checked, and refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medgym_offline.errors import SubmissionError
from medgym_offline.leaderboard import read_submission
from medgym_offline.leaderboard.entry import slug
from medgym_offline.leaderboard.submission import MAX_POLICY_BYTES
from tests.leaderboard.workshop import DATASET, Workshop, refused, run


@pytest.fixture
def folder(shop: Workshop, tmp_path: Path) -> Path:
    """A good submission of two seeds."""
    target = tmp_path / "submission"
    done = run("submit", shop.result(0), shop.result(1) / "result.json", "--name", "My Method", "--output", target)
    assert done.code == 0, done.err
    return target


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit `entry.json` in place."""
    path = folder / "entry.json"
    entry = json.loads(path.read_text())
    edit(entry)
    path.write_text(json.dumps(entry))


def test_the_entry_says_what_was_done(folder: Path, shop: Workshop) -> None:
    submission = read_submission(folder)
    entry = submission.entry
    assert entry["id"] == "my-method/workshop-v0/ind/adaptive-20"
    assert entry["seeds"] == [0, 1]
    assert entry["dataset"]["id"] == DATASET
    results = [json.loads((shop.result(seed) / "result.json").read_text()) for seed in (0, 1)]
    mean = sum(r["metrics"]["sofa_all"] for r in results) / 2
    assert entry["metrics"]["own"]["sofa_all"] == pytest.approx(mean, rel=1e-6)
    low, high = entry["intervals"]["own"]["sofa_all"]
    assert low <= entry["metrics"]["own"]["sofa_all"] <= high
    assert set(entry["metrics"]) == {"own", "held-out"}
    assert entry["runs"][1]["own"]["return"] == pytest.approx(results[1]["metrics"]["return"], rel=1e-6)
    assert entry["policies"][0]["training"]["algorithm"] == "dqn"
    assert entry["protocol"]["deviations"]["episodes"] == {"protocol": 50, "used": 2}
    assert [Path(p).read_bytes() for p in submission.policies] == [shop.policy(s).read_bytes() for s in (0, 1)]


def test_built_in_policies_can_be_submitted(shop: Workshop, tmp_path: Path) -> None:
    assert run(*shop.evaluate("--policy", "zero", "--patients", "2", "--output", "zero")).code == 0
    assert run("submit", "zero", "--name", "Zero", "--output", "s").code == 0
    entry = read_submission("s").entry
    assert entry["policies"] == [{"builtin": "zero"}]
    assert entry["scope"] == "baseline"
    assert entry["protocol"]["patients"] == ["prior/0", "prior/1"]
    assert not (tmp_path / "s" / "policies").exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("GCQL (ours)", "gcql-ours"), ("Ünder—score", "under-score"), ("a" * 99, "a" * 60)]
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_names_without_letters_are_refused() -> None:
    with pytest.raises(SubmissionError, match="letter"):
        slug("***")


def test_results_that_do_not_belong_together(shop: Workshop) -> None:
    other = shop.evaluate("--policy", shop.policy(1), "--worlds", "own,held-out", "--output", "other")
    assert run(*other, "--dataset", DATASET, "--seed", "77").code == 0
    assert "seed" in refused("submit", shop.result(0), "other", "--name", "X", "--output", "s")
    pop = shop.evaluate("--policy", shop.policy(0, "pop"), "--dataset", DATASET, "--worlds", "own,held-out")
    assert run(*pop, "--output", "pop").code == 0
    assert "scope" in refused("submit", shop.result(0), "pop", "--name", "X", "--output", "s")
    assert "same policy" in refused("submit", shop.result(0), shop.result(0), "--name", "X", "--output", "s")


def test_a_result_needs_its_policy_beside_it(shop: Workshop) -> None:
    shutil.copytree(shop.result(0), "alone")
    Path("alone/policy.safetensors").unlink()
    assert "not beside it" in refused("submit", "alone", "--name", "X", "--output", "s")
    shutil.copyfile(shop.policy(1), "alone/policy.safetensors")
    assert "not beside it" in refused("submit", "alone", "--name", "X", "--output", "s")


def test_output_that_holds_something_else_is_left_alone(shop: Workshop) -> None:
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    assert "full" in refused("submit", shop.result(0), "--name", "X", "--output", "full")
    assert Path("full/thesis.tex").read_text() == "years of work"
    for _ in range(2):  # but an earlier submission may be built again
        assert run("submit", shop.result(0), "--name", "X", "--output", "again").code == 0


@pytest.mark.parametrize("link", ["javascript:alert(1)", "ftp://x", 'https://x"onclick="y'])
def test_links_are_web_addresses(shop: Workshop, link: str) -> None:
    assert "link" in refused("submit", shop.result(0), "--name", "X", "--link", link, "--output", "s")


def _first(entry: dict[str, Any]) -> dict[str, Any]:
    policy: dict[str, Any] = entry["policies"][0]
    return policy


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda e: e.pop("protocol"), "protocol: missing"),
        (lambda e: e["metrics"]["own"].pop("sofa_all"), "metrics.own.sofa_all: missing"),
        (lambda e: e["metrics"]["own"].update(sofa_all="1"), "metrics.own.sofa_all: must be number"),
        (lambda e: e["metrics"]["own"].update(sofa_all=float("nan")), "metrics.own.sofa_all: must be number"),
        (lambda e: e.update(extra=1), "extra: is not a field"),
        (lambda e: e.update(name="<b>x</b>"), "name:"),
        (lambda e: e.update(scope="all"), "scope:"),
        (lambda e: e.update(name="Another"), "id is"),
        (lambda e: e.update(timing="fixed"), "id is"),
        (lambda e: e.update(verification={"accepted": True}), "verification"),
        (lambda e: _first(e).update(file="../secret.safetensors"), "refused"),
        (lambda e: _first(e).update(file="/etc/passwd"), "refused"),
        (lambda e: _first(e).update(file="policies/../entry.json"), "refused"),
        (lambda e: _first(e).update(file="policies/.hidden.pt"), "refused"),
        (lambda e: _first(e).update(file="policies/x.pkl"), "no policy file"),
        (lambda e: _first(e).update(file="policies/absent.pt"), "missing"),
        (lambda e: _first(e).update(sha256="0" * 64), "sha256 does not match"),
        (lambda e: _first(e).update(bytes=1), "sha256 does not match"),
        (lambda e: e["policies"].pop(), "not named in entry.json"),
    ],
)
def test_tampered_entries_are_refused(folder: Path, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    change(folder, edit)
    assert reason in refused("leaderboard", "add", folder, "--file", "board.json")
    assert not Path("board.json").exists()


def test_swapped_and_changed_policies_are_refused(folder: Path, shop: Workshop) -> None:
    first, second = sorted((folder / "policies").iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert "sha256 does not match" in refused("leaderboard", "add", folder, "--file", "board.json")
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "sha256 does not match" in refused("leaderboard", "add", folder, "--file", "board.json")


def test_links_and_strangers_in_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    policy = min((folder / "policies").iterdir())
    outside = tmp_path / "outside.safetensors"
    policy.rename(outside)
    policy.symlink_to(outside)
    assert "is a link" in refused("leaderboard", "add", folder, "--file", "board.json")
    policy.unlink()
    outside.rename(policy)
    (folder / "policies" / "extra.pt").write_bytes(b"x")
    assert "not named" in refused("leaderboard", "add", folder, "--file", "board.json")
    (folder / "policies" / "extra.pt").unlink()
    (folder / "run.sh").write_text("echo")
    assert "does not belong" in refused("leaderboard", "add", folder, "--file", "board.json")
    (folder / "run.sh").unlink()
    (folder / "README.md").write_text("how it was made")
    assert run("leaderboard", "add", folder, "--file", "board.json").code == 0


def test_oversize_policies_are_refused_before_they_are_read(folder: Path) -> None:
    policy = folder / json.loads((folder / "entry.json").read_text())["policies"][0]["file"]
    with open(policy, "r+b") as stream:
        stream.truncate(MAX_POLICY_BYTES + 1)  # a hole: takes no room on the disk
    assert "at most 256" in refused("leaderboard", "add", folder, "--file", "board.json")
    change(folder, lambda e: _first(e).update(bytes=MAX_POLICY_BYTES + 1))
    assert "at most 256" in refused("leaderboard", "add", folder, "--file", "board.json")


def test_a_folder_of_links_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert "not a folder" in refused("leaderboard", "verify", tmp_path / "link")
    shutil.move(folder / "policies", tmp_path / "elsewhere")
    (folder / "policies").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused("leaderboard", "verify", folder)
    (folder / "policies").unlink()
    shutil.move(tmp_path / "elsewhere", folder / "policies")
    shutil.move(folder / "entry.json", tmp_path / "entry.json")
    (folder / "entry.json").symlink_to(tmp_path / "entry.json")
    assert "is a link" in refused("leaderboard", "verify", folder)


def test_things_that_are_no_files_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "policies" / "pipe.pt")  # opening it would wait for ever
    assert "not named" in refused("leaderboard", "verify", folder)
    change(folder, lambda e: _first(e).update(file="policies/pipe.pt"))
    assert "is missing" in refused("leaderboard", "verify", folder)
    (folder / "policies" / "pipe.pt").unlink()
    (folder / "policies" / "pipe.pt").mkdir()
    assert "is missing" in refused("leaderboard", "verify", folder)


def test_one_policy_under_two_names_is_refused(folder: Path, shop: Workshop) -> None:
    first, second = sorted((folder / "policies").iterdir())
    second.write_bytes(first.read_bytes())

    def claim(entry: dict[str, Any]) -> None:
        known = {p["file"]: p for p in entry["policies"]}
        source = known[f"policies/{first.name}"]
        known[f"policies/{second.name}"].update(sha256=source["sha256"], bytes=source["bytes"])

    change(folder, claim)
    assert "same policy" in refused("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh")


def test_submit_says_what_an_entry_lacks(shop: Workshop) -> None:
    done = run("submit", shop.result(0), "--name", "X", "--output", "s")
    lacks = [line for line in done.out.splitlines() if line.startswith("lacks ")]
    for word in ("authors", "code", "training seeds: 1 of at least 3", "episodes"):
        assert any(word in line for line in lacks), (word, lacks)
    assert not any("cost" in line for line in lacks)  # `train` recorded it
    cost = read_submission("s").entry["compute"]
    assert cost["updates"] == 5
    assert cost["hardware"]
    assert cost["wall_seconds"] >= 0

    more = ("--authors", "A; B", "--code", "https://x.org/c", "--link", "https://x.org/p", "--link", "https://x.org/q")
    known = ("--hardware", "one core", "--wall-seconds", "12.5", "--updates", "7")
    again = run("submit", shop.result(0), "--name", "X", "--output", "s", *more, *known)
    assert not any(word in again.out for word in ("lacks authors", "lacks the code"))
    entry = read_submission("s").entry
    assert entry["authors"] == ["A", "B"]
    assert (entry["code"], entry["links"]) == ("https://x.org/c", ["https://x.org/p", "https://x.org/q"])
    assert entry["compute"] == {"hardware": "one core", "wall_seconds": 12.5, "updates": 7}


def test_a_baseline_has_no_cost_and_misses_its_data(shop: Workshop) -> None:
    assert run(*shop.evaluate("--policy", "zero", "--worlds", "own", "--output", "zero")).code == 0
    out = run("submit", "zero", "--name", "Zero", "--output", "s").out
    assert "lacks support distance" in out
    assert "lacks the held-out world" in out
    assert "training" not in out
    assert read_submission("s").entry["compute"] is None


def test_entries_that_are_no_json_or_too_large_are_refused(folder: Path) -> None:
    (folder / "entry.json").write_text("[" * 100_000)
    assert "entry.json" in refused("leaderboard", "add", folder, "--file", "board.json")
    (folder / "entry.json").write_bytes(b" " * (5 * 2**20))
    assert "MB" in refused("leaderboard", "add", folder, "--file", "board.json")


def test_a_file_that_only_looks_like_a_policy_is_refused(folder: Path) -> None:
    from medgym_offline.files import sha256_file

    policy = folder / json.loads((folder / "entry.json").read_text())["policies"][0]["file"]
    policy.write_bytes(b"\x80\x04N.")

    def claim(entry: dict[str, Any]) -> None:
        _first(entry).update(sha256=sha256_file(policy), bytes=policy.stat().st_size)

    change(folder, claim)
    assert "pickle" in refused("leaderboard", "add", folder, "--file", "board.json")
