"""Pieces of the audit page: style, tables, figures."""

from __future__ import annotations

import html
from collections.abc import Sequence

from medgym_offline.simulators.audit_figures import Figure

__all__ = ["STYLE", "figures", "table"]

STYLE = """
:root { color-scheme: light dark; --page: #fff; --panel: #f6f7f8; --ink: #1a1d21; --muted: #5a626b; --line: #d5d9de;
  --good: #1b6e3c; --bad: #b3261e; --series-1: #0063a8; --series-2: #c2410c; --series-3: #00776a }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --panel: #1d2125; --ink: #e8eaed; --muted: #a3abb4;
  --line: #3a4047; --good: #6fd394; --bad: #ff8a80; --series-1: #5db3f0; --series-2: #ff8f5c; --series-3: #3ccfb8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
p { margin: .25rem 0 .75rem; max-width: 46rem }
.muted, caption, figcaption { color: var(--muted) }
caption, figcaption { font-size: .875rem }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: .75rem 0 }
a { color: var(--series-1) }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem }
.scroll:focus-visible, a:focus-visible,
summary:focus-visible { outline: 2px solid var(--series-1); outline-offset: 2px }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: 0 0 .4rem }
caption span { display: block; position: sticky; left: 0; width: max-content;
  max-width: min(46rem, calc(100vw - 2rem)) }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom }
th:first-child, td.text, th.text { text-align: left; white-space: normal }
tbody th { font-weight: 500; min-width: 8.5rem }
.sub { display: block; color: var(--muted); font-size: .8rem }
.yes { color: var(--good); font-weight: 600 }
.no { color: var(--bad); font-weight: 600 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem;
  margin: 1rem 0 }
figure { margin: 0; padding: .9rem; background: var(--panel); border: 1px solid var(--line); border-radius: 8px }
figure svg { display: block; width: 100%; max-width: 36rem; height: auto; margin: 0 auto }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
summary { cursor: pointer; padding: .25rem 0 }
@media (max-width: 30rem) { figure { padding: .5rem } }
@media print { figure { break-inside: avoid } }
"""


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]], prose: Sequence[int] = ()) -> str:
    """A table whose first column heads its rows; columns in `prose` are text that wraps. Cells are escaped;
    what follows a line break in one is set smaller below it."""

    def cell(value: object, n: int) -> str:
        text = html.escape(str(value))
        if text in ("passed", "met"):
            text = f'<span class="yes">{text}</span>'
        elif text in ("FAILED", "missed"):
            text = f'<span class="no">{text}</span>'
        first, *more = text.split("\n")
        text = first + "".join(f'<span class="sub">{line}</span>' for line in more)
        kind = ' class="text"' if n in prose else ""
        return f'<th scope="row">{text}</th>' if n == 0 else f"<td{kind}>{text}</td>"

    head = "".join(
        f'<th scope="col"{" class=text" if n in prose else ""}>{html.escape(h)}</th>' for n, h in enumerate(heads)
    )
    body = "".join(f"<tr>{''.join(cell(c, n) for n, c in enumerate(row))}</tr>" for row in rows)
    title = html.escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table><caption><span>{title}</span>'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figures(items: Sequence[Figure], captions: Sequence[str]) -> str:
    shown = "".join(
        f"<figure><h3>{html.escape(f.title)}</h3>"
        f'<div role="img" aria-label="{html.escape(f.description)}">{f.svg}</div>'
        f"<figcaption>{html.escape(c)}</figcaption></figure>"
        for f, c in zip(items, captions)
    )
    return f'<div class="figures">{shown}</div>' if items else ""
