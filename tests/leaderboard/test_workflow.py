"""What the pull request workflow runs: which folders are checked, and what else a pull request may not touch."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.leaderboard.workshop import run

ROOT = Path(__file__).parents[2]
SUBMISSIONS = "leaderboard/submissions"
SCRIPT = ROOT / "leaderboard" / "changed_submissions.sh"


def git(*argv):
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A repository with one submission; returns its commit."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    return commit({"leaderboard/submissions/old/entry.json": "{}", "medgym_offline/verify.py": "checks"})


def commit(files):
    """Write files, by their paths, and commit; returns the commit."""
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    git("add", "--all")
    git("commit", "-q", "-m", "files")
    return git("rev-parse", "HEAD")


def changed(base, head):
    git("checkout", "-q", base)
    return subprocess.run(["bash", str(SCRIPT), base, head], capture_output=True, text=True, check=False)


def test_new_and_changed_submissions_are_taken_from_the_pull_request(base):
    files = {f"{SUBMISSIONS}/new-one/entry.json": "{1}", f"{SUBMISSIONS}/new-one/policies/a.pt": "x"}
    files[f"{SUBMISSIONS}/old/entry.json"] = "{2}"
    done = changed(base, commit(files))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{SUBMISSIONS}/new-one", f"{SUBMISSIONS}/old"]
    files["medgym_offline/verify.py"] = "checks"
    assert {path: Path(path).read_text() for path in files} == files


def test_everything_else_is_refused(base):
    for path in (
        "medgym_offline/verify.py",
        "leaderboard/leaderboard.json",
        "leaderboard/submissions/README.md",
        "leaderboard/submissions/a b/entry.json",
        "leaderboard/submissions/$(id)/entry.json",
        "leaderboard/submissions/x\ny/entry.json",
        "leaderboard/submissions/-rf/entry.json",
        "leaderboard/submissions/x/policies/deep/a.pt",
    ):
        git("checkout", "-q", base)
        done = changed(base, commit({f"{SUBMISSIONS}/fine/entry.json": "{}", path: "{changed}"}))
        assert (done.returncode, done.stdout) == (1, ""), path
        assert "another pull request" in done.stderr
        assert Path("medgym_offline/verify.py").read_text() == "checks"


def test_the_workflow_is_safe_and_its_commands_exist():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML (pre-commit brings it)")
    flow = yaml.safe_load((ROOT / ".github/workflows/leaderboard.yml").read_text())
    assert flow[True] == {"pull_request": {"paths": ["leaderboard/submissions/**"]}}  # YAML 1.1 reads "on" as true
    assert flow["permissions"] == {"contents": "read"}
    steps = flow["jobs"]["verify"]["steps"]
    assert steps[0]["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    scripts = [step["run"] for step in steps if "run" in step]
    assert not any("${{" in script for script in scripts)  # no text of a stranger becomes part of a command
    assert any("leaderboard/changed_submissions.sh" in script for script in scripts)
    commands = re.findall(r"medgym-offline (leaderboard \w+)", "\n".join(scripts))
    assert commands == ["leaderboard verify", "leaderboard add", "leaderboard build"]
    for command in commands:
        assert run(*command.split(), "--help").code == 0
