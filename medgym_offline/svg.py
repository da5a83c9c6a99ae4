"""Figures as inline SVG that follow a page's colours.

matplotlib (extra `report`) draws with placeholder colours, which are then replaced by the page's CSS variables: one
SVG serves the light and the dark page. Nothing in the result names an address, and ids of several figures on one
page do not meet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["INK", "LINE", "MUTED", "SERIES", "VARIABLES", "Figure", "inline_svg", "standalone_svg"]

INK, MUTED, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = tuple(f"#0a0c0{n}" for n in range(1, 7))
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}
VARIABLES |= {colour: f"var(--series-{n})" for n, colour in enumerate(SERIES, 1)}
"""Placeholder colour to draw with -> CSS variable of the page."""


@dataclass(frozen=True)
class Figure:
    """An SVG element, its heading, and what it shows in words (for screen readers)."""

    title: str
    svg: str
    description: str


def inline_svg(draw: Callable[[Canvas], None], key: str, size: tuple[float, float]) -> str:
    """Run `draw(figure)` and return an SVG element without XML head, metadata, addresses or clashing ids.

    Args:
        draw: Draws on an empty matplotlib figure.
        key: Prefix of the element's ids; another for each figure of a page.
        size: Width and height, inches.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as MplFigure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "report", "figures of a report") from None
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": LINE,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
    }
    with matplotlib.rc_context(settings):
        canvas = MplFigure(figsize=size, layout="constrained")
        FigureCanvasSVG(canvas)
        draw(canvas)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A style element inside an SVG would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    # Inside HTML the namespaces are implied, and the page is to name no address at all.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    for _ in ("width", "height"):
        text = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[^"]*"', r"\1", text, count=1)
    # Several figures on one page: ids must not meet.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{key}-", text)
    text = re.sub(r"font-family: [^;\"]+; ", "", text)
    # A tenth of a point is finer than any screen. Coordinates only: text keeps its digits.
    text = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\d\.\d)\d+", r"\1", m[0]), text)
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    return re.sub(r"\n\s*", "\n", text).strip()


def standalone_svg(svg: str, palette: str) -> str:
    """The element of :func:`inline_svg` as a file of its own, on white, in the colours of a light page.

    Args:
        svg: The element.
        palette: CSS custom properties of the page ("--ink: #...; ...").
    """
    head = f"<style>svg {{ {palette} background: #fff; font-family: sans-serif }}</style>"
    opened = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    cut = opened.index(">") + 1
    return opened[:cut] + head + opened[cut:] + "\n"
