"""What can be installed: pins and bounds agree on every Python named, and pip finds a set of releases on each."""

import os
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from medgym_offline.errors import MedGymError
from medgym_offline.files import read_toml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = read_toml(ROOT / "pyproject.toml", MedGymError)["project"]
CLASSIFIER = "Programming Language :: Python :: 3."
PYTHONS = [f"3.{c[len(CLASSIFIER) :]}" for c in PROJECT["classifiers"] if c.startswith(CLASSIFIER)]
EXTRAS = PROJECT["optional-dependencies"]


def applicable(lines, python):
    """The requirements among `lines` that count on a Python, under canonical names; the project itself left out."""
    for requirement in map(Requirement, lines):
        requirement.name = canonicalize_name(requirement.name)
        counts = requirement.marker is None or requirement.marker.evaluate({"python_version": python})
        if counts and requirement.name != PROJECT["name"]:
            yield requirement


def declared(python):
    """All direct requirements of the project and its extras."""
    return list(applicable([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)], python))


PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_pin_within_its_bounds(python):
    pinned = {}
    for line in applicable(PINS, python):
        (specifier,) = line.specifier
        assert specifier.operator == "==", line
        assert line.name not in pinned, f"{line.name} is pinned twice on Python {python}"
        pinned[line.name] = Version(specifier.version)
    for requirement in declared(python):
        assert requirement.name in pinned, f"{requirement} has no pin on Python {python}"
        assert pinned[requirement.name] in requirement.specifier, f"{requirement} on Python {python}"


@pytest.mark.skipif("MEDGYM_LOWEST" not in os.environ, reason="make test-lowest sets it")
def test_the_lowest_versions_are_those_installed():
    """A resolver goes above a bound where bounds contradict each other, and would then test something else."""
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version).release for d in distributions()}
    for requirement in declared(PYTHONS[0]):
        (lowest,) = (Version(s.version).release for s in requirement.specifier if s.operator == ">=")
        if requirement.name in installed:
            assert installed[requirement.name][: len(lowest)] == lowest, f"{requirement}: {installed[requirement.name]}"
