"""What a release consists of, laid out in a folder for whoever has the accounts (docs/release.md).

python docs/release.py dist [--remote hf://ORG] [--datasets ID ...]

*.whl           the package with banks, behaviors, recipes and manifests
hub/            the dataset repository ORG/medgym: rows, cards, manifests, the namespace's card
policies/       the model repository ORG/policies: the behavior policies and the board's, with a card
minari.md, gymnasium.md   entries for the lists of community datasets and of third-party environments
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from medgym_offline import __version__
from medgym_offline.datasets import generate, list_recipes
from medgym_offline.datasets.catalogue import dataset_folder
from medgym_offline.datasets.publishing import layout
from medgym_offline.diseases.registry import disease, list_diseases
from medgym_offline.policies import StackedActor, load_policy

ROOT = Path(__file__).parent.parent


def wheel(target: Path) -> Path:
    """The package as a wheel."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
    subprocess.run(command, check=True)
    return next(iter(sorted(target.glob(f"medgym_offline-{__version__}*.whl"))))


def hub(datasets: Sequence[str], target: Path, remote: str) -> list[Path]:
    """The dataset repository; what is not on this machine is generated."""
    for dataset in datasets:
        if not (dataset_folder(dataset) / "data").is_dir():
            generate(dataset)
    return layout(datasets, target, remote)


def policies(target: Path) -> list[Path]:
    """The policies as files, and the card that says what each is."""
    target.mkdir(parents=True, exist_ok=True)
    lines = ["| file | disease | scope | timing | decisions | treats |", "|-|-|-|-|-:|-|"]
    written = []
    files = [*sorted((ROOT / "generation" / "behaviors").glob("*.safetensors"))]
    files += sorted((ROOT / "leaderboard" / "submissions").glob("*/policies/*"))
    for file in files:
        name = file.name if file.parent.name == "behaviors" else f"{file.parent.parent.name}-{file.name}"
        policy = load_policy(file)
        if not isinstance(policy, StackedActor):
            continue
        who = "every patient" if policy.patients is None else f"{len(policy.patients)} patients"
        lines.append(f"| `{name}` | {policy.disease} | {policy.scope} | {policy.timing} | {policy.decisions} | {who} |")
        written.append(Path(shutil.copyfile(file, target / name)))
    card = target / "README.md"
    card.write_text(
        "---\nlicense: other\ntags:\n- reinforcement-learning\n- medical\n---\n\n# Policies of MedGym Offline\n\n"
        "Policies trained in simulators, for research. None is fit for care. Load one with "
        "`medgym_offline.load_policy(FILE)`, score it with `medgym-offline eval --policy FILE`. Their files hold what "
        "they were trained on.\n\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return [*written, card]


def entries(target: Path, remote: str) -> list[Path]:
    """Texts for the lists that other projects keep."""
    shown = [one for one in map(disease, list_diseases()) if one.name != "toy"]
    environments = ", ".join(f"`medgym/{one.name.capitalize()}-v0`" for one in shown)
    datasets = "\n".join(f"| `{recipe.id}` | {recipe.description} |" for recipe in list_recipes().values())
    minari, gymnasium = target / "minari.md", target / "gymnasium.md"
    minari.write_text(
        "# MedGym\n\nOffline reinforcement learning for treatment in continuous time: sepsis, type 1 diabetes and "
        f"general anesthesia. `MINARI_REMOTE={remote} minari download ID`.\n\n| id | what it is |\n|-|-|\n{datasets}\n",
        encoding="utf-8",
    )
    gymnasium.write_text(
        "- [MedGym Offline](https://pypi.org/project/medgym-offline/): treatment of simulated patients in continuous "
        f"time; the policy chooses doses and when to decide again ({environments}; single and vector environments, "
        "offline datasets in Minari's format).\n",
        encoding="utf-8",
    )
    return [minari, gymnasium]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--remote", default="hf://medgym")
    parser.add_argument("--datasets", nargs="*", default=None, help="default: all of the release")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = list(list_recipes()) if options.datasets is None else options.datasets
    made = [wheel(options.output), *hub(wanted, options.output / "hub", options.remote)]
    made += [*policies(options.output / "policies"), *entries(options.output, options.remote)]
    print(f"wrote {len(made)} files, {sum(path.stat().st_size for path in made) / 1e6:.1f} MB, to {options.output}")
