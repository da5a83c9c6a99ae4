"""Folders import in one direction, and no module imports itself through others."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import medgym_offline

PACKAGE = Path(medgym_offline.__file__).parent
ORDER = (
    "(top)", "engine", "reports", "diseases", "cohorts", "simulators", "envs", "policies", "online", "datasets",
    "people", "offline", "third_party", "evaluation", "leaderboard", "a disease", "commands",
)  # fmt: skip
"""A module imports from folders before its own."""

ABOVE = {"cli", "__main__"}
"""Modules at the top of the package that use all of it."""

MODULES = {
    ".".join(("medgym_offline", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def _folder(module):
    parts = module.split(".")[1:]
    if not parts or (len(parts) == 1 and parts[0] not in ORDER):
        return "commands" if parts and parts[0] in ABOVE else "(top)"
    if parts[0] == "diseases" and len(parts) > 1 and (PACKAGE / "diseases" / parts[1]).is_dir():
        return "a disease"
    return parts[0]


def _nodes(node, lazy):
    """Everything below a node, types apart; with `lazy` the insides of functions too."""
    for child in ast.iter_child_nodes(node):
        types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not types and (lazy or not isinstance(child, ast.FunctionDef)):
            yield child
            yield from _nodes(child, lazy)


def _imports(module, lazy):
    """Modules of the package that one imports."""
    for node in _nodes(ast.parse(MODULES[module].read_text(encoding="utf-8")), lazy):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medgym_offline"):
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES)


def test_folders_import_in_one_direction():
    wrong = []
    for module in MODULES:
        own = _folder(module)
        for other in _imports(module, lazy=False):
            if ORDER.index(_folder(other)) > ORDER.index(own):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_there_are_no_circles():
    """Not even through imports inside functions, of modules (a package's `__init__` offers names and is left out)."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {m: {o for o in _imports(m, lazy=True) if o not in packages} - {m} for m in MODULES if m not in packages}
    TopologicalSorter(graph).prepare()  # a CycleError names the modules
