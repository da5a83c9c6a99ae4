"""What the front page shows and a command can make again: the table of datasets and the figure.

python docs/front.py            # both: after a change of banks, behaviors or manifests
python docs/front.py --table    # the table alone, from the manifests

The table stands in docs/datasets.md, and a short one in README.md, between two comments; a test compares them with the
manifests.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from medgym_offline.datasets import listing_table, released_datasets
from medgym_offline.files import write_text

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "datasets.md")
FIGURE = ROOT / "docs" / "assets" / "front.svg"
BLOCK = re.compile(r"(<!-- (short table|table) of datasets: python docs/front.py -->\n).*?(<!-- end -->)", re.DOTALL)
THEMES = ("light", "dark")
BANK, TWIN, EPISODES = "sepsis-v0", "sepsis-twin-v0", 10
POLICIES = {
    "behavior": "each patient's own",
    "behavior:pop": "one for all",
    "clinician": "clinicians",
    "zero": "no treatment",
}


def short_table() -> str:
    """A line for each main dataset of the release (adaptive, neither mixed nor early): what a learner could gain."""
    lines = ["| id | behavior | best | headroom |", "|-|" + "-:|" * 3]
    for info in released_datasets():
        returns = info.reference_returns
        main = re.search(r"-(ind|pop|clinician)-v\d+$", info.id) is not None
        if not main or info.episodes is None or not {"behavior", "expert"} <= returns.keys():
            continue
        made, best = returns["behavior"], returns["expert"]
        lines.append(f"| `{info.id}` | {made:.2f} | {best:.2f} | {best - made:.2f} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """A page with its table of datasets as the manifests have it now."""
    tables = {"short table": short_table, "table": lambda: listing_table(released_datasets())}
    return BLOCK.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}", text)


def course(patient: str, policy: str) -> tuple[Any, Any, Any]:
    """One episode of one patient: hours, surrogate SOFA there, and the hours at which decisions were taken."""
    import torch

    from medgym_offline.envs import DecisionProcess, ProcessConfig, dense, draw_noise, episode_seeds
    from medgym_offline.envs.rollout import rollout
    from medgym_offline.evaluation.binding import resolve_policy
    from medgym_offline.simulators import load_simulators

    bank = load_simulators(BANK).select([patient])
    bound = resolve_policy(policy, bank, None, None, 20)
    process = DecisionProcess(bank, ProcessConfig(timing=bound.timing, decisions=bound.decisions))
    seeds = episode_seeds(0, "front page", bank.patients, 1)
    noise = draw_noise(seeds, bank, process.config)
    episode = rollout(process, bound.act_on(bank.patients, seeds), noise)
    hours = torch.arange(0.0, 96.01, 0.25)
    severity = process.severity(*dense(process, episode, hours)).double()
    begun = (episode.dt.cumsum(-1) - episode.dt)[0, 0][episode.valid[0, 0]]
    return hours.numpy(), severity[0, 0].numpy(), begun.numpy()


def scores(bank: str) -> dict[str, Any]:
    """Every policy of the figure, evaluated in every world of a bank."""
    from medgym_offline import evaluate

    return {name: evaluate(name, bank=bank, episodes=EPISODES, progress=True) for name in POLICIES}


def typical_patient(found: dict[str, Any]) -> str:
    """The patient in the middle of what individual policies gain over the clinicians' doses."""
    gain = found["clinician"].per_patient["severity_mean"] - found["behavior"].per_patient["severity_mean"]
    return str(found["behavior"].per_patient["patient"][gain.argsort()[len(gain) // 2]])


def figure() -> str:
    """The figure as an SVG file: a course, and how policies fare when they leave their simulators."""
    import numpy as np

    from medgym_offline.reports import COLORS, INK, LINE, MUTED, SERIES, draw_figure

    colors = dict(zip(POLICIES, (SERIES[0], SERIES[1], INK, MUTED)))
    patient = typical_patient(scores(BANK))
    courses = {name: course(patient, name) for name in ("zero", "clinician", "behavior")}
    twin = scores(TWIN)
    worlds = list(next(iter(twin.values())).worlds)

    def draw(canvas: Any) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(1.25, 1))
        for name, (hours, sofa, begun) in courses.items():
            left.plot(hours, sofa, color=colors[name], lw=1.6, label=POLICIES[name])
            left.plot(begun, np.interp(begun, hours, sofa), "o", color=colors[name], ms=3.5)
        left.set(xlabel="hour", ylabel="surrogate SOFA", xlim=(0, 96), ylim=(0, None), xticks=range(0, 97, 24))
        left.set_title("One patient's simulator; dots are decisions", color=INK, fontsize=10.5, loc="left")
        for name, evaluation in twin.items():
            means = [evaluation.worlds[world].metrics["severity_mean"] for world in worlds]
            right.plot(range(len(worlds)), means, "-o", color=colors[name], lw=1.6, ms=5, label=POLICIES[name])
        right.set_xticks(range(len(worlds)), ["own\nsimulator", "crossfit\nsimulator", "true\npatient"][: len(worlds)])
        right.set(xlim=(-0.25, len(worlds) - 0.75), ylabel="mean surrogate SOFA")
        right.set_title("110 twins whose truth is known", color=INK, fontsize=10.5, loc="left")
        for axis in (left, right):
            axis.grid(axis="y", color=LINE)
        handles, labels = right.get_legend_handles_labels()
        canvas.legend(
            handles, labels, loc="outside lower center", ncols=4, frameon=False, title="treated by the policy:"
        )

    svg = draw_figure("front", draw, "", (9.0, 3.6)).svg
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in range(len(THEMES)))
    rules = f"svg{{{light}}} @media (prefers-color-scheme: dark){{svg{{{dark}}}}}"
    style = f"<style>{rules} text{{font-family:system-ui,'Segoe UI',sans-serif}}</style>"
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    opening = head[0].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    paper = '<rect width="100%" height="100%" fill="var(--page)"/>'
    return f"{opening}\n{style}\n{paper}\n{svg[head.end() :]}\n"


def main() -> None:
    """Write the pages, and the figure unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only the table")
    only_table = parser.parse_args().table
    for page in PAGES:
        write_text(page, with_table(page.read_text(encoding="utf-8")))
    if not only_table:
        write_text(FIGURE, figure())


if __name__ == "__main__":
    main()
