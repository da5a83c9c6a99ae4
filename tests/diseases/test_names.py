"""No name of one disease is written outside its folder, and every disease says enough of itself."""

import ast
import io
import re
import tokenize
from pathlib import Path

import medgym_offline
from medgym_offline.diseases import disease

PACKAGE = Path(medgym_offline.__file__).parent
FOLDER = PACKAGE / "diseases" / "sepsis"

ALLOWED = {
    "__init__.py": {"sepsis"},  # the re-export mgo.sepsis
    "diseases/__init__.py": {"sepsis"},
    "diseases/registry.py": {"sepsis"},  # the default disease, in one constant
    # Examples in help.
    "commands/behavior.py": {"sepsis"},
    "commands/clinical.py": {"sepsis"},
    "commands/data.py": {"sepsis"},
}
"""File -> words it may have."""

# Names that other things have too: `map` and `fluids` are words of the language, `low` of every range.
_ORDINARY = {"shock"}


def _forbidden():
    sepsis = disease("sepsis")
    names = {*sepsis.state_names, *sepsis.treatment_names, sepsis.severity.name, *sepsis.severity.parts, "sepsis"}
    names |= {metric.name for metric in sepsis.metrics}
    definition = sepsis.cohort()
    names |= {*definition.concepts, *definition.readable}
    return {name.lower() for name in names} - _ORDINARY


def _words(path):
    """Identifiers and strings of a module but its docstrings, as (line, word)."""
    text, documented = path.read_text(encoding="utf-8"), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return {
        (token.start[0], word)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type != tokenize.COMMENT and token.start[0] not in documented
        for word in re.findall(r"[a-z0-9_]+", token.string.lower())
    }


def test_the_generic_code_names_no_component_treatment_or_score_of_sepsis():
    forbidden, faults = _forbidden(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        if FOLDER in path.parents or any(p.parent.name == "diseases" for p in [path.parent] if p.name != "diseases"):
            continue
        name = str(path.relative_to(PACKAGE))
        for line, word in sorted(_words(path)):
            parts = {word, *word.split("_")}
            if hits := (parts & forbidden) - ALLOWED.get(name, set()):
                faults.append(f"{name}:{line}: {', '.join(sorted(hits))}")
    assert not faults, f"{len(faults)} names of sepsis outside its folder:\n" + "\n".join(faults[:60])
