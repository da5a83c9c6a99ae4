"""Pages, tables and figures: what they hold, and what they may not."""

import math
import re
from xml.etree import ElementTree

import pytest

from medgym_offline.reports import figures
from medgym_offline.reports.blocks import Details, Estimate, Facts, Figure, Link, Page, Section, Table, Warn, page_html
from medgym_offline.reports.figures import COLORS, SERIES, draw_figure


def draw(canvas):
    axes = canvas.add_subplot()
    for n, color in enumerate(SERIES):
        axes.plot([0, 1], [0, n], "o-", color=color, label=f"line <{n}>")
    axes.legend()


def test_a_page_is_escaped_and_asks_for_nothing():
    pytest.importorskip("matplotlib")
    rows = [["b", Estimate(2.0, (1.0, 3.0)), "long words"], ["a", Estimate(1.5, (1.0, 1.8)), Link("to", "#x")]]
    table = Table("All & more", ("Policy", "Severity", "What"), rows, order=1)
    blocks = (table, draw_figure("One", draw, "Lines"), Warn("watch <this>"), Facts([("k", "v")]))
    sections = [Section(f"Part {n}", "words", *blocks, Details("more", [table])) for n in range(5)]
    text = page_html(Page("A <title>", (*sections, Section("Empty", None)), "Lead"))
    assert "watch &lt;this&gt;" in text
    assert "Empty" not in text
    assert not re.search(r"<this>|<title>\s*A <|https?://|@import|url\((?!#)|<(script|link|img|iframe)", text)
    heads, ids = (re.findall(rf'{tag}id="([^"]+)"', text) for tag in ("<h2 ", ""))
    assert len(heads) == len(set(heads)) == 5
    assert {*re.findall(r"url\(#([^)]+)", text), *re.findall('href="#([^"]+)"', text)} - {"x"} <= set(ids)


@pytest.mark.parametrize("theme", [0, 1])
def test_colors_can_be_read(theme):
    def luminance(color):
        """WCAG 2.1 relative luminance of #rrggbb."""
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ground in ("page", "panel"):
        for name in ("ink", "muted", "mark", *(f"series-{n}" for n in range(1, 7))):
            low, high = sorted(luminance(COLORS[one][theme]) for one in (ground, name))
            assert (high + 0.05) / (low + 0.05) >= 4.5, name


def test_best_first_and_unknown_last():
    rows = [["x", None], ["c", Estimate(3.0)], ["n", Estimate(math.nan)], ["a", 1.0], ["b", 2]]
    assert [r[0] for r in Table("t", ("", "v"), rows, order=1).rows] == ["a", "b", "c", "x", "n"]
    with pytest.raises(ValueError, match="a row of 1 cells under 2 heads"):
        Table("t", ("a", "b"), [["x"]])


def test_the_same_drawing_gives_the_same_figure():
    pytest.importorskip("matplotlib")
    first, second = (draw_figure("One", draw, "Lines") for _ in range(2))
    assert first == second
    ElementTree.fromstring(first.svg)


def test_without_matplotlib_the_words_remain(monkeypatch):
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    figure = draw_figure("One", draw, "Lines from 1 to 2.")
    assert figure == Figure("One", "", "Lines from 1 to 2.")
    assert "Lines from 1 to 2." in page_html(Page("T", [Section("S", figure)]))
