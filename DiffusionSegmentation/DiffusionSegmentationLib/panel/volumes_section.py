"""The panel's table of volumes: what is expected of each segment, what its mask has, and how its samples spread."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..scene import volumes
from ..scene.result_nodes import RUN_ATTRIBUTE
from ..scene.volumes import Volume
from . import dialogs as questions
from . import strips
from .widgets import enable, fitRows

PLOT_SIZE = 48, 16
MASK, PLOT = 2, 4
"""Columns that are shown on demand only."""


class VolumesSection:
    """Shows the volumes of one segmentation node of ours, and takes them elsewhere."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._volumes: list[Volume] = []
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._shown: tuple | None = None
        self._notes = ""
        table = ui.volumesTable
        header = table.horizontalHeader()
        for column in range(5):
            stretch = column == 0
            header.setSectionResizeMode(column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents)
        table.verticalHeader().visible = False
        header.highlightSections = False
        ui.detailsCheckBox.toggled.connect(lambda _on: self._fill())
        ui.copyVolumesButton.clicked.connect(self._onCopy)
        ui.saveVolumesButton.clicked.connect(self._onSave)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the volumes of `segmentation`, or that there is none."""
        ui = self._ui
        self._segmentation = segmentation
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        for widget, tip in (
            (ui.volumesTable, _("Each structure's volume, and how the model's samples spread.")),
            (ui.copyVolumesButton, _("Copy the table with every sample's volumes, to paste into a spreadsheet.")),
            (ui.saveVolumesButton, _("Write the table with every sample's volumes to a file.")),
        ):
            enable(widget, missing, tip)
        report = segmentation.GetAttribute(RUN_ATTRIBUTE) if segmentation else None
        scheme = ui.volumesTable.palette.color(qt.QPalette.Text).name()
        if (report, scheme) == self._shown:
            return
        self._shown = report, scheme
        run = json.loads(report) if report else {}
        self._volumes = volumes.volumesOf(run) if report else []
        notes = (volumes.volumesNote(self._volumes), volumes.coverageText(run)) if report else ()
        self._notes = "\n".join(filter(None, notes))
        self._fill()

    def _fill(self) -> None:
        table, details = self._ui.volumesTable, self._ui.detailsCheckBox.checked
        label = self._ui.volumesLabel
        label.text = self._notes if details else volumes.fewSamplesWarning(self._volumes)
        label.visible = bool(label.text)
        titles = _titles(self._volumes, details)
        for button in (self._ui.copyVolumesButton, self._ui.saveVolumesButton):
            button.visible = details
        for column in (MASK, PLOT):
            table.setColumnHidden(column, not details)
        table.setHorizontalHeaderLabels([title for title, _tip in titles])
        for column, (_title, tip) in enumerate(titles):
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.rowCount = len(self._volumes)
        for row, volume in enumerate(self._volumes):
            intervals = [volumes.intervalText(volume.interval90)]
            if details:
                intervals.insert(0, volumes.intervalText(volume.interval50))
            texts = [volume.name, *map(volumes.mlText, (volume.shown, volume.mask)), "\n".join(intervals)]
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(_tip(volume))
                if column:
                    item.setTextAlignment(qt.Qt.AlignCenter)
                table.setItem(row, column, item)
            plot = qt.QLabel()
            plot.alignment = qt.Qt.AlignCenter
            plot.pixmap = strips.spread(table, *PLOT_SIZE, volume.samples, volume.interval90, self._color(volume))
            plot.toolTip = _tip(volume)
            table.setCellWidget(row, PLOT, plot)
        table.setColumnWidth(PLOT, PLOT_SIZE[0] + 8)
        fitRows(table, sys.maxsize)

    def _color(self, volume: Volume) -> Any:
        segment = self._segmentation.GetSegmentation().GetSegment(volume.segmentID)
        return qt.QColor(*(round(255 * part) for part in segment.GetColor())) if segment else qt.QColor(128, 128, 128)

    def _onCopy(self) -> None:
        qt.QApplication.clipboard().setText(volumes.asTable(self._volumes, "\t"))

    def _onSave(self) -> None:
        name = _("segmentation volumes.csv")  # not after the volume, whose name may be a patient's
        path = questions.fileToSave(
            self._ui.saveVolumesButton, _("Save the volumes"), name, _("Comma-separated values (*.csv)")
        )
        if not path:
            return
        with slicer.util.tryWithErrorDisplay(_("The volumes could not be saved.")):
            # The mark lets spreadsheets read names that are not English.
            draft = Path(f"{path}.part")
            try:
                draft.write_text(volumes.asTable(self._volumes, ","), encoding="utf-8-sig", newline="")
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)


def _titles(told: Sequence[Volume], details: bool) -> list[tuple[str, str]]:
    """Title and tooltip of each column; without `details` of the 90 % intervals alone."""
    if volumes.isExpected(told):
        shown = _("Expected"), _("Expected volume: the class probabilities of the map summed over all voxels.")
    else:
        shown = _("Mean"), _("Mean of the samples' volumes.")
    fifty = _("Where the volume of one more sample would lie with 50 % and with 90 % probability.")
    ninety = _("Where the volume of one more sample would lie with 90 % probability: a spread, not an accuracy.")
    return [
        (_("Structure"), _("The model's structures.")),
        (f"{shown[0]}\n(ml)", shown[1]),
        (_("Mask\n(ml)"), _("Volume of the segmentation, in which each voxel counts as its most probable structure.")),
        (_("50 %\n90 %\n(ml)"), fifty) if details else (_("90 %\n(ml)"), ninety),
        (_("Samples"), _("The volume of each sample, and the 90 % interval as a line.")),
    ]


def _tip(volume: Volume) -> str:
    text = _("{name}: {shown} ml, in the mask {mask} ml; samples from {low} to {high} ml, on average {mean} ml")
    return text.format(
        name=volume.name,
        shown=volumes.mlText(volume.shown),
        mask=volumes.mlText(volume.mask),
        low=volumes.mlText(min(volume.samples)),
        high=volumes.mlText(max(volume.samples)),
        mean=volumes.mlText(volume.mean),
    )
