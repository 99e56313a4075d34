"""The report's part on one question: sentences, tables and figures, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.report.tables import Table

HOLDS, FAILS, UNDECIDED, FACT = "holds", "fails", "open", "fact"


@dataclass(frozen=True)
class Figure:
    """A picture as PNG with its caption, and its numbers as rows of a CSV file, headings first."""

    name: str
    png: bytes
    caption: str
    rows: Sequence[Sequence[Any]]


@dataclass
class Summary:
    """Results of one question."""

    sentences: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)  # the numbers behind sentences and tables, for study.json

    def add(self, verdict: str, text: str, claim: bool = False) -> None:
        """Append a sentence; one with `claim` is about a claim of the paper and is repeated at the top of the page."""
        self.sentences.append({"verdict": verdict, "text": text, "claim": claim})


def join(names: Sequence[str]) -> str:
    """Names as a list in a sentence: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def slug(text: str) -> str:
    """The text as part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower()
