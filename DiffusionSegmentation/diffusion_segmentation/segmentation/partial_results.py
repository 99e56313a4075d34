"""Result files of a run that still goes on: previews, and the whole result of the samples so far."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DiffusionSegmentationError
from .outputs import ResultWriter, finish
from .request import Preview, Request
from .run_control import RunControl

logger = logging.getLogger(__name__)

PREFIX = "finished-"  # of the folder with the results of the first N samples, finished-N
INTERVAL_SECONDS = 20.0  # minimum time between partial results: sampling time that is lost if the process is killed


class PartialResults:
    """Writes previews and partial results into the output folder of a run, if it asks for previews."""

    def __init__(
        self, request: Request, control: RunControl, writer: ResultWriter, preview: Callable[[Preview], None]
    ) -> None:
        self._request, self._control, self._writer, self._preview = request, control, writer, preview
        self._next = time.monotonic() + INTERVAL_SECONDS
        self._saved: Path | None = None

    def preview(self, probabilities: np.ndarray, samples: int) -> None:
        """Write and report the maps of class probabilities [C, z, y, x]. A write error is logged and ignored."""
        if not self._request.previews:
            return
        self._control.check_dropped()
        folder = output_folder(self._request, self._control)
        paths = folder / f"preview-{samples}.seg.nrrd", folder / f"preview-{samples}-entropy.nrrd"
        try:
            self._writer.write_maps(probabilities, *paths)
        except DiffusionSegmentationError as error:
            logger.info(f"A preview could not be written: {error}")
            return
        self._preview(Preview(*paths, samples))

    def save(self, samples: int, write: Callable[[Path], dict[str, Any]]) -> None:
        """If INTERVAL_SECONDS have passed, let `write` fill the folder finished-N, and remove the one before.

        The client uses it if this process is killed. report.json is written last, so a folder that has one is complete.
        A write error is logged and ignored.
        """
        if not self._request.previews or time.monotonic() <= self._next:
            return
        self._control.check_dropped()
        folder = output_folder(self._request, self._control) / f"{PREFIX}{samples}"
        start, created = time.monotonic(), False
        try:
            folder.mkdir()
            created = True
            report = write(folder)
            timings = {"sampling": start - self._control.stage_start, "writing": time.monotonic() - start}
            finish(folder, report, self._control.timings | timings, stopped=True)
        except (DiffusionSegmentationError, OSError, MemoryError) as error:
            logger.info(f"The samples so far could not be kept: {error}")
            if created:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            self.remove()
            self._saved = folder
        # Partial results take at most a tenth of the time; writing a head at 1 mm takes 2 s.
        self._next = time.monotonic() + max(INTERVAL_SECONDS, 10 * (time.monotonic() - start))

    def remove(self) -> None:
        """Remove the saved results, once newer ones are complete."""
        if self._saved is not None:
            shutil.rmtree(self._saved, ignore_errors=True)
            self._saved = None


def output_folder(request: Request, control: RunControl) -> Path:
    """The output folder, created again if it was removed during the run (temporary files may be cleared)."""
    folder = request.output
    if not folder.is_dir():
        control.check_dropped()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
