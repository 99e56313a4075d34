"""One case after another: what is done is kept, what cannot be read is told, and somebody waits for the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import GeometryError, InputError
from ..runtime.terminal import ProgressLine
from .store import Kept

QUIET_SECONDS = 15.0
"""Outside a terminal a line of progress is written at most this often."""

Work = Callable[[int], tuple[dict[str, Any], dict[str, np.ndarray]]]


def each_case(
    names: Sequence[str], work: Work, kept: Kept, files: Callable[[int], Mapping[str, Any]] = lambda index: {}
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Evaluate the cases that are not kept yet; returns the records by name, and the sentences of those skipped.

    `work(index)` gives record and picture of a case. An InputError or GeometryError skips the case; everything else
    ends the run, and what is finished is kept. Raises InputError when no case is left.
    """
    records: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    with ProgressLine() as line:
        progress = _Countdown(len(names), line)
        try:
            for index, name in enumerate(names):
                progress(index)
                try:
                    about = files(index)
                    record = kept.get(name, about)
                    if record is None:
                        record, picture = work(index)
                        kept.put(name, record, picture, about)
                        progress.worked += 1
                except (InputError, GeometryError) as error:
                    skipped[name] = str(error)
                    print(f"{_new_line()}case {name} is left out: {error}", file=sys.stderr, flush=True)
                    continue
                records[name] = record
        except KeyboardInterrupt:
            told = f"{len(records)} of {len(names)} cases are done and kept; the same command goes on with the others."
            print(_new_line() + told, file=sys.stderr, flush=True)
            raise
    if not records:
        raise InputError(f"None of the {len(names)} cases can be used; the first: {next(iter(skipped.values()))}")
    return records, skipped


class _Countdown:
    """Says which case it is and how long the others will take; cases that were kept take no time."""

    def __init__(self, total: int, line: ProgressLine) -> None:
        self.total, self.line, self.worked = total, line, 0
        self.start = self.shown = time.monotonic()

    def __call__(self, index: int) -> None:
        now = time.monotonic()
        if 0 < index < self.total - 1 and now - self.shown < (0.1 if sys.stderr.isatty() else QUIET_SECONDS):
            return
        self.shown = now
        left = (now - self.start) / self.worked * (self.total - index) if self.worked else None
        told = "" if left is None else f", {_duration(left)} left"
        self.line(SimpleNamespace(stage=f"case {index + 1} of {self.total}{told}", steps=None, seconds_left=None))


def _new_line() -> str:
    """In a terminal the line of progress has not ended yet."""
    return "\n" if sys.stderr.isatty() else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
