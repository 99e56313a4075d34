"""Progress, timing and cancellation of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from ..errors import Cancelled
from .request import Progress


class SamplingStopped(Exception):
    """Raised during sampling when the run is to finish with the samples drawn so far."""


class RunControl:
    """Reports the progress of a run and raises when the client cancels it (see `pipeline.segment`)."""

    def __init__(
        self, progress: Callable[[Progress], None], cancel: Callable[[], Literal["keep", "drop"] | None]
    ) -> None:
        self.progress, self.cancel = progress, cancel
        self.samples = 0  # drawn so far
        self.timings: dict[str, float] = {}  # seconds in each stage
        self.stage_start = 0.0  # time.monotonic
        self._stage = self.note = ""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report that a stage begins, and time it."""
        self._stage = name
        self.progress(Progress(name))
        self.check()
        self.stage_start = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - self.stage_start

    def notify(self, note: str) -> None:
        """Report a sentence, which all later progress of sampling repeats."""
        self.note = note
        self.progress(Progress(self._stage, note=note))

    def check(self) -> None:
        """Raise Cancelled, or SamplingStopped during sampling if there are samples to keep."""
        answer = self.cancel()
        if answer == "drop" or (answer == "keep" and not self.samples):
            raise Cancelled
        if answer == "keep" and self._stage == "sampling":
            raise SamplingStopped

    def check_dropped(self) -> None:
        """Raise Cancelled if the run is to be discarded; called before files are written."""
        if self.cancel() == "drop":
            raise Cancelled

    def checked_layers(self) -> RemovableHandle:
        """Context that calls `check` before each layer of any network: a pass over a window takes seconds on a CPU."""
        return register_module_forward_pre_hook(lambda *_: self.check())
