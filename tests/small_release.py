"""A whole release of eight patients under the names of the real one, in a folder of its own.

The commands of the documentation run there as they are written, in seconds. Nothing is put in place of the program: it
is a copy of the package beside a smaller `generation`, `datasets`, `evaluation` and `leaderboard`, exactly as in a
checkout, and the banks and policies are the release's own, cut to their first patients.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from medgym_offline.policies.files import save_policy
from medgym_offline.policies.loading import load_policy
from medgym_offline.simulators import load_simulators

ROOT = Path(__file__).parent.parent
PATIENTS = 8
EPISODES = 4
SIZES = {"train": "--updates 3", "behavior": "--updates 1", "ope": "--updates 5 --episodes 2 --min-ess 1"}
"""What a command is given where its line leaves it out, to be quick."""

_PROGRAM = """#!{python}
import os, sys
sys.path.insert(0, {root!r})
for command, options in {sizes!r}.items():
    if command in sys.argv[1:2]:
        words = options.split()
        for name, value in zip(words[::2], words[1::2]):
            if name not in sys.argv and "--help" not in sys.argv:
                sys.argv += [name, value]
from medgym_offline.cli import main
main()
"""


def environment(root):
    """Variables of a shell in which `medgym-offline` and `python` are those of a release."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDGYM", "MINARI"))}
    path = f"{root / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = {"HOME": str(root / "home"), "PYTHONPATH": str(root), "PATH": path}
    return kept | home | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def build(root):
    """Make the release in an empty folder, which is returned."""
    without_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("medgym_offline", "experiments", "evaluation", "datasets"):
        shutil.copytree(ROOT / folder, root / folder, ignore=without_caches)
    for folder in ("home", "bin", "generation/banks", "generation/behaviors", "leaderboard/submissions"):
        (root / folder).mkdir(parents=True)
    made = root / "generation"
    for recipe in (ROOT / "generation").glob("*.toml"):
        shutil.copy(recipe, made)
    for file in (ROOT / "generation" / "banks").glob("*.safetensors"):
        bank = load_simulators(file)
        bank.select(range(min(PATIENTS, len(bank)))).save(made / "banks" / file.name)
    for file in (ROOT / "generation" / "behaviors").glob("*.safetensors"):
        policy = load_policy(file)
        shared = policy.patients is None
        save_policy(policy if shared else policy.select(policy.patients[:PATIENTS]), made / "behaviors" / file.name)
    for manifest in (root / "datasets").glob("*.manifest.json"):
        manifest.unlink()  # they speak of the full release
    core = root / "datasets" / "core.toml"
    text = re.sub(r"^episodes = .*$", f"episodes = {EPISODES}", core.read_text("utf-8"), flags=re.MULTILINE)
    core.write_text(text, encoding="utf-8")
    for file in (root / "evaluation").glob("protocol-*.json"):
        protocol = json.loads(file.read_text("utf-8")) | {"episodes": 2}
        file.write_text(json.dumps(protocol), encoding="utf-8")
    program = root / "bin" / "medgym-offline"
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(root), sizes=SIZES), encoding="utf-8")
    program.chmod(0o755)
    return root
