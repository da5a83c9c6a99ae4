"""What the front page says is what the release holds."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def front():
    """docs/front.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("front", ROOT / "docs" / "front.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_manifests(front):
    assert len(front.BLOCK.findall(README)) == 1
    assert front.with_table(README) == README, "run python docs/front.py"


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
