"""The documentation site builds without a warning, and asks nothing of other machines (extra `docs`)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parent.parent
LOADS = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?P<src>[^\"' >]+)"
    r"|<link(?![^>]*rel=[\"']?canonical)[^>]+href=[\"']?(?P<href>[^\"' >]+)"
    r"|url\([\"']?(?P<url>[^\"')]+)|@import [\"'](?P<css>[^\"']+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_is_in_the_navigation(site):
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in nav
        assert (site / page.with_suffix(".html").name).is_file()


def test_every_dataset_of_the_release_has_a_card(site):
    index = (site / "cards" / "index.html").read_text(encoding="utf-8")
    manifests = list((ROOT / "datasets").glob("*.manifest.json"))
    assert manifests
    for manifest in manifests:
        name = manifest.name.removesuffix(".manifest.json")
        assert f'href="{name}.html"' in index
        identity = json.loads(manifest.read_text(encoding="utf-8"))["identity"]
        assert identity in (site / "cards" / f"{name}.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site):
    texts = [file.read_text(encoding="utf-8") for file in (*site.rglob("*.html"), *site.rglob("*.css"))]
    found = [match[match.lastgroup] for text in texts for match in LOADS.finditer(text)]
    assert len(found) > 100  # the expression does find what pages load
    assert [target for target in found if re.match(r"(?:https?:)?//", target)] == []
