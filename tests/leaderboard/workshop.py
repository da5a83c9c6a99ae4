"""A small bank, a dataset made from it, and policies: what the tests of the command line and the leaderboard use."""

import contextlib
import hashlib
import io
import json
from collections import namedtuple
from pathlib import Path

import pytest

from medgym_offline.cli import main
from medgym_offline.config import check, to_values
from medgym_offline.leaderboard.entry import Entry, entry_id
from tests.helpers import mapped_bank, write_recipe

DATASET = "medgym/workshop-v0"
PATIENTS = 3

Run = namedtuple("Run", ("code", "out", "err"))
"""A command's exit code and what it printed."""


def run(*argv):
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    code = ended.value.code
    return Run(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def refused(*argv):
    """Run a command that must fail with exit code 1 and one line; returns the line."""
    done = run(*argv)
    assert done.code == 1, (done.code, done.out, done.err)
    # On a slow machine, progress lines may stand before it.
    *before, line = [line for line in done.err.splitlines() if line]
    assert line.startswith("error: ")
    assert not any(other.startswith(("error", "Traceback")) for other in before)
    return line


class Workshop:
    """Paths of what was built once for the session."""

    def __init__(self, root):
        self.root, self.bank = root, root / "bank.safetensors"

    def open(self, patch):
        """Make its datasets those of this process."""
        patch.setenv("MINARI_DATASETS_PATH", str(self.root / "minari"))
        patch.setenv("MEDGYM_CACHE", str(self.root / "cache"))

    def policy(self, seed=0, scope="ind"):
        return self.root / f"dqn-{scope}" / f"dqn-{scope}-seed{seed}.safetensors"

    def result(self, seed=0):
        return self.root / f"result{seed}"

    def evaluate(self, *extra):
        """Arguments of a quick `eval` in the workshop's bank."""
        return ("eval", "--bank", self.bank, "--episodes", "2", *extra)

    def score(self, policy, output, **options):
        """A quick evaluation on the workshop's dataset and bank, kept as `eval --output` keeps it."""
        from medgym_offline.commands.judge import keep
        from medgym_offline.evaluation import evaluate

        settings = {"bank": self.bank, "episodes": 2, "dataset": DATASET, "worlds": ("own", "crossfit"), **options}
        Path(output).mkdir(parents=True, exist_ok=True)
        keep(evaluate(str(policy), **settings), str(policy), Path(output))
        return Path(output)


def build(root):
    """Bank, dataset, two DQN seeds (Ind), one Pop, and the results of the two."""
    shop = Workshop(root)
    mapped_bank(PATIENTS).save(shop.bank)
    fields = {"id": DATASET, "description": "Random.", "bank": "bank.safetensors", "behavior": "random"}
    recipe = write_recipe(root / "recipe.toml", **fields, episodes=4)
    train = ("train", "dqn", "--dataset", DATASET, "--updates", "5")
    both = (
        (*train, "--seeds", "2", "--output", root / "dqn-ind"),
        (*train, "--scope", "pop", "--output", root / "dqn-pop"),
    )
    with pytest.MonkeyPatch.context() as patch:
        shop.open(patch)
        for step in (("generate", recipe), *both):
            done = run(*step)
            assert done.code == 0, (step, done.err)
        for seed in (0, 1):
            shop.score(shop.policy(seed), shop.result(seed))
    return shop


def change(folder, edit):
    """Edit a submission's `entry.json` in place."""
    path = folder / "entry.json"
    entry = json.loads(path.read_text())
    edit(entry)
    path.write_text(json.dumps(entry))


def variant(entry, name, scores=None, settings=(), **changes):
    """An entry under another name, with other policies and settings; with `scores` (runs, patients) in every world."""
    values = to_values(entry)
    if scores is not None:
        values["patients"] = [f"p{n}" for n in range(scores.shape[1])]
        run = values["runs"][0]
        values["runs"] = [{w: run[w] | {"severity_mean": float(row.mean())} for w in run} for row in scores]
        for world, metrics in values["metrics"].items():
            metrics["severity_mean"] = float(scores.mean())
            values["per_patient"][world] = {"severity_mean": scores.tolist()}
    values["protocol"]["settings"] |= settings
    digests = [hashlib.sha256(f"{name} {n}".encode()).hexdigest() for n in range(len(values["runs"]))]
    policies = [values["policies"][0] | {"sha256": digest} for digest in digests]
    values |= {"name": name, "seeds": [None] * len(digests), "policies": policies, **changes}
    kind = (values[field] for field in ("scope", "timing", "decisions"))
    return check(Entry, values | {"id": entry_id(name, values["dataset"]["id"], *kind)}, "variant")
