"""The loop over cases: resumes from stored cases, skips unusable ones, and shows the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import GeometryError, InputError
from ..runtime.terminal import ProgressLine
from .store import CaseStore

Records = dict[str, dict[str, Any]]
Work = Callable[[int], tuple[dict[str, Any], dict[str, np.ndarray]]]


def run_cases(
    names: Sequence[str], work: Work, store: CaseStore, files: Callable[[int], Mapping[str, Any]] = lambda index: {}
) -> tuple[Records, dict[str, str]]:
    """Evaluate the cases that are not stored yet; returns the records by name, and the error text of skipped cases.

    `work(index)` returns record and picture of a case. An InputError or GeometryError skips the case; any other error
    ends the run, with finished cases stored. Raises InputError when no case is left.
    """
    records: Records = {}
    skipped: dict[str, str] = {}
    new_line = "\n" if sys.stderr.isatty() else ""  # ends the progress line
    with ProgressLine() as line:
        progress = _Progress(len(names), line)
        try:
            for index, name in enumerate(names):
                progress.show(index)
                try:
                    about = files(index)
                    record = store.get(name, about)
                    if record is None:
                        record, picture = work(index)
                        store.put(name, record, picture, about)
                        progress.evaluated += 1
                except (InputError, GeometryError) as error:
                    skipped[name] = str(error)
                    print(f"{new_line}case {name} is skipped: {error}", file=sys.stderr, flush=True)
                else:
                    records[name] = record
        except KeyboardInterrupt:
            text = f"{len(records)} of {len(names)} cases are done and stored; repeat the command to resume."
            print(new_line + text, file=sys.stderr, flush=True)
            raise
    if not records:
        raise InputError(f"None of the {len(names)} cases can be used; the first: {next(iter(skipped.values()))}")
    return records, skipped


class _Progress:
    """Shows the current case and the time left, estimated from the cases that were not stored."""

    def __init__(self, total: int, line: ProgressLine) -> None:
        self.total, self.line, self.evaluated = total, line, 0
        self.start = self.shown = time.monotonic()
        self.period = 0.1 if sys.stderr.isatty() else 15.0  # s

    def show(self, index: int) -> None:
        now = time.monotonic()
        if 0 < index < self.total - 1 and now - self.shown < self.period:
            return
        self.shown, stage = now, f"case {index + 1} of {self.total}"
        if self.evaluated:
            seconds = (now - self.start) / self.evaluated * (self.total - index)
            stage += f", {f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'} left"
        self.line(SimpleNamespace(stage=stage, steps=None, seconds_left=None))
