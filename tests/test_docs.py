"""Every Python and bash block of the README and of the documentation runs, page by page, in order.

Python runs in this process, on the release with four episodes a patient; bash in a shell of its own, on a release of
eight patients under the same names (`tests/small_release.py`). Both stand in one folder a page. A comment before a
block says what else it needs:

    <!-- slow -->               runs in the slow tests
    <!-- clinical -->           runs in the slow tests where MEDGYM_CLINICAL_DATA names the open ICU data
    <!-- needs: MODULE -->      runs where this module is installed; `needs: MODULE, slow` in the slow tests
    <!-- skip: reason -->       does not run; a command in it is still looked up, with its options
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from medgym_offline.cli import app
from medgym_offline.datasets import catalogue, recipes
from medgym_offline.files import release_folder as _folder
from tests.small_release import build, environment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>slow|clinical|needs: \w+(?:, slow)?|skip: [^>]*) -->\n)?"
    r"```(?P<language>python|bash)\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
NAMESPACES = {}
"""What the blocks of Python of a page have named so far."""


class Block(NamedTuple):
    """A block of code: its page, the line it begins in, its language, its text and the comment before it."""

    page: Path
    line: int
    language: str
    code: str
    mark: str


def read_blocks(page):
    """The blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(page, line, match["language"], match["code"], match["mark"] or "")


def _parameters(page):
    for block in read_blocks(page):
        kind, _, what = block.mark.partition(": ")
        marks = [pytest.mark.slow] if kind in ("slow", "clinical") or what.endswith(", slow") else []
        marks += [pytest.mark.clinical] if kind == "clinical" else []
        marks += [pytest.mark.skip(reason=what)] if kind == "skip" else []
        yield pytest.param(block, id=f"{page.stem}:{block.line}", marks=marks)


@pytest.fixture(scope="session")
def working(tmp_path_factory):
    """Holds a folder for each page, and the datasets they share."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="session")
def small_release(tmp_path_factory):
    """What the commands of the documentation run on."""
    return build(tmp_path_factory.mktemp("release"))


def _run(block, working, small_release, request, monkeypatch):
    folder = working / block.page.stem
    folder.mkdir(exist_ok=True)
    if block.mark.startswith("needs: "):
        pytest.importorskip(block.mark.removeprefix("needs: ").removesuffix(", slow"))
    if block.mark == "clinical":
        for source in request.getfixturevalue("clinical_data").iterdir():
            link = folder / source.name
            if not link.exists():
                link.symlink_to(source)
    monkeypatch.chdir(folder)
    if block.language == "python":
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(working / "minari"))
        small = small_release / "datasets"
        for module in (catalogue, recipes):
            monkeypatch.setattr(module, "release_folder", lambda name: small if name == "datasets" else _folder(name))
        namespace = NAMESPACES.setdefault(block.page, {"__name__": "__main__"})
        # As many lines before it as on the page, so that a traceback names the page's line.
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), namespace)
        return
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    how = {"env": environment(small_release), "capture_output": True, "text": True, "timeout": 1800}
    done = subprocess.run(command, **how, check=False)
    assert done.returncode == 0, f"{block.page.name}, line {block.line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _of_page(page):
    """A class of tests, which one process runs under `--dist loadscope`: the blocks of a page build on each other."""

    class Page:
        @pytest.mark.parametrize("block", list(_parameters(page)))
        def test_block(self, block, working, small_release, request, monkeypatch):
            _run(block, working, small_release, request, monkeypatch)

    return Page


for _page in PAGES:
    if any(read_blocks(_page)):
        globals()[f"Test_{_page.stem.replace('-', '_')}"] = _of_page(_page)


def _commands(code):
    """The words of every `medgym-offline` command of a bash block."""
    for words in re.findall(r"(?:^|[\s;(])medgym-offline (.+)", code.replace("\\\n", " "), re.MULTILINE):
        yield shlex.split(words.split("; do")[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_and_their_options_exist(page):
    """In blocks that run, in those that do not, and in the sentences and tables between them."""
    text = page.read_text(encoding="utf-8")
    written = [block.code for block in read_blocks(page) if block.language == "bash"]
    # `medgym-offline COMMAND ...` stands for any command.
    written += [" ".join(code.split()) for code in re.findall(r"`(medgym-offline [a-z][^`]*)`", text)]
    for words in _commands("\n".join(written)):
        command, rest = get_command(app), words
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        asked = {word.partition("=")[0] for word in rest if word.startswith("-") and not word[1:2].isdigit()}
        assert asked <= known, (page.name, words, asked - known)


def test_no_block_escapes_for_its_form():
    """A fence that is indented, or a comment that is no known marker, would silently leave a block out."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^[ \t]*```(?:python|bash)\b", text, re.MULTILINE)
        assert len(fences) == len(list(read_blocks(page))), page
        for comment in re.findall(r"<!-- (.*?) -->\n```(?:python|bash)", text):
            assert re.fullmatch(r"slow|clinical|needs: \w+(?:, slow)?|skip: [^>]+", comment), (page, comment)
