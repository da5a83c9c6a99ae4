"""The card of a dataset made from clinical records."""

from __future__ import annotations

from typing import Any

from medgym_offline.diseases.registry import disease

__all__ = ["records_card"]

_REWARDS = {
    "death": "-1 in the last row of a stay whose patient died in hospital, then or later, else 0",
    "integral": "-0.1 x the integral over the decision of severity and burden, from charted values",
}


def _calibration(facts: dict[str, Any]) -> str:
    found = facts["calibration"]
    lines = ["| action | 50 % interval | 80 % | 95 % | deciles of its integral transform, % |", "|---|---|---|---|---|"]
    for name, covered in found["coverage"].items():
        shares = " | ".join(f"{100 * share:.0f} %" for share in covered.values())
        deciles = " ".join(f"{100 * share:.0f}" for share in found["pit_deciles"][name])
        lines.append(f"| {name} | {shares} | {deciles} |")
    return "\n".join(lines)


def records_card(manifest: dict[str, Any], head: str, columns: str) -> str:
    """Markdown with Hub front matter.

    Args:
        manifest: Of a dataset made from records.
        head, columns: Front matter, and the table of columns.
    """
    recipe, facts, steps = manifest["recipe"], manifest["records"], manifest["episode_steps"]
    of = disease(manifest["disease"])
    rule, unit, found = facts["rule"], of.process.unit, facts["calibration"]
    name, actions = manifest["id"], manifest["steps"]
    clipped = ", ".join(f"{drug} {count}" for drug, count in facts["clipped"].items())
    rejections = "\n".join(f"- {line}" for line in facts["rejections"]) or "- nothing"
    return f"""{head}
# {name}

{recipe["description"]}.

**Rows are records of real people, de-identified.** They stay under the license of the records: {facts["license"]}. No
file of them is shipped: `medgym-offline generate {name}` makes them where `MEDGYM_CLINICAL_DATA` names the folder of
{", ".join(recipe["records"])}. Nothing learned from them is fit for care.

```python
import medgym_offline as mgo
data = mgo.load_dataset("{name}")  # flat NumPy arrays, one row per decision
```

## What is in it

| | |
|---|---|
| stays, persons | {facts["stays"]}, {facts["persons"]}; a patient here is a person, an episode a stay |
| died in hospital | {facts["died"]} stays |
| decisions | {actions:,}; per stay {steps["min"]} to {steps["max"]}, mean {steps["mean"]:.1f} |
| budget | K = {recipe["decisions"]}, to which the clock of remaining decisions is relative |
| reward | {_REWARDS[recipe["reward"]]} |
| identity | `{manifest["identity"]}`, of recipe, cohort table and generator |

All eligible stays by the cohort's rule, not the best covered ones. An episode terminates at death, discharge or
{rule["horizon"]:g} {unit}.

## A decision

A change of any treatment's rate in force by more than {100 * rule["tolerance"]:g} % of the larger rate, at least
{rule["apart"]:g} {unit} after the decision before it (sooner changes belong to that one), or the decision to go on,
{rule["longest"]:g} {unit} after it. The last action asks for the interval. Doses are means over the interval, mapped by
the scales of bank `{manifest["bank"]["name"]}`; larger ones are clipped (decisions: {clipped}).

Seen are the last charted values whose results were in (delays: the view's), their ages and masks, and what derives from
what was charted until then. Severity, {of.cost.component} and costs are read from charted values, each held until the
next; what was never charted counts as the least severe end of its usual range.

## Probability of the actions

Nobody knows it. `behavior_log_prob` is **estimated**: a stochastic clone of the clinicians, given the observation and
the doses before, cross-fitted by person. Held-out log-likelihood a decision: {found["log_likelihood"]:.2f} (of a clone
that sees nothing: {found["log_likelihood_marginal"]:.2f}). How often central intervals cover, held out:

{_calibration(facts)}

## Columns

{columns}

## Limitations

- Confounded: clinicians saw and knew more than is charted, and treat the sicker more. No estimate from these rows is
  the effect of a policy on patients.
- Few stays, in which the practice of years, and of hospitals where there are several, is mixed.
- {of.caution}
- Rows of the records turned away, repaired or doubted:

{rejections}
"""
