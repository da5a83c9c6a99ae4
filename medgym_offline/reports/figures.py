"""Figures: one palette, one style, drawn by matplotlib (extra `report`, imported when a figure is drawn)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medgym_offline.reports.blocks import COLORS, Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["COLORS", "INK", "LINE", "MUTED", "SERIES", "can_draw", "draw_figure"]

INK, MUTED, LINE = (COLORS[name][0] for name in ("ink", "muted", "line"))
SERIES = tuple(light for name, (light, _) in COLORS.items() if name.startswith("series"))
"""Draw with these: on a page they become the variables, so that one SVG serves light and dark."""

SIZE = (5.0, 3.3)  # inches; 360 points wide, so that a phone shows the text at its nominal size


def can_draw() -> bool:
    """Whether matplotlib is installed (extra `report`)."""
    return find_spec("matplotlib") is not None


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
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure as MplFigure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": title,
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
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
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
