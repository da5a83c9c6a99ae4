"""Hooks of the documentation site (mkdocs.yml): formulas as MathML, cards, losses, links that leave the pages.

Browsers draw MathML by themselves, so the site needs no script for formulas; GitHub draws the same blocks its own way.
"""

from __future__ import annotations

import re
from typing import Any

LOSSES = "<!-- losses: docs/hooks.py -->"
REPOSITORY_FILES = re.compile(r"\]\(\.\./([^)]+)\)")


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """A block of LaTeX as MathML."""
    from latex2mathml.converter import convert

    return f'<div class="{css_class}">{convert(" ".join(source.split()), display="block")}</div>'


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """A page for each dataset of the release, from its manifest, and one that lists them."""
    from mkdocs.structure.files import File

    from medgym_offline.datasets.card import dataset_card
    from medgym_offline.datasets.catalogue import listing_table, release_manifest, released_datasets

    infos = [info for info in released_datasets() if info.episodes is not None]
    table = listing_table(infos)
    for info in infos:
        page = f"{info.id.rpartition('/')[2]}.md"
        manifest = release_manifest(info.id)
        assert manifest is not None
        card = re.sub(r"\A---\n.*?\n---\n", "", dataset_card(manifest), flags=re.DOTALL)  # the Hub's front matter
        files.append(File.generated(config, f"cards/{page}", content=card))
        table = table.replace(f"`{info.id}`", f"[`{info.id}`]({page})")
    head = (
        "# Dataset cards\n\nFrom the manifests of the release; [datasets](../datasets.md) says what the columns mean."
    )
    files.append(File.generated(config, "cards/index.md", content=f"{head}\n\n{table}\n"))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Formulas in a sentence, which the page holds as \\(LaTeX\\), as MathML; docstrings' `::` as a colon."""
    from html import unescape

    from latex2mathml.converter import convert

    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    html = re.sub(inline, lambda match: convert(unescape(match[1])), html, flags=re.DOTALL)
    return html.replace("::</p>", ":</p>")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The losses of every algorithm, from its module; links to files of the repository become their names."""
    if LOSSES in markdown:
        from medgym_offline.offline import ALGORITHMS

        modules = dict.fromkeys(objective.__module__ for objective in ALGORITHMS.values())
        loss = "::: {}\n    options: {{members: false}}"
        markdown = markdown.replace(LOSSES, "\n".join(map(loss.format, modules)))
    return re.sub(r"\[([^\]]+)" + REPOSITORY_FILES.pattern, r"\1", markdown)
