"""What makes the twin's patients differ in the simulators that are fitted to them? Seven twins, each built and judged.

    python benchmarks/twin_variants.py [VARIANT ...]        # about four minutes each on one core

A variant changes the recipe of `sepsis-twin-v0` as it was first drawn, spread 1: the fit is looser or stricter, or the
true patients differ more, as in the shipped recipe.
Judged by the solver, so no solution map is trained. Columns: how much better each patient's best constant treatment is
than the cohort's (the audit wants 10 % in `own`); NMSE of new trajectories of the truth; R2 of displacements under
random treatment; the spread between stays of the records in shares of the real cohort's. Writes
benchmarks/results/twin_variants.json, keeping the variants that are there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.twin_records import REAL, summarize
from medgym_offline.diseases.sepsis.field import Physics
from medgym_offline.diseases.sepsis.twin_bank import build_twin, twin_cohort
from medgym_offline.files import release_folder, write_json
from medgym_offline.simulators.build import BankRecipe, read_recipe
from medgym_offline.simulators.checks import constant_policies

RESULTS = Path(__file__).parent / "results" / "twin_variants.json"


def variants() -> dict[str, BankRecipe]:
    """The recipes, by name."""
    shipped = read_recipe(release_folder("generation") / "sepsis-twin-v0.toml")
    base = replace(shipped, spread=1.0, distill=replace(shipped.distill, steps=10))

    def pooled(hours: float, pooling: float) -> BankRecipe:
        return replace(base, prior=replace(base.prior, hours=hours), fit=replace(base.fit, pooling=pooling))

    levelling = replace(base.physics, growing_overload=False, overload=Physics().overload)
    return {
        "first draw": base,
        "prior of needs 25 h": pooled(25.0, base.fit.pooling),
        "pull 0.01": pooled(base.prior.hours, 0.01),
        "prior of needs 40 h, pull 0.01": pooled(40.0, 0.01),
        "prior of needs 100 h": pooled(100.0, base.fit.pooling),
        "overload that levels off": replace(base, physics=levelling),
        "as shipped, patients 1.2 times as different": replace(base, spread=shipped.spread),
    }


def judge(recipe: BankRecipe) -> dict[str, Any]:
    """Build a twin and score it."""
    bank = build_twin(recipe, scratch=False, show=False).with_backend("ode")
    truth = bank.metadata["truth"]
    real = json.loads(REAL.read_text(encoding="utf-8"))["variables"]
    twin = summarize(twin_cohort(recipe.patients, recipe.seed, recipe.spread)[0])["variables"]
    return {
        "gain": {world: constant_policies(bank.world(world))["gain"] for world in bank.worlds},
        "nmse": {model: truth[model]["nmse"]["mean"] for model in ("ind", "pop")},
        "r2_random": {
            model: {hours: r2["all"] for hours, r2 in truth[model]["r2"]["random"].items()} for model in ("ind", "pop")
        },
        "between_stays": {name: twin[name]["between"] / real[name]["between"] for name in real},
    }


def main() -> None:
    """Judge the variants named (default: all) and print what the file then holds."""
    parser, known = argparse.ArgumentParser(description=__doc__), variants()
    parser.add_argument("names", nargs="*", choices=[*known, []], metavar="VARIANT", help=", ".join(known))
    names = parser.parse_args().names or known
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text("utf-8"))["variants"] if RESULTS.is_file() else {}
    for name in names:
        found[name] = judge(known[name])
        print(name, json.dumps(found[name]), sep="\t", flush=True)
        kept = {name: found[name] for name in known if name in found}
        write_json(RESULTS, {"command": "python benchmarks/twin_variants.py", "variants": kept})


if __name__ == "__main__":
    main()
