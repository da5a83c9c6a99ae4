"""The leaderboard's pages in a browser: sorted and filtered by hand, read by machines, nothing fetched."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from medgym_offline.leaderboard import build_page, sealed
from tests.browser import Browser, _driver, browser
from tests.leaderboard.test_board import entry, variant

__all__ = ["_driver", "browser", "entry"]

RECORD = {"accepted": True, "version": "x", "result_hash": "0" * 64, "largest_deviation": 0.1, "fresh_seeds": True}


@pytest.fixture
def site(entry: dict[str, Any], tmp_path: Path) -> Path:
    """A board of two datasets; the numbers of the real entry, moved."""
    rows = [
        sealed(variant(entry, "Best", 3.0), RECORD),
        variant(entry, "Tied", 3.15),
        variant(entry, "Third", 4.0),
        variant(entry, "Worst", 9.0),
    ]
    rows[1]["metrics"]["own"]["safe_hourly"] = 99.0
    rows[2]["scope"], rows[2]["id"] = "pop", rows[2]["id"].replace("/ind/", "/pop/")
    other = copy.deepcopy(variant(entry, "Elsewhere", 5.0))
    other["dataset"]["id"], other["timing"] = "medgym/other-v0", "fixed"
    other["id"] = "elsewhere/other-v0/ind/fixed-20"
    build_page([*rows, other], tmp_path / "site")
    return tmp_path / "site"


def names(browser: Browser) -> list[str]:
    """Names in the order shown."""
    return [a.text for a in browser.find_all("tbody th a") if a.is_displayed()]


def clean(browser: Browser) -> None:
    """No complaint, no request but for files of the site."""
    assert browser.complaints() == []
    assert browser.requests()
    assert all(address.startswith("file:///") for address in browser.requests())


def choose(browser: Browser, name: str, value: str) -> None:
    """Choose in a select by the keyboard's event."""
    browser.run(
        "const s = document.querySelector(`[name=${arguments[0]}]`); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}));",
        name,
        value,
    )


def test_sorting(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    section = "section[data-group]:nth-of-type({})"
    first = next(s for s in (1, 2) if "Best" in browser.find(section.format(s)).text)
    table = section.format(first)
    shown = lambda: [a.text for a in browser.find_all(f"{table} tbody th a")]  # noqa: E731
    heads = {h.get_attribute("textContent").strip(): h for h in browser.find_all(f"{table} thead th[aria-sort]")}
    sofa, safe, method = heads["SOFA (all), own world"], heads["Safe, own world"], heads["Method"]

    sofa.find_element("css selector", "button").click()
    assert shown() == ["Best", "Tied", "Third", "Worst"]
    assert sofa.get_attribute("aria-sort") == "ascending"
    sofa.find_element("css selector", "button").click()
    assert shown() == ["Worst", "Third", "Tied", "Best"]
    assert sofa.get_attribute("aria-sort") == "descending"
    safe.find_element("css selector", "button").send_keys("\n")  # the keyboard; more is better, so largest first
    assert shown()[0] == "Tied"
    assert (sofa.get_attribute("aria-sort"), safe.get_attribute("aria-sort")) == ("none", "descending")
    assert "Safe, own world, descending" in browser.find("#status").text
    method.find_element("css selector", "button").click()
    assert shown() == ["Best", "Third", "Tied", "Worst"]
    clean(browser)


def test_filtering(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    assert len(names(browser)) == 5
    choose(browser, "data", "medgym/other-v0")
    assert names(browser) == ["Elsewhere"]
    assert browser.find("#status").text == "1 of 5 entries shown."
    assert len([s for s in browser.find_all("section[data-group]") if s.is_displayed()]) == 1
    choose(browser, "data", "")
    choose(browser, "scope", "pop")
    assert names(browser) == ["Third"]
    choose(browser, "scope", "")
    choose(browser, "timing", "fixed")
    assert names(browser) == ["Elsewhere"]
    choose(browser, "timing", "adaptive")
    browser.find("[name=text]").send_keys("T")
    assert sorted(names(browser)) == ["Best", "Third", "Tied", "Worst"]
    browser.find("[name=text]").send_keys("ied")
    assert names(browser) == ["Tied"]
    points = [p for p in browser.find_all("figure [id*='-own']") if p.is_displayed()]
    figures = [f for f in browser.find_all("figure") if f.is_displayed()]
    assert len(points) == len(figures) > 0  # one entry is left in each figure
    browser.find("[name=text]").clear()
    browser.find("[type=reset]").click()
    browser.find("[name=verified]").click()
    assert names(browser) == ["Best"]
    browser.find("[name=text]").send_keys("nobody")
    assert "No entry fits" in browser.find("#status").text
    clean(browser)


def test_the_page_of_an_entry(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    next(a for a in browser.find_all("tbody th a") if a.text == "Tied").click()
    assert browser.driver.current_url.endswith("/entries/tied_workshop-v0_ind_adaptive-20.html")
    assert browser.find("h1").text == "Tied"
    assert len(browser.find_all("figure svg")) == 2
    assert "own world: 1 (shared)" in browser.find("main").text
    assert browser.unnamed() == []
    clean(browser)
    browser.find("nav a").click()
    assert len(names(browser)) == 5


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (390, True)])
def test_widths_schemes_and_names(browser: Browser, site: Path, width: int, dark: bool) -> None:
    background = {False: "rgb(255, 255, 255)", True: "rgb(20, 23, 26)"}[dark]
    for page in (site / "index.html", *sorted((site / "entries").glob("*.html"))[:1]):
        browser.open(page, width, dark=dark)
        assert browser.overflow() == 0
        assert browser.unnamed() == []
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == background
        clean(browser)


def test_the_pages_work_without_their_script(browser: Browser, site: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(site / "index.html")
        assert not browser.find("#filters").is_displayed()
        assert [n for n in names(browser) if n != "Elsewhere"] != []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
