"""Parts of the HTML reports of evaluation and study. All arguments are plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ...runtime import html_page
from ...runtime.html_page import figure, paragraph
from .formatting import VERDICTS
from .tables import Cell, Table

__all__ = ("figure", "paragraph")  # for the reports

MARKS = {"holds": "✓", "fails": "✗", "open": "?", "fact": "·"}


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """A complete page; sections are (heading, HTML)."""
    body = "".join(f"<section>{html_page.heading(name)}{content}</section>\n" for name, content in sections)
    return html_page.page(title, f"{paragraph(lead, 'lead')}\n{body}<footer>{escape(footer)}</footer>\n")


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


def side_by_side(plots: Mapping[str, bytes]) -> str:
    """PNGs by caption."""
    return f'<div class="figures">{"".join(figure(content, caption) for caption, content in plots.items())}</div>'
