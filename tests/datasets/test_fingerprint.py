"""A copy is compared with the release: rounding passes, any moved value, lost episode or other making does not."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.datasets import Transitions, generate, verify
from medgym_offline.datasets.transitions import COLUMNS
from medgym_offline.datasets.trust import (
    TOLERANCE,
    Fingerprint,
    compare_rows,
    identity_of,
    made_differently,
    require_release_rows,
)
from medgym_offline.errors import DatasetError
from tests.helpers import refused

VALUES = [name for name in COLUMNS if name not in ("patient", "episode", "terminations", "truncations")]
EPISODES, LENGTH = 60, 7


@pytest.fixture(scope="module")
def many():
    """More episodes than are kept whole, of invented numbers, and their seeds."""
    rng, count = np.random.default_rng(0), EPISODES * LENGTH
    columns = {name: rng.normal(size=count).astype(np.float32) for name in VALUES}
    columns |= {name: rng.normal(size=(count, 9)).astype(np.float32) for name in ("observations", "next_observations")}
    columns |= {name: rng.normal(size=(count, 1)).astype(np.float32) for name in ("costs_path", "costs_peak")}
    columns["actions"] = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    columns["terminations"] = np.arange(count) % LENGTH == LENGTH - 1
    columns |= {"truncations": np.zeros(count, bool), "patient": np.zeros(count, np.int32)}
    columns["episode"] = np.repeat(np.arange(EPISODES), LENGTH).astype(np.int32)
    names = {"patients": ("someone",), "timing": "adaptive", "decisions": LENGTH}
    return Transitions(**columns, **names, dataset_id="medgym/invented-v0"), rng.integers(0, 2**62, EPISODES)


def moved(rows, name, row, column, by):
    array = np.array(getattr(rows, name))
    if array.ndim == 2:
        array[row, column % array.shape[1]] += np.float32(by)
    else:
        array[row] += np.float32(by)
    return dataclasses.replace(rows, **{name: array})


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(VALUES),
    row=st.integers(0, EPISODES * LENGTH - 1),
    column=st.integers(0, 8),
    sign=st.sampled_from([-1.0, 1.0]),
    size=st.floats(1.001e-3, 10.0),
)
def test_a_value_moved_by_a_thousandth_of_its_scale_is_found_in_its_episode(many, name, row, column, sign, size):
    rows, seeds = many
    release = Fingerprint.of(rows, seeds)
    other = moved(rows, name, row, column, sign * size * release.scales[name])
    found = release.compare(other, seeds)
    assert any(f"episode {row // LENGTH} " in fault for fault in found.faults), found
    assert found.largest > 4 * TOLERANCE


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_in_the_last_stored_digit_passes(many, seed):
    rows, seeds = many
    rng = np.random.default_rng(seed)
    release = Fingerprint.of(rows, seeds)
    noisy = {name: getattr(rows, name) for name in VALUES}
    noisy = {n: np.nextafter(a, a + rng.choice([-1, 1], a.shape).astype(np.float32)) for n, a in noisy.items()}
    found = release.compare(dataclasses.replace(rows, **noisy), seeds)
    assert found.faults == ()
    assert 0 < found.largest < TOLERANCE / 2


def test_lengths_counts_and_weights_are_compared(many):
    rows, seeds = many
    release = Fingerprint.of(rows, seeds)
    assert release.compare(rows, seeds).largest == 0
    fewer = rows.select(rows.episode != 31)
    assert f"{EPISODES - 1} episodes" in release.compare(fewer, seeds[:-1]).faults[0]
    shorter = rows.select(np.arange(len(rows)) != 31 * LENGTH + 2)
    assert "episode 31 has 6 decisions" in release.compare(shorter, seeds).faults[0]
    assert release.compare(rows, seeds[::-1].copy()).faults


def test_text_is_deterministic_and_damage_is_one_line(many):
    release = Fingerprint.of(*many)
    text = release.to_text()
    assert text == Fingerprint.of(*many).to_text()
    again = Fingerprint.from_text(text, "x")
    assert again.compare(*many).largest == 0
    for damaged in ("", text[:-8], "?" + text, text[: len(text) // 2]):
        text_of = partial(Fingerprint.from_text, damaged, "manifest x")
        refused(DatasetError, "manifest x: fingerprint is damaged", text_of)


def test_verify_says_how_a_copy_compares_with_the_release(made, release, copy, rows, recipe, tmp_path):
    def check(root, name):
        report = verify(made.id, root=root, replay=0, progress=False)
        return next((c.ok, c.detail) for c in report.checks if c.name == name)

    assert check(copy, "release") == (True, "identical to the release's rows")
    close = moved(rows, "rewards", 5, 0, 1e-6)
    assert compare_rows(close, made.manifest).faults == ()
    require_release_rows(rows)
    require_release_rows(close)
    far = moved(rows, "monitored", 5, 0, 1e-2)
    refused(DatasetError, rf"other rows .* generate {made.id}", lambda: require_release_rows(far))
    # Another seed, and another bank under the same name: refused by what differs.
    generate(dataclasses.replace(recipe, seed=8), root=tmp_path / "seed", progress=False)
    assert check(tmp_path / "seed", "recipe")[1].startswith("not made as the release's: recipe field seed (8 here, 7")
    assert not check(tmp_path / "seed", "release")[0]
    refused(DatasetError, "other means", lambda: require_release_rows(dataclasses.replace(rows, identity="0" * 64)))


def test_identity_is_of_what_made_the_rows_alone(made, recipe, tiny_bank, root, tmp_path):
    manifest = made.manifest
    assert identity_of(manifest) == manifest["identity"]
    named = manifest | {"id": "hospital/x-v0", "recipe": manifest["recipe"] | {"id": "hospital/x-v0", "bank": "moved"}}
    assert identity_of(named) == manifest["identity"]
    for field, value in (("generator", 1), ("source", "medgym/other-v0"), ("patients", [0, 1])):
        assert identity_of(manifest | {field: value}) != manifest["identity"]
        assert made_differently(manifest | {field: value}, manifest)
    other = manifest | {"bank": manifest["bank"] | {"content_hash": "1" * 64}}
    assert made_differently(other, manifest) == [
        f"bank {tiny_bank.name} (111111111111.. here, {manifest['bank']['content_hash'][:12]}.. there)"
    ]
    renamed = manifest | {"bank": manifest["bank"] | {"name": "another name"}}
    assert made_differently(renamed, manifest) == []
    generate(recipe, root=tmp_path, output_id="hospital/copy-v0", progress=False)
    copied = json.loads((tmp_path / "hospital/copy-v0/data/manifest.json").read_text())
    assert copied["identity"] == manifest["identity"]
    assert copied["content_hash"] == manifest["content_hash"]
