"""Part of section "Report": adds the corrected case to a data set, from which a model can be trained on."""

from collections.abc import Callable
from typing import Any

import slicer

from ...i18n import tr as _
from ...report.page import Report
from ...runs.case_export import CaseExport, channelName
from ...runs.handover import HandoverError
from .. import dialogs
from ..backend import Backend
from ..widgets import Section, enable, missingResult

FOLDER_SETTING = "dataSetFolder"
FACTS = ("edited_voxels", "review")
"""Entries of a report that are kept beside the labels: none that can identify a patient, such as names of nodes."""


class DataSetSection(Section):
    TIMER_MILLISECONDS = 100

    def __init__(self, ui: Any, backend: Backend, inputs: Callable[[], dict[str, Any]]) -> None:
        """`inputs` returns the selected volumes by the names of the model's inputs, if there are several."""
        super().__init__(ui)
        self._backend, self._inputs = backend, inputs
        self._export: CaseExport | None = None
        self._status = ""
        ui.addCaseButton.clicked.connect(self._onAdd)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        if segmentation is not self._segmentation:
            self._segmentation = segmentation
            self._status = self._export.message if self._export is not None else ""
        busy = _("A case is being added.") if self._export is not None else None
        enable(missingResult(segmentation) or busy, self._ui.addCaseButton)
        self._ui.addCaseLabel.text = self._status
        self._ui.addCaseLabel.visible = bool(self._status)

    def close(self) -> None:
        super().close()
        if self._export is not None:
            self._export.close()
            self._export = None

    def _onAdd(self, *_arguments: Any) -> None:
        settings = self._backend.settings
        title, last = _("Select the folder of the data set, or an empty one"), settings.value(FOLDER_SETTING)
        folder = dialogs.selectFolder(self._ui.addCaseButton, title, last)
        if not folder:
            return
        settings.setValue(FOLDER_SETTING, folder)
        try:
            report = Report(self._segmentation).content()
            run = report["run"]
            facts: dict[str, Any] = {key: report[key] for key in FACTS}
            facts |= {"facts": report["facts"]} if "facts" in report else {}
            facts["model"] = {key: run["model"].get(key) for key in ("name", "version", "sha256")}
            channel = channelName(run, self._backend.models())
            given = folder, facts, self._backend.command, channel, self._inputs(), slicer.app.temporaryPath
            self._export = CaseExport(self._segmentation, *given)
        except (LookupError, HandoverError) as error:
            self._status = str(error)
        else:
            self._status = self._export.message
            self._timer.start()
        self.refresh(self._segmentation)

    def _onTimer(self) -> None:
        self._export.poll()
        if self._export.running:
            return
        self._timer.stop()
        self._status, self._export = self._export.message, None
        self.refresh(self._segmentation)
