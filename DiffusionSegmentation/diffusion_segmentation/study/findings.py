"""What a question has found: sentences, tables and figures, with the numbers behind each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.report.tables import Table

HOLDS, FAILS, UNDECIDED, FACT = "holds", "fails", "open", "fact"


@dataclass(frozen=True)
class Figure:
    """A picture as PNG, what it shows, and its numbers as rows of a table (the first row are the headings)."""

    name: str
    png: bytes
    caption: str
    rows: Sequence[Sequence[Any]]


@dataclass
class Findings:
    """Of one question."""

    sentences: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    """All that the sentences and tables rest on, as it goes into study.json."""

    def say(self, verdict: str, text: str, claim: bool = False) -> None:
        """Add a sentence; with `claim` it confirms or contradicts one of the paper's and stands on top of the page."""
        self.sentences.append({"verdict": verdict, "text": text, "claim": claim})


def listed(names: Sequence[str]) -> str:
    """As people say it: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def interval(found: Mapping[str, Any], digits: int = 3) -> str:
    """A difference with its interval, "-0.021 (-0.034 to -0.010)"."""
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:+.{digits}f}"
    return f"{found['value']:+.{digits}f} ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"


def slug(text: str) -> str:
    """A part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower()
