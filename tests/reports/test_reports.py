"""Pages, tables and figures: what they hold, and what they may not."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medgym_offline import reports
from medgym_offline.reports import (
    COLORS,
    SERIES,
    Details,
    Estimate,
    Facts,
    Figure,
    Legend,
    Link,
    Page,
    Section,
    Table,
    Warn,
    draw_figure,
    draw_png,
    page_html,
    write_svg,
)

VOID = {"meta", "br", "link", "img", "input", "hr", "path", "rect", "use"}


class Parsed(HTMLParser):
    """Tags with their attributes, and text; fails where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def draw(canvas: Any) -> None:
    axes = canvas.add_subplot()
    for n, color in enumerate(SERIES):
        axes.plot([0, 1], [0, n], "o-", color=color, label=f"line <{n}>")
    axes.legend()


TABLE = Table(
    "All & more",
    ("Policy", "Severity", "What"),
    [["b", Estimate(2.0, 1.0, 3.0), "long words that wrap"], ["a", Estimate(1.5, 1.0, 1.8), Link("to", "#x")]],
    order=1,
    bars=True,
    notes=("", "lower is better", ""),
)


@pytest.fixture(scope="module")
def text() -> str:
    pytest.importorskip("matplotlib")
    figures = [draw_figure(title, draw, f"Lines of {title}", caption="How to read it") for title in ("One", "Two")]
    blocks = (TABLE, *figures, Warn("watch <this>"), Facts([("k", "v")]), Legend([("n", SERIES[0], (5, 2), 1.5)]))
    sections = [Section(f"Part {n}", "words", *blocks, Details("more", [TABLE])) for n in range(5)]
    return page_html(Page("A <title>", (*sections, Section("Empty", None)), "Lead"))


def test_a_page_is_well_formed_and_escaped(text: str) -> None:
    parsed = Parsed(text)
    assert "A <title>" in parsed.text
    assert "watch <this>" in parsed.text
    assert "<this>" not in text
    assert ("html", {"lang": "en"}) in parsed.tags
    assert "Empty" not in parsed.text
    assert all(a.get("scope") in ("col", "row") for tag, a in parsed.tags if tag == "th")
    assert sum(tag == "table" for tag, _ in parsed.tags) == sum(tag == "caption" for tag, _ in parsed.tags) == 10
    assert all(a.get("aria-label") for _, a in parsed.tags if a.get("role") in ("img", "region"))


def test_a_page_asks_for_nothing_and_its_links_lead_somewhere(text: str) -> None:
    parsed = Parsed(text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in parsed.tags)
    ids = {a["id"] for _, a in parsed.tags if "id" in a}
    sections = [a["id"] for tag, a in parsed.tags if tag == "h2"]
    assert len(sections) == len(set(sections)) == 5
    assert all(f"#part-{n}" in text for n in range(5))
    for target in re.findall(r"url\(#([^)]+)", text):
        assert target in ids


def luminance(color: str) -> float:
    """WCAG 2.1 relative luminance of #rrggbb."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_colors_can_be_read(theme: int) -> None:
    for ground in ("page", "panel"):
        below = luminance(COLORS[ground][theme])
        for name in ("ink", "muted", "mark", *(f"series-{n}" for n in range(1, 7))):
            low, high = sorted((below, luminance(COLORS[name][theme])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, name


def test_best_first_and_unknown_last() -> None:
    rows = [["x", None], ["c", Estimate(3.0)], ["n", Estimate(math.nan)], ["a", 1.0], ["b", 2]]
    assert [r[0] for r in Table("t", ("", "v"), rows, order=1).rows] == ["a", "b", "c", "x", "n"]
    assert [r[0] for r in Table("t", ("", "v"), rows, order=1, better=1).rows] == ["c", "b", "a", "x", "n"]
    with pytest.raises(ValueError, match="a row of 1 cells under 2 heads"):
        Table("t", ("a", "b"), [["x"]])


def test_the_same_drawing_gives_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        draw_png(tmp_path / f"{name}.png", draw)
        write_svg(tmp_path / f"{name}.svg", draw_figure("One", draw, "Lines"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "var(" not in svg


def test_without_matplotlib_the_words_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.figures, "can_draw", lambda: False)
    figure = draw_figure("One", draw, "Lines from 1 to 2.")
    assert figure == Figure("One", "", "Lines from 1 to 2.")
    shown = Parsed(page_html(Page("T", [Section("S", figure)]))).text
    assert "Lines from 1 to 2." in shown
    assert "Figures are left out: matplotlib is not installed" in shown
