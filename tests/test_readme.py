"""What the front page says is what the release holds."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_manifests():
    front = runpy.run_path(str(ROOT / "docs" / "front.py"))
    assert len(front["BLOCK"].findall(README)) == 1
    assert front["with_table"](README) == README, "run python docs/front.py"


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
