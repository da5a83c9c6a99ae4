"""One page, one table style, one figure style: every report of the suite is written with these.

    policies = Table("Mean over patients, best first", ("Policy", "Severity"), rows, order=1)
    curve = draw_figure("Severity over time", draw, "Line chart: ...")
    write_page("report.html", Page("Evaluation", (Section("Results", policies), Section("Figures", curve))))

A page needs no script and asks for nothing from elsewhere; it is light or dark as the reader's system is, and fits a
phone. Figures need matplotlib (extra `report`); without it a page has the descriptions in their place, and says so.
"""

from medgym_offline.reports.blocks import (
    Block,
    Cell,
    Details,
    Estimate,
    Facts,
    Figure,
    Legend,
    Link,
    Page,
    Section,
    Shade,
    Table,
    Warn,
)
from medgym_offline.reports.figures import (
    COLORS,
    INK,
    LINE,
    MUTED,
    SERIES,
    can_draw,
    draw_figure,
    draw_to,
    style,
)
from medgym_offline.reports.page import page_html, write_page
from medgym_offline.reports.text import markdown, print_table

__all__ = [
    "COLORS",
    "INK",
    "LINE",
    "MUTED",
    "SERIES",
    "Block",
    "Cell",
    "Details",
    "Estimate",
    "Facts",
    "Figure",
    "Legend",
    "Link",
    "Page",
    "Section",
    "Shade",
    "Table",
    "Warn",
    "can_draw",
    "draw_figure",
    "draw_to",
    "markdown",
    "page_html",
    "print_table",
    "style",
    "write_page",
]
