"""The report in a real browser: nothing asked for, nothing complained about, no part of it wider than a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medgym_offline.evaluation import Evaluation, evaluate, write_report
from medgym_offline.simulators import SimulatorBank
from tests.browser import Browser, _driver, browser  # noqa: F401

from .conftest import Constant


@pytest.fixture(scope="module")
def page(
    results: dict[str, Evaluation],
    tiny_bank: SimulatorBank,
    treatments: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    pytest.importorskip("matplotlib")
    moved = evaluate(Constant(treatments, tiny_bank.patients), bank=tiny_bank, episodes=3, transfer=1, name="moved")
    return write_report({**results, "moved": moved}, tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 390])
def test_page_renders_without_requests_or_errors(page: Path, browser: Browser, width: int, dark: bool) -> None:  # noqa: F811
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.overflow() == 0  # wide tables scroll inside the page
    assert browser.unnamed() == []
    figures = browser.find_all("figure svg")
    assert len(figures) >= 5
    for figure in figures:
        assert figure.size["width"] > 250
        assert figure.size["height"] > 150


def test_ink_and_ground_follow_the_scheme(page: Path, browser: Browser) -> None:  # noqa: F811
    def brightness(of: str) -> float:
        colour = browser.run(f"return getComputedStyle(document.body).{of}")
        red, green, blue = (int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
        return (red + green + blue) / 765

    browser.open(page)
    assert brightness("backgroundColor") - brightness("color") > 0.6
    browser.open(page, dark=True)
    assert brightness("color") - brightness("backgroundColor") > 0.6
