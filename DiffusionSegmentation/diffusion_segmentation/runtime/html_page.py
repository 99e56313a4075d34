"""One self-contained, printable HTML page without external files. Standard library only.

Arguments are plain text, except those that are called HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
:root { --ink: #1c1c1e; --soft: #5c5f66; --line: #d9dbe0; --good: #1b7a43; --bad: #b3261e; --open: #8a5a00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: var(--ink); background: #fff;
  max-width: 76rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; font-weight: 650; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.02rem; }
.lead, .legend, dt, caption, td small, figcaption, footer, .legend, table, figcaption, footer { font-size: .87rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: .6rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
ul.verdicts { list-style: none; padding: 0; margin: .4rem 0; max-width: 58rem; }
ul.verdicts li { display: grid; grid-template-columns: 1.4rem 1fr; margin: .35rem 0; }
.mark { font-weight: 700; }
.holds .mark, .passed { color: var(--good); }
.fails .mark, .failed { color: var(--bad); }
.open .mark { color: var(--open); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0 1.4rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 11rem; }
td:first-child small { white-space: normal; max-width: 17rem; }
table.texts th:first-child, table.texts td:first-child { min-width: 0; }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); }
td small { display: block; font-size: .76rem; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; }
figure { margin: .5rem 0 1rem; }
.figures figure { flex: 1 1 24rem; max-width: 31rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { margin-top: .2rem; max-width: 46rem; }
td.text, th.text { text-align: left; }
.note { color: var(--soft); }
code { background: #f2f2f4; padding: .1rem .3rem; overflow-wrap: anywhere; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; }
  h2, caption, thead { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
  .wide { overflow: visible; }
  th, td { padding: .2rem .35rem; }
  th:first-child, td:first-child { min-width: 0; }
  td small { font-size: .65rem; }
}
"""


def page(title: str, body: str) -> str:
    """A complete page with a title and an HTML `body`."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, style: str = "") -> str:
    """A paragraph; `style` is a class of STYLE."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def figure(content: bytes, text: str, caption: str = "") -> str:
    """An embedded PNG; `text` is the alternative text and the default caption."""
    data = base64.b64encode(content).decode("ascii")
    below = f"<figcaption>{escape(caption or text)}</figcaption>"
    return f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}">{below}</figure>'


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A table of texts; the columns `left` are aligned left, as the first one is, the others right."""

    def line(kind: str, values: Sequence[str]) -> str:
        classes = (' class="text"' if column in left else "" for column in range(len(values)))
        cells = (f"<{kind}{name}>{escape(value)}</{kind}>" for name, value in zip(classes, values, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="wide"><table class="texts"><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'
    )
