"""The panel's section for the report: one click, one file name, and the page is there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..report.page import Report
from . import dialogs as questions
from .widgets import enable


class ReportSection:
    """Writes reports on one segmentation node of ours, a piece at a time, so that the windows stay alive."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._steps: Iterator[None] | None = None
        self._path: Path | None = None
        self._said = ""
        self._timer = qt.QTimer()
        self._timer.interval = 0
        self._timer.timeout.connect(self._step)
        ui.reportButton.clicked.connect(self._onSave)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Report on `segmentation` from now on, or on nothing."""
        if segmentation is not self._segmentation:
            self._segmentation, self._said = segmentation, ""
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        missing = missing or (_("The report is being written.") if self._steps is not None else None)
        tip = _("Write a page with volumes, pictures of the worst regions, the review and all settings.")
        enable(self._ui.reportButton, missing, tip)
        self._ui.reportLabel.text = self._said
        self._ui.reportLabel.visible = bool(self._said)

    def close(self) -> None:
        """Give up a report that is being written."""
        self._timer.stop()
        self._steps = None

    def _onSave(self, *_arguments: Any) -> None:
        # Not named after the volume, whose name may be a patient's.
        name = _("segmentation report.html")
        path = questions.fileToSave(self._ui.reportButton, _("Save the report"), name, _("Web page (*.html)"))
        if not path:
            return
        self._path = Path(path)
        if self._path.suffix.lower() not in (".html", ".htm"):
            self._path = self._path.with_name(self._path.name + ".html")
        self._said = _("Drawing the pictures ...")
        try:
            self._steps = Report(self._segmentation).writeSteps(self._path)
        except LookupError as error:
            self._said = str(error)
        else:
            self._timer.start()
        self.refresh(self._segmentation)

    def _step(self) -> None:
        try:
            next(self._steps)
            return
        except StopIteration:
            self._said = _("Written to {path}, with .json and .csv beside it.").format(path=self._path)
        except (OSError, LookupError) as error:
            self._said = _("The report could not be written: {reason}.").format(reason=str(error).rstrip("."))
        self.close()
        self.refresh(self._segmentation)
