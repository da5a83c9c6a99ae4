"""What the pull request workflow runs: which folders are checked, and what else a pull request may not touch."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.leaderboard.workshop import run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "leaderboard" / "changed_submissions.sh"


def git(*argv):
    names = ["-c", "user.name=x", "-c", "user.email=x@x"]
    done = subprocess.run(["git", *names, *argv], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A repository with one submission; returns its commit."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    write("leaderboard/submissions/old/entry.json", "{}")
    write("medgym_offline/verify.py", "checks")
    return commit("base")


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def commit(message):
    git("add", "--all")
    git("commit", "-q", "-m", message)
    return git("rev-parse", "HEAD")


def changed(base, head):
    git("checkout", "-q", base)
    return subprocess.run(["bash", str(SCRIPT), base, head], capture_output=True, text=True, check=False)


def test_new_and_changed_submissions_are_taken_from_the_pull_request(base):
    write("leaderboard/submissions/new-one/entry.json", "{1}")
    write("leaderboard/submissions/new-one/policies/a.pt", "x")
    write("leaderboard/submissions/old/entry.json", "{2}")
    done = changed(base, commit("pull request"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["leaderboard/submissions/new-one", "leaderboard/submissions/old"]
    assert Path("leaderboard/submissions/old/entry.json").read_text() == "{2}"
    assert Path("leaderboard/submissions/new-one/policies/a.pt").read_text() == "x"
    assert Path("medgym_offline/verify.py").read_text() == "checks"


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
        write("leaderboard/submissions/fine/entry.json", "{}")
        write(path, "{changed}")
        done = changed(base, commit("pull request"))
        assert (done.returncode, done.stdout) == (1, ""), path
        assert "another pull request" in done.stderr
        assert Path("medgym_offline/verify.py").read_text() == "checks"


def test_the_workflow_is_safe_and_its_commands_exist():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML (pre-commit brings it)")
    flow = yaml.safe_load((ROOT / ".github/workflows/leaderboard.yml").read_text())
    trigger = flow[True]  # YAML 1.1 reads "on" as true
    assert trigger == {"pull_request": {"paths": ["leaderboard/submissions/**"]}}
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
