"""What the front page shows and a command can make again: the table of datasets and the figure.

python docs/front.py            # both: after a change of banks, behaviors or manifests
python docs/front.py --table    # the table alone, from the manifests

The table stands in README.md between two comments; a test compares it with the manifests.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NamedTuple

from medgym_offline.datasets.catalogue import released_datasets
from medgym_offline.files import write_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
FIGURE = ROOT / "docs" / "assets" / "front.svg"
BLOCK = re.compile(r"(<!-- short table of datasets: python docs/front.py -->\n).*?(<!-- end -->)", re.DOTALL)
THEMES = ("light", "dark")
EPISODES = 10
POLICIES = {
    "behavior": "each patient's own",
    "behavior:pop": "one for all",
    "clinician": "clinicians",
    "zero": "no treatment",
}


class Row(NamedTuple):
    """What is shown of a disease: one patient's course, and all patients' mean severity in every world.

    Attributes:
        bank: Of the course; the patient is the one in the middle of what individual policies gain in its world.
        worlds_bank: Of the means.
        shown: Component of the course; "": the severity.
        courses, means: Titles.
        labels: Of the axes of both.
        step: Hours between ticks of the clock.
        top: Of the course's axis, beyond which a curve leaves the figure; None: whatever is reached.
        band: Range that is aimed at, or none.
        scale: Of the means' axis.
    """

    bank: str
    worlds_bank: str
    shown: str
    courses: str
    means: str
    labels: tuple[str, str]
    step: int
    top: float | None = None
    band: tuple[float, float] | None = None
    scale: str = "linear"


ROWS = (
    Row(
        "sepsis-v0",
        "sepsis-twin-v0",
        "",
        "Sepsis: one patient's simulator; dots are decisions",
        "110 twins whose truth is known",
        ("surrogate SOFA", "mean surrogate SOFA"),
        24,
    ),
    Row(
        "diabetes-v0",
        "diabetes-v0",
        "glucose",
        "Type 1 diabetes: one published patient",
        "30 patients of a published model",
        ("glucose, mg/dL", "mean risk of glucose"),
        6,
        400.0,
        (70.0, 180.0),
        "log",
    ),
)


def short_table() -> str:
    """A line for each main dataset of the release (adaptive): what a learner could gain."""
    lines = ["| id | behavior | best | headroom |", "|-|" + "-:|" * 3]
    for info in released_datasets():
        returns = info.reference_returns
        main = re.search(r"(?<!twin)-(ind|medium|mixed|clinician)-v\d+$", info.id) is not None
        if not main or info.episodes is None or not {"behavior", "expert"} <= returns.keys():
            continue
        made, best = returns["behavior"], returns["expert"]
        lines.append(f"| `{info.id}` | {made:.2f} | {best:.2f} | {best - made:.2f} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """A page with its table of datasets as the manifests have it now."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{short_table()}\n\n{match[2]}", text)


def course(row: Row, patient: str, policy: str) -> tuple[Any, Any, Any]:
    """One episode of one patient: hours, what the row shows there, and the hours at which decisions were taken."""
    import torch

    from medgym_offline.envs import DecisionProcess, ProcessConfig, dense, draw_noise, episode_seeds
    from medgym_offline.envs.rollout import rollout
    from medgym_offline.evaluation.binding import resolve_policy
    from medgym_offline.simulators import load_simulators

    bank = load_simulators(row.bank).select([patient])
    disease = bank.disease
    bank = bank.world(disease.world if disease.world in bank.worlds else bank.current_world)
    bound = resolve_policy(policy, bank, None, None, disease.process.decisions)
    config = ProcessConfig(timing=bound.timing, decisions=bound.decisions, disease=disease.name)
    process = DecisionProcess(bank, config)
    seeds = episode_seeds(0, "front page", bank.patients, 1)
    noise = draw_noise(seeds, bank, process.config)
    episode = rollout(process, bound.act_on(bank.patients, seeds), noise)
    hours = torch.linspace(0.0, config.horizon, round(config.horizon / disease.process.grid) + 1)
    states, treatments = dense(process, episode, hours)
    if row.shown:
        value = bank.denormalize(states)[..., disease.state_names.index(row.shown)]
    else:
        value = process.severity(states, treatments)
    begun = (episode.dt.cumsum(-1) - episode.dt)[0, 0][episode.valid[0, 0]]
    return hours.numpy(), value.double()[0, 0].numpy(), begun.numpy()


