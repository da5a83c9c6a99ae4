"""Figures: one palette, one style, drawn by matplotlib (extra `report`, imported when a figure is drawn)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import MissingExtraError
from medgym_offline.reports.blocks import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["COLORS", "INK", "LINE", "MUTED", "SERIES", "can_draw", "draw_figure", "style"]

COLORS = {
    "page": ("#fefefe", "#14171a"),
    "panel": ("#f6f7f8", "#1d2125"),
    "ink": ("#1a1d21", "#e8eaed"),
    "muted": ("#5a626b", "#a3abb4"),
    "line": ("#d5d9de", "#3a4047"),
    "mark": ("#8a4b00", "#f0b266"),
    "series-1": ("#0063a8", "#5db3f0"),
    "series-2": ("#c2410c", "#ff8f5c"),
    "series-3": ("#00776a", "#3ccfb8"),
    "series-4": ("#9c3587", "#e48bd0"),
    "series-5": ("#8a6500", "#dcb64a"),
    "series-6": ("#5b45c4", "#a99bff"),
}
"""Name of the page's CSS variable -> (light, dark). Text on the page has a contrast of 4.5 or more in both."""

INK, MUTED, LINE = (COLORS[name][0] for name in ("ink", "muted", "line"))
SERIES = tuple(light for name, (light, _) in COLORS.items() if name.startswith("series"))
"""Draw with these: on a page they become the variables, so that one SVG serves light and dark."""

SIZE = (5.0, 3.3)  # inches; 360 points wide, so that a phone shows the text at its nominal size


def can_draw() -> bool:
    """Whether matplotlib is installed (extra `report`)."""
    return find_spec("matplotlib") is not None


@contextmanager
def style(salt: str = "") -> Iterator[None]:
    """matplotlib's settings for figures of the suite; ids of an SVG depend on `salt`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError:
        raise MissingExtraError.of("matplotlib", "report", "figures") from None
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": salt,
        "font.size": 10.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": LINE,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10.5,
        "axes.prop_cycle": cycler(color=SERIES),
        "legend.frameon": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
    }
    with matplotlib.rc_context(settings):
        yield


def draw_figure(
    title: str,
    draw: Callable[[Canvas], None],
    description: str,
    size: tuple[float, float] = SIZE,
    caption: str = "",
) -> Figure:
    """A figure for a page: `draw(figure)` on an empty matplotlib figure, as an SVG element that follows its colors.

    Args:
        title, description, caption: As in :class:`~medgym_offline.reports.blocks.Figure`.
        draw: Uses `INK`, `MUTED`, `LINE` and `SERIES` for colors.
        size: Width and height, inches.
    """
    if not can_draw():
        return Figure(title, "", description, caption)
    from matplotlib.figure import Figure as MplFigure

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with style(title):
        canvas = MplFigure(figsize=size, layout="constrained")
        draw(canvas)
        canvas.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Names of groups would meet those of the page's other figures, and addresses of name spaces are implied in HTML.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    # A tenth of a point is finer than any screen. Coordinates only: text keeps its digits.
    text = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\d\.\d)\d+", r"\1", m[0]), text)
    for name, (light, _) in COLORS.items():
        text = text.replace(light, f"var(--{name})")
    return Figure(title, re.sub(r"\n\s*", "\n", text).strip(), description, caption)
