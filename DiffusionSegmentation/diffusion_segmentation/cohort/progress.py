"""Progress of a cohort on stderr: cases done, failed and left, cases a minute, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ..errors import shown
from .index import Entry

LINE_SECONDS = 30.0  # between lines where stderr is no terminal
TERMINAL_SECONDS = 1.0


class CohortProgress:
    """One line that is rewritten in a terminal; elsewhere a line every 30 s. Use it as a context, which ends the line.

    `computed` cases were segmented by this command, which others that were done before do not make faster.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries, self._terminal, self._width = entries, sys.stderr.isatty(), 0
        self._checked: set[int] = set()
        self._start: float | None = None
        self._next = 0.0

    def __enter__(self) -> CohortProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._width:
            print(file=sys.stderr)

    def failed(self, entry: Entry) -> None:
        """Show the line of a case that failed."""
        text = f"{shown(entry.case.name)}: {entry.error}"
        print(f"\r{text:<{self._width}}" if self._terminal else text, file=sys.stderr, flush=True)
        self._next, self._width = 0.0, 0

    def show(self, computed: int, running: int) -> None:
        """Show the progress, if it is time to; `computed` cases were segmented by this command, `running` run now."""
        now = time.monotonic()
        if self._start is None and running:
            self._start = now
        if now < self._next:
            return
        self._next = now + (TERMINAL_SECONDS if self._terminal else LINE_SECONDS)
        text = progress_text(self._entries, computed, 0.0 if self._start is None else now - self._start)
        if self._terminal:
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def counts(entries: Sequence[Entry]) -> dict[str, int]:
    """Number of cases in each state."""
    return {state: sum(entry.state == state for entry in entries) for state in ("done", "failed", "left")}


def progress_text(entries: Sequence[Entry], computed: int, seconds: float) -> str:
    """The progress after `seconds` in which `computed` cases were segmented."""
    of = counts(entries)
    text = ", ".join(f"{number} {state}" for state, number in of.items())
    if not computed or seconds <= 0:
        return text
    rate = 60 * computed / seconds
    return f"{text}; {rate:.3g} cases a minute, {_duration(60 * of['left'] / rate)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
