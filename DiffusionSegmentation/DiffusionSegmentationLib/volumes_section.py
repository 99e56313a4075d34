"""The panel's table of volumes: each segment's mean, its intervals, and how its samples lie in them."""

import json
from pathlib import Path
from typing import Any

import qt
import slicer

from . import questions, strips, volumes
from .i18n import tr as _
from .scene import RUN_ATTRIBUTE
from .volumes import Volume
from .widgets import enable, fitRows

PLOT_SIZE = 64, 16


class VolumesSection:
    """Shows the volumes of one segmentation node of ours, and takes them elsewhere."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._volumes: list[Volume] = []
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._shown: tuple | None = None
        table = ui.volumesTable
        table.setHorizontalHeaderLabels([_("Structure"), _("Mean"), "50 %", "90 %", _("Samples")])
        header = table.horizontalHeader()
        for column in range(5):
            stretch = column == 0
            header.setSectionResizeMode(column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents)
        table.verticalHeader().visible = False
        header.highlightSections = False
        ui.copyVolumesButton.clicked.connect(self._onCopy)
        ui.saveVolumesButton.clicked.connect(self._onSave)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the volumes of `segmentation`, or that there is none."""
        ui = self._ui
        self._segmentation = segmentation
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        for widget, tip in (
            (ui.volumesTable, _("What the samples say of each structure's volume.")),
            (ui.copyVolumesButton, _("Copy the table with every sample's volumes, to paste into a spreadsheet.")),
            (ui.saveVolumesButton, _("Write the table with every sample's volumes to a file.")),
        ):
            enable(widget, missing, tip)
        report = segmentation.GetAttribute(RUN_ATTRIBUTE) if segmentation else None
        scheme = ui.volumesTable.palette.color(qt.QPalette.Text).name()
        if (report, scheme) == self._shown:
            return
        self._shown = report, scheme
        self._volumes = volumes.volumesOf(json.loads(report)) if report else []
        ui.volumesLabel.text = volumes.noteOn(self._volumes) if report else ""
        ui.volumesLabel.visible = bool(report)
        self._fill()

    def _fill(self) -> None:
        table = self._ui.volumesTable
        table.rowCount = len(self._volumes)
        for row, volume in enumerate(self._volumes):
            texts = [volume.name, volumes.mlText(volume.mean)]
            texts += [volumes.intervalText(interval) for interval in (volume.interval50, volume.interval90)]
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
            table.setCellWidget(row, 4, plot)
        table.setColumnWidth(4, PLOT_SIZE[0] + 8)
        fitRows(table)

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


def _tip(volume: Volume) -> str:
    return _("{name}: {consensus} ml in the segmentation; samples from {low} to {high} ml").format(
        name=volume.name,
        consensus=volumes.mlText(volume.consensus),
        low=volumes.mlText(min(volume.samples)),
        high=volumes.mlText(max(volume.samples)),
    )
