"""Hooks of the documentation site (mkdocs.yml): formulas as MathML, and links that leave the pages.

Browsers draw MathML by themselves, so the site needs no script for formulas; GitHub draws the same blocks its own way.
"""

from __future__ import annotations

import re
from typing import Any

REPOSITORY_FILES = re.compile(r"\]\(\.\./([^)]+)\)")


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """A block of LaTeX as MathML."""
    from latex2mathml.converter import convert

    return f'<div class="{css_class}">{convert(" ".join(source.split()), display="block")}</div>'


def on_page_content(html: str, **_: Any) -> str:
    """Formulas in a sentence, which the page holds as \\(LaTeX\\), as MathML; docstrings' `::` as a colon."""
    from html import unescape

    from latex2mathml.converter import convert

    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    html = re.sub(inline, lambda match: convert(unescape(match[1])), html, flags=re.DOTALL)
    return html.replace("::</p>", ":</p>")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository, which are no pages, become their names."""
    return re.sub(r"\[([^\]]+)" + REPOSITORY_FILES.pattern, r"\1", markdown)
