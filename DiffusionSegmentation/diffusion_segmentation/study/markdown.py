"""Parts of the report as Markdown, with the functions of `evaluation.report.html`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.report.html import MARKS
from ..evaluation.report.tables import Table


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """A page of sections (heading, Markdown); title, lead and footer are plain text."""
    parts = [f"# {escape(title)}", escape(lead)]
    for heading, content in sections:
        parts += [f"## {escape(heading)}", content]
    return "\n\n".join([*parts, escape(footer)]) + "\n"


def paragraph(text: str) -> str:
    return escape(text)


def sentences(entries: Sequence[Mapping[str, Any]]) -> str:
    """A list of sentences, each with the mark of its verdict."""
    return "\n".join(f"- {MARKS[sentence['verdict']]} {escape(sentence['text'])}" for sentence in entries)


def figure(path: str, caption: str) -> str:
    return f"![{escape(caption)}]({path})\n\n*{escape(caption)}*"


def table(content: Table) -> str:
    """Caption and table; the small text of a cell follows in brackets."""
    rows = [[escape(cell.plain) for cell in row] for row in content.rows]
    head = [escape(text) for text in content.head]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"{escape(content.caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(entries: Mapping[str, str]) -> str:
    """A list of names and values."""
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in entries.items())


def escape(text: str) -> str:
    """Text in one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))
