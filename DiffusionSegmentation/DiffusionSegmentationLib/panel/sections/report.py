"""Section "Report": writes the report of a result to a file, and adds the case to a data set."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer

from ...i18n import tr as _
from ...report.page import Report
from .. import dialogs
from ..backend import Backend
from ..widgets import Section, enable, missingResult
from .data_set import DataSetSection


class ReportSection(Section):
    """Writes reports on a result step by step, so that Slicer stays responsive."""

    def __init__(self, ui: Any, backend: Backend, inputs: Callable[[], dict[str, Any]]) -> None:
        """Arguments as for DataSetSection."""
        super().__init__(ui)
        self._dataSet = DataSetSection(ui, backend, inputs)
        self._steps: Iterator[None] | None = None
        self._path: Path | None = None
        self._status = ""
        ui.reportButton.clicked.connect(self._onSave)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        self._dataSet.refresh(segmentation)
        if segmentation is not self._segmentation:
            self._segmentation, self._status = segmentation, ""
        problem = missingResult(segmentation)
        problem = problem or (_("The report is being written.") if self._steps is not None else None)
        enable(problem, self._ui.reportButton)
        self._ui.reportLabel.text = self._status
        self._ui.reportLabel.visible = bool(self._status)

    def close(self) -> None:
        """Stop writing; the report stays incomplete."""
        self._stop()
        self._dataSet.close()

    def _stop(self) -> None:
        self._timer.stop()
        self._steps = None

    def _onSave(self, *_arguments: Any) -> None:
        # The default name does not contain the volume's name, which may identify a patient.
        name = _("segmentation report.html")
        path = dialogs.selectFileToSave(self._ui.reportButton, _("Save the report"), name, _("Web page (*.html)"))
        if not path:
            return
        self._path = Path(path)
        if self._path.suffix.lower() not in (".html", ".htm"):
            self._path = self._path.with_name(self._path.name + ".html")
        self._status = _("Rendering the pictures ...")
        try:
            self._steps = Report(self._segmentation).writeSteps(self._path)
        except LookupError as error:
            self._status = str(error)
        else:
            self._timer.start()
        self.refresh(self._segmentation)

    def _onTimer(self) -> None:
        try:
            next(self._steps)
            return
        except StopIteration:
            self._status = _("Saved as {path}, with a .json and a .csv file beside it.").format(path=self._path)
        except (OSError, LookupError) as error:
            self._status = _("The report could not be written: {reason}.").format(reason=str(error).rstrip("."))
        self._stop()
        self.refresh(self._segmentation)
