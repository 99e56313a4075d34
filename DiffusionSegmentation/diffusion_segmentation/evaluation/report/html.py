"""One self-contained, printable HTML page: no scripts and no external files. All arguments are plain text."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from .formatting import VERDICTS
from .tables import Cell, Table

MARKS = {"holds": "✓", "fails": "✗", "open": "?", "fact": "·"}

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
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); }
td small { display: block; font-size: .76rem; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; }
figure { margin: .5rem 0 1rem; }
.figures figure { flex: 1 1 24rem; max-width: 31rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { margin-top: .2rem; max-width: 46rem; }
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


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """A complete page; sections are (heading, HTML)."""
    body = "".join(f"<section><h2>{escape(heading)}</h2>{content}</section>\n" for heading, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{body}'
        f"<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def facts(entries: Mapping[str, str]) -> str:
    """A list of names and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items()) + "</dl>"


def sentences(entries: Sequence[Mapping[str, str]]) -> str:
    """Sentences {"verdict", "text"}; the verdict is a mark, not colour alone."""
    items = "".join(
        f'<li class="{s["verdict"]}"><span class="mark" title="{VERDICTS[s["verdict"]]}">{MARKS[s["verdict"]]}</span>'
        f"<span>{escape(s['text'])}</span></li>"
        for s in entries
    )
    legend = ", ".join(f"{MARKS[verdict]} {words}" for verdict, words in VERDICTS.items())
    return f'<ul class="verdicts">{items}</ul><p class="legend">{escape(legend)}.</p>'


def table(content: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in content.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in content.rows)
    return (
        f'<div class="wide"><table><caption>{escape(content.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    if cell.passed is None:
        return f"<td>{escape(cell.text)}{small}</td>"
    mark, name = ("✓", "passed") if cell.passed else ("✗", "failed")
    return f'<td class="{name}">{escape(cell.text)}&nbsp;{mark}{small}</td>'


def figure(content: bytes, text: str, caption: str = "") -> str:
    """An embedded PNG; `text` is the alternative text and the default caption."""
    data = base64.b64encode(content).decode("ascii")
    below = f"<figcaption>{escape(caption or text)}</figcaption>"
    return f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}">{below}</figure>'


def side_by_side(plots: Mapping[str, bytes]) -> str:
    """PNGs by caption."""
    return f'<div class="figures">{"".join(figure(content, caption) for caption, content in plots.items())}</div>'
