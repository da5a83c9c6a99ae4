"""What can be installed: pins and bounds agree on every Python named, and pip finds a set of releases on each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from medgym_offline.errors import MedGymError
from medgym_offline.files import read_toml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = read_toml(ROOT / "pyproject.toml", MedGymError)["project"]
CLASSIFIER = "Programming Language :: Python :: 3."
PYTHONS = [f"3.{c[len(CLASSIFIER) :]}" for c in PROJECT["classifiers"] if c.startswith(CLASSIFIER)]
EXTRAS = PROJECT["optional-dependencies"]


def applicable(lines: list[str], python: str) -> Iterator[Requirement]:
    """The requirements among `lines` that count on a Python, under canonical names; the project itself left out."""
    for requirement in map(Requirement, lines):
        requirement.name = canonicalize_name(requirement.name)
        counts = requirement.marker is None or requirement.marker.evaluate({"python_version": python})
        if counts and requirement.name != PROJECT["name"]:
            yield requirement


def declared(python: str) -> list[Requirement]:
    """All direct requirements of the project and its extras."""
    return list(applicable([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)], python))


def pins() -> list[str]:
    """Lines of constraints.txt that are no comments."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_pin_within_its_bounds(python: str) -> None:
    pinned: dict[str, Version] = {}
    for line in applicable(pins(), python):
        (specifier,) = line.specifier
        assert specifier.operator == "==", line
        assert line.name not in pinned, f"{line.name} is pinned twice on Python {python}"
        pinned[line.name] = Version(specifier.version)
    for requirement in declared(python):
        assert requirement.name in pinned, f"{requirement} has no pin on Python {python}"
        assert pinned[requirement.name] in requirement.specifier, f"{requirement} on Python {python}"


def test_every_requirement_has_one_lower_bound_and_it_is_the_same_everywhere() -> None:
    """So that the lowest versions the tests run at are those declared."""
    lowest: dict[str, str] = {}
    for requirement in declared(PYTHONS[0]):
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        assert len(bounds) == 1, requirement
        assert lowest.setdefault(requirement.name, bounds[0]) == bounds[0], requirement


def test_continuous_integration_runs_the_oldest_and_the_newest_python_and_the_lowest_versions() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["pinned"]["strategy"]["matrix"]["python"]
    assert {PYTHONS[0], PYTHONS[-1]} <= set(matrix) <= set(PYTHONS)
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">={PYTHONS[0]}")
    (set_up,) = (step["with"] for step in jobs["lowest"]["steps"] if "setup-python" in step.get("uses", ""))
    assert set_up["python-version"] == PYTHONS[0]
    called = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
    assert {"lint", "test", "test-lowest"} == {word for _, *words in called for word in words} <= targets


@pytest.mark.skipif("MEDGYM_LOWEST" not in os.environ, reason="make test-lowest sets it")
def test_the_lowest_versions_are_those_installed() -> None:
    """A resolver goes above a bound where bounds contradict each other, and would then test something else."""
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version).release for d in distributions()}
    for requirement in declared(PYTHONS[0]):
        (lowest,) = (Version(s.version).release for s in requirement.specifier if s.operator == ">=")
        if requirement.name in installed:
            assert installed[requirement.name][: len(lowest)] == lowest, f"{requirement}: {installed[requirement.name]}"
