"""Every Python block of the README and of the documentation runs, page by page, in order.

A block after `<!-- slow -->` runs only in the slow tests; one after `<!-- skip: reason -->` does not run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# docs/environments.md has its own test, which puts a small bank in place of the release's.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "environments.md")]
BLOCK = re.compile(r"(?:<!-- (?P<mark>slow|skip: [^>]*) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)


def _blocks() -> list[object]:
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
            mark = match["mark"] or ""
            marks = [pytest.mark.slow] if mark == "slow" else []
            if mark.startswith("skip"):
                marks.append(pytest.mark.skip(reason=mark.removeprefix("skip: ")))
            name = f"{page.stem}-{number}"
            found.append(pytest.param(page, match["code"], id=name, marks=marks))
    return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages: what one page generates (a dataset), the next finds."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def namespaces() -> dict[Path, dict[str, object]]:
    return {}


@pytest.mark.parametrize(("page", "code"), _blocks())
def test_block(
    page: Path,
    code: str,
    workplace: Path,
    namespaces: dict[Path, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(workplace / "minari"))
    exec(compile(code, str(page), "exec"), namespaces.setdefault(page, {"__name__": "__main__"}))


def test_commands_in_the_readme_exist() -> None:
    from typer.main import get_command

    from medgym_offline.cli import app

    root = get_command(app)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^medgym-offline (.+)$", text, re.MULTILINE)
    assert len(commands) >= 8
    for line in commands:
        command, words = root, line.split()
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= known, line
