"""Time that a study has taken, over all interrupted and resumed runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..images.writing import write_report


class ElapsedTime:
    """Minutes of one command, stored in the study's cache with those of other commands."""

    def __init__(self, cache: Path, command: str) -> None:
        self.path = cache / "clock.json"
        self.command = command
        self.started = time.monotonic()
        try:
            self.stored = dict(json.loads(self.path.read_text(encoding="utf-8")))
            self.before = float(self.stored.get(command, 0.0))
        except (OSError, ValueError, TypeError):
            self.stored, self.before = {}, 0.0

    def save(self) -> float:
        """Store and return the minutes so far. Called after each job, so that a killed process loses little."""
        minutes = self.before + (time.monotonic() - self.started) / 60
        write_report(self.path, {**self.stored, self.command: minutes})
        return minutes
