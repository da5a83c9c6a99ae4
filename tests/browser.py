"""Pages in a headless Chromium: `browser` is a fixture for any test of an HTML page.

    from tests.browser import _driver, browser  # in the test module or its conftest.py

Skips with the reason where selenium, chromium or its driver is missing. What the pages asked for and what they
complained about is recorded by the browser itself and checked with :meth:`Browser.complaints` and
:meth:`Browser.requests`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Browser", "_driver", "browser"]


class Browser:
    """A headless Chromium; `driver` is selenium's."""

    def __init__(self, driver: Any):
        self.driver = driver
        self._requests: list[str] = []

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of that size, with the light or the dark scheme."""
        self._read()
        self._requests.clear()
        self.driver.get_log("browser")  # what was said before is of another page
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(page.resolve().as_uri())

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since :meth:`open`."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses asked for since :meth:`open`, the pages themselves included, `data:` excluded."""
        self._read()
        return list(self._requests)

    def _read(self) -> None:
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith("data:"):
                    self._requests.append(address)

    def find(self, selector: str) -> Any:
        """The first element that fits a CSS selector; selenium's `NoSuchElementException` if none does."""
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector: str) -> Sequence[Any]:
        """Every element that fits a CSS selector."""
        return list(self.driver.find_elements("css selector", selector))

    def run(self, script: str, *arguments: Any) -> Any:
        """Result of a function body in the page."""
        return self.driver.execute_script(script, *arguments)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def unnamed(self) -> list[str]:
        """Interactive elements and pictures that a screen reader could not name."""
        return list(self.run(_UNNAMED))


_UNNAMED = """
const named = (e) => (e.getAttribute('aria-label') || '').trim() || e.textContent.trim() || e.title ||
  (e.getAttribute('aria-labelledby') && document.getElementById(e.getAttribute('aria-labelledby'))) ||
  [...(e.labels || [])].some((l) => l.textContent.trim());
return [...document.querySelectorAll('a, button, select, input, [role=img], [role=region], table')]
  .filter((e) => e.tagName === 'TABLE' ? !e.caption || !e.caption.textContent.trim() : !named(e))
  .map((e) => e.outerHTML.slice(0, 120));
"""


@pytest.fixture(scope="session")
def _driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra dev)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    program = shutil.which("chromedriver")
    if chromium is None or program is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=program))
    yield driver
    driver.quit()


@pytest.fixture
def browser(_driver: Any) -> Browser:
    """A headless Chromium, started once for the session."""
    return Browser(_driver)
