"""The view's measurements come as often as those of the cohort that its numbers were estimated from."""

from __future__ import annotations

import numpy as np
import pytest

from medgym_offline.cohorts import combine, read_source, select_stays
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.cohort.rhythm import HORIZON, rhythm, rhythm_of
from medgym_offline.diseases.sepsis.seen import VIEWS
from medgym_offline.envs import ProcessConfig
from medgym_offline.envs.views import Lens


def test_what_is_estimated_from_the_view_is_what_it_was_given():
    lens = Lens(ProcessConfig(disease="sepsis", view="charted"))
    tables = [lens.draw(seed) for seed in range(400)]
    at = 0
    for channel, slots in zip(lens.view.channels, lens._slots):
        if channel.gap is None:
            continue
        times = [t[slots, 0][np.isfinite(t[slots, 1]) & (t[slots, 0] <= HORIZON)] for t in tables]
        times = [np.unique(row) for row in times if len(row)]
        found = rhythm_of(times, [HORIZON] * len(times), len(tables))
        # Who is measured so rarely that nothing falls into the window counts as never; long gaps are cut off by it.
        assert found.gap == pytest.approx(channel.gap, rel=0.25), channel.component
        assert found.spread == pytest.approx(channel.spread, abs=0.15), channel.component
        assert found.between == pytest.approx(channel.between, abs=0.15), channel.component
        assert found.never == pytest.approx(channel.never, abs=0.06), channel.component
        at += 1
    assert at == 5


def test_the_numbers_are_those_of_the_cohort(clinical_data):
    """On the same stays that made the release's bank."""
    folders = [clinical_data / f"mimic-{name}" for name in ("iii-demo-1.4", "iv-demo-2.2")]
    found = rhythm(select_stays(combine([read_source(folder, COHORT) for folder in folders]), patients=110))
    for channel in VIEWS["charted"].channels:
        if channel.gap is not None:
            own = found[channel.component]
            assert channel.gap == pytest.approx(own.gap, rel=0.03), channel.component
            assert channel.spread == pytest.approx(own.spread, abs=0.02), channel.component
            assert channel.between == pytest.approx(own.between, abs=0.03), channel.component
            assert channel.never == pytest.approx(own.never, abs=0.01), channel.component
