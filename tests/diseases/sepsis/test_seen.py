"""The view's measurements come as often as those of the cohort that its numbers are estimated from, here."""

from __future__ import annotations

import numpy as np
import polars as pl

from medgym_offline.cohorts import combine, read_source, select_stays
from medgym_offline.diseases.sepsis import VIEWS
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.envs import ProcessConfig
from medgym_offline.envs.views import Lens

HORIZON = 96.0


def _deviation(values):
    """SD of normal values from their quartiles: logarithms of gaps have heavier tails."""
    low, high = np.percentile(values, (25, 75))
    return (high - low) / 1.349


def rhythm(times, hours, stays):
    """gap, spread, between and never of a `Channel` from the times (ascending, h) in the stays that have any."""
    logs = [np.log(np.diff(t)) for t in times if len(t) > 2]
    spread = _deviation(np.concatenate([row - row.mean() for row in logs]))
    rate = np.log(np.array([len(t) for t in times]) / np.array(hours))
    # A median: gaps whose logarithm is normal have a mean above it.
    gap = np.exp(-np.median(rate) - spread**2 / 2)
    return gap, spread, _deviation(rate), 1.0 - len(times) / stays


def given(channel):
    return channel.gap, channel.spread, channel.between, channel.never


def test_what_is_estimated_from_the_view_is_what_it_was_given():
    lens = Lens(ProcessConfig(disease="sepsis", view="charted"))
    tables = [lens.draw(seed) for seed in range(400)]
    timed = [(channel, slots) for channel, slots in zip(lens.view.channels, lens._slots) if channel.gap is not None]
    assert len(timed) == 5
    for channel, slots in timed:
        times = [t[slots, 0][np.isfinite(t[slots, 1]) & (t[slots, 0] <= HORIZON)] for t in tables]
        times = [np.unique(row) for row in times if len(row)]
        # Who is measured so rarely that nothing falls into the window counts as never; long gaps are cut off by it.
        slack = 0.25 * channel.gap, 0.15, 0.15, 0.06
        off = np.abs(np.subtract(rhythm(times, [HORIZON] * len(times), len(tables)), given(channel)))
        assert (off < slack).all(), channel.component


def test_the_numbers_are_those_of_the_cohort(clinical_data):
    """On the same stays that made the release's bank."""
    folders = [clinical_data / f"mimic-{name}" for name in ("iii-demo-1.4", "iv-demo-2.2")]
    cohort = select_stays(combine([read_source(folder, COHORT) for folder in folders]), patients=110)
    hours = dict(cohort.stays.select("patient", pl.col("los_h").clip(upper_bound=HORIZON)).iter_rows())
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, HORIZON))
    for channel in VIEWS["charted"].channels:
        if channel.gap is not None:
            mine = window.filter(pl.col("variable") == channel.component)
            stays = mine.group_by("patient", maintain_order=True).agg("time_h")
            times, lengths = [np.unique(row) for row in stays["time_h"]], [hours[p] for p in stays["patient"]]
            off = np.abs(np.subtract(rhythm(times, lengths, len(hours)), given(channel)))
            assert (off < (0.03 * channel.gap, 0.02, 0.03, 0.01)).all(), channel.component
