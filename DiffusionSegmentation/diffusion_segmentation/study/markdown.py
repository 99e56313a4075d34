"""The report as Markdown, for a repository or a paper's supplement: its pictures are the files in figures/."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.report.html import MARKS
from ..evaluation.report.tables import Cell, Table


def page(title: str, lead: str, sections: Sequence[tuple[str, Sequence[str]]], footer: str) -> str:
    """A whole page of sections (heading, blocks); title, lead and footer are plain text."""
    parts = [f"# {escape(title)}", escape(lead)]
    for heading, blocks in sections:
        parts += [f"## {escape(heading)}", *blocks]
    return "\n\n".join([*parts, escape(footer)]) + "\n"


def sentences(said: Sequence[Mapping[str, Any]]) -> str:
    """A list, each sentence after the mark of its verdict."""
    return "\n".join(f"- {MARKS[sentence['verdict']]} {escape(sentence['text'])}" for sentence in said)


def figure(path: str, caption: str) -> str:
    """A picture and its caption."""
    return f"![{escape(caption)}]({path})\n\n*{escape(caption)}*"


def table(given: Table) -> str:
    """The caption, and below it the table; what stands small in a cell follows in brackets."""
    rows = [[_cell(cell) for cell in row] for row in given.rows]
    head = [escape(text) for text in given.head]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"{escape(given.caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(entries: Mapping[str, str]) -> str:
    """Names and what they are."""
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in entries.items())


def escape(text: str) -> str:
    """Text that Markdown leaves as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _cell(cell: Cell) -> str:
    return escape(f"{cell.text} ({cell.small})" if cell.small else cell.text)
