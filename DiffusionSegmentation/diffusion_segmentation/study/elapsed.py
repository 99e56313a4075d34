"""How long a study took, over all the times that it was stopped and went on."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..images.writing import write_report


class Clock:
    """Minutes of one command, kept in the study's cache beside those of others."""

    def __init__(self, cache: Path, command: str) -> None:
        self.path = cache / "clock.json"
        self.command = command
        self.started = time.monotonic()
        try:
            self.spent = dict(json.loads(self.path.read_text(encoding="utf-8")))
            self.before = float(self.spent.get(command, 0.0))
        except (OSError, ValueError, TypeError):
            self.spent, self.before = {}, 0.0

    def book(self) -> float:
        """Write the minutes so far, which are returned: a process that is killed afterwards has not worked unseen."""
        minutes = self.before + (time.monotonic() - self.started) / 60
        write_report(self.path, {**self.spent, self.command: minutes})
        return minutes
