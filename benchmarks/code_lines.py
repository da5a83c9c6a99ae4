"""Code lines per folder: without blanks, comments and docstrings; templates count whole.

python benchmarks/code_lines.py [FOLDER ...]
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

SKIPPED = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def code_lines(path: Path) -> int:
    """Lines of a module that hold code, or of a template that hold anything."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return sum(bool(line.strip()) for line in text.splitlines())
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else []:
            text_alone = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
            if text_alone and isinstance(item.value.value, str):
                documented |= set(range(item.lineno, (item.end_lineno or item.lineno) + 1))
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used - documented)


def folder_lines(folder: Path) -> int:
    """Code lines of a folder and those below it."""
    return sum(code_lines(p) for p in folder.rglob("*") if p.suffix in (".py", ".j2", ".js", ".css", ".html"))


def main() -> None:
    """A line per folder given, or per part of the project."""
    root = Path(__file__).parent.parent
    package = root / "medgym_offline"
    parts = [p for p in sorted(package.iterdir()) if p.is_dir() and p.name != "__pycache__"]
    parts += [p for p in sorted((package / "diseases").iterdir()) if p.is_dir() and p.name != "__pycache__"]
    parts += [package, *(root / name for name in ("experiments", "benchmarks", "examples", "tests"))]
    for folder in [Path(a) for a in sys.argv[1:]] or parts:
        print(f"{folder_lines(folder):7,}  {folder if sys.argv[1:] else folder.relative_to(root)}")


if __name__ == "__main__":
    main()