def scores(bank: str) -> dict[str, Any]:
    """Every policy of the figure, evaluated in every world of a bank."""
    from medgym_offline import evaluate

    return {name: evaluate(name, bank=bank, episodes=EPISODES, progress=True) for name in POLICIES}


def typical_patient(found: dict[str, Any], world: str) -> str:
    """The patient in the middle of what individual policies gain over the clinicians' doses."""
    clinicians, own = (found[name].worlds[world].per_patient for name in ("clinician", "behavior"))
    gain = clinicians["severity_mean"] - own["severity_mean"]
    return str(own["patient"][gain.argsort()[len(gain) // 2]])


def figure() -> str:
    """The figure as an SVG file: for each disease a course, and how policies fare when they leave their simulators."""
    import numpy as np

    from medgym_offline.reports.figures import COLORS, INK, LINE, MUTED, SERIES, draw_figure
    from medgym_offline.simulators import load_simulators

    colors = dict(zip(POLICIES, (SERIES[0], SERIES[1], INK, MUTED)))
    courses, means = [], []
    for row in ROWS:
        found = scores(row.worlds_bank)
        means.append(found)
        disease = load_simulators(row.bank).disease
        first = found if row.bank == row.worlds_bank else scores(row.bank)
        shown = next(world for world in (disease.world, "own") if world in first["behavior"].worlds)
        patient = typical_patient(first, shown)
        courses.append({name: course(row, patient, name) for name in ("zero", "clinician", "behavior")})

    def draw(canvas: Any) -> None:
        grid = canvas.subplots(len(ROWS), 2, width_ratios=(1.25, 1))
        for row, (left, right), curves, found in zip(ROWS, grid, courses, means):
            if row.band is not None:
                left.axhspan(*row.band, color=LINE, alpha=0.5, lw=0)
            for name, (hours, value, begun) in curves.items():
                left.plot(hours, value, color=colors[name], lw=1.6, label=POLICIES[name])
                left.plot(begun, np.interp(begun, hours, value), "o", color=colors[name], ms=3.5)
            end = hours[-1]
            left.set(xlabel="hour", ylabel=row.labels[0], xlim=(0, end), ylim=(0, row.top))
            left.set_xticks(np.arange(0, end + 1, row.step))
            left.set_title(row.courses, color=INK, fontsize=10.5, loc="left")
            worlds = list(next(iter(found.values())).worlds)
            for name, evaluation in found.items():
                mean = [evaluation.worlds[world].metrics["severity_mean"] for world in worlds]
                right.plot(range(len(worlds)), mean, "-o", color=colors[name], lw=1.6, ms=5, label=POLICIES[name])
            names = {"own": "own\nsimulator", "crossfit": "crossfit\nsimulator", "true": "true\npatient"}
            right.set_yscale(row.scale)
            right.set_xticks(range(len(worlds)), [names[world] for world in worlds])
            if row.scale == "log":
                right.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
                right.minorticks_off()
            right.set(xlim=(-0.25, len(worlds) - 0.75), ylabel=row.labels[1])
            right.set_title(row.means, color=INK, fontsize=10.5, loc="left")
            for axis in (left, right):
                axis.grid(axis="y", color=LINE)
        handles, labels = grid[0][1].get_legend_handles_labels()
        canvas.legend(
            handles, labels, loc="outside lower center", ncols=4, frameon=False, title="treated by the policy:"
        )

    svg = draw_figure("front", draw, "", (9.0, 6.6)).svg
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in range(len(THEMES)))
    rules = f"svg{{{light}}} @media (prefers-color-scheme: dark){{svg{{{dark}}}}}"
    style = f"<style>{rules} text{{font-family:system-ui,'Segoe UI',sans-serif}}</style>"
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    opening = head[0].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    paper = '<rect width="100%" height="100%" fill="var(--page)"/>'
    return f"{opening}\n{style}\n{paper}\n{svg[head.end() :]}\n"


def main() -> None:
    """Write the table, and the figure unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only the table")
    only_table = parser.parse_args().table
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8")))
    if not only_table:
        write_text(FIGURE, figure())


if __name__ == "__main__":
    main()
