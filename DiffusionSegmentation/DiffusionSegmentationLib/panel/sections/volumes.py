"""Volume table of section "Results": expected volume, mask volume, intervals and samples of each structure."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qt
import slicer.util

from ...i18n import tr as _
from ...runs.temporary_files import writeCompletely
from ...scene import volumes
from ...scene.result_nodes import RUN_ATTRIBUTE, reportOf
from ...scene.volumes import Volume
from .. import dialogs
from ..plots import dotPlot
from ..widgets import Section, enable, fitColumns, fitRows, missingResult, setCell

PLOT_SIZE = 48, 16
NAME_COLUMN, MASK_COLUMN, PLOT_COLUMN = 0, 2, 4
"""The mask and plot columns are shown only with the details."""


class VolumesSection(Section):
    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._volumes: list[Volume] = []
        self._filledFor: tuple | None = None
        """Report and text colour for which the table was last filled."""
        self._notes = ""
        fitColumns(ui.volumesTable, NAME_COLUMN)
        ui.detailsCheckBox.toggled.connect(lambda _on: self._fillTable())
        ui.copyVolumesButton.clicked.connect(self._onCopy)
        ui.saveVolumesButton.clicked.connect(self._onSave)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        ui = self._ui
        self._segmentation = segmentation
        enable(missingResult(segmentation), ui.volumesTable, ui.copyVolumesButton, ui.saveVolumesButton)
        report = segmentation.GetAttribute(RUN_ATTRIBUTE) if segmentation else None
        state = report, ui.volumesTable.palette.color(qt.QPalette.Text).name()
        if state == self._filledFor:
            return
        self._filledFor = state
        run = reportOf(segmentation) if report else {}
        self._volumes = run.get("volumes", [])
        notes = (volumes.volumesNote(self._volumes), volumes.coverageText(run)) if report else ()
        self._notes = "\n".join(filter(None, notes))
        self._fillTable()

    def _fillTable(self) -> None:
        ui, table, details = self._ui, self._ui.volumesTable, self._ui.detailsCheckBox.checked
        ui.volumesLabel.text = self._notes if details else volumes.fewSamplesWarning(self._volumes)
        ui.volumesLabel.visible = bool(ui.volumesLabel.text)
        ui.copyVolumesButton.visible = ui.saveVolumesButton.visible = details
        for column in (MASK_COLUMN, PLOT_COLUMN):
            table.setColumnHidden(column, not details)
        headers = _headers(self._volumes, details)
        table.setHorizontalHeaderLabels([title for title, _tooltip in headers])
        for column, (_title, tooltip) in enumerate(headers):
            table.horizontalHeaderItem(column).setToolTip(tooltip)
        table.rowCount = len(self._volumes)
        intervalKeys = ("interval50_ml", "interval90_ml") if details else ("interval90_ml",)
        if volumes.isRange(self._volumes):
            intervalKeys = ("range_ml",)
        for row, volume in enumerate(self._volumes):
            intervals = [volume[key] for key in intervalKeys]
            texts = [volume["name"], *map(volumes.mlText, (volumes.shownMl(volume), volume["consensus_ml"]))]
            for column, text in enumerate([*texts, "\n".join(map(volumes.intervalText, intervals))]):
                setCell(table, row, column, text, _tooltip(volume), centred=column != NAME_COLUMN)
            plot = qt.QLabel()
            plot.alignment = qt.Qt.AlignCenter
            plot.toolTip = _tooltip(volume)
            color = self._color(volume["id"])
            plot.pixmap = dotPlot(table, *PLOT_SIZE, volume["samples_ml"], volume["interval90_ml"], color)
            table.setCellWidget(row, PLOT_COLUMN, plot)
        table.setColumnWidth(PLOT_COLUMN, PLOT_SIZE[0] + 8)
        fitRows(table, sys.maxsize)

    def _color(self, segmentID: str) -> Any:
        segment = self._segmentation.GetSegmentation().GetSegment(segmentID)
        return qt.QColor(*(round(255 * part) for part in segment.GetColor())) if segment else qt.QColor(128, 128, 128)

    def _onCopy(self) -> None:
        qt.QApplication.clipboard().setText(volumes.asTable(self._volumes, "\t"))

    def _onSave(self) -> None:
        name = _("segmentation volumes.csv")  # without the volume's name, which may identify a patient
        filters = _("Comma-separated values (*.csv)")
        path = dialogs.selectFileToSave(self._ui.saveVolumesButton, _("Save the volumes"), name, filters)
        if not path:
            return
        with slicer.util.tryWithErrorDisplay(_("The volumes could not be saved.")):
            # Spreadsheets need the byte order mark to read names with non-ASCII characters.
            writeCompletely(Path(path), volumes.asTable(self._volumes, ","), encoding="utf-8-sig")


def _headers(shown: Sequence[Volume], details: bool) -> list[tuple[str, str]]:
    """Return title and tooltip of each column; without `details` only for the 90 % intervals."""
    if volumes.isExpected(shown):
        expected = _("Expected"), _("Expected volume: sum of the class probabilities over all voxels.")
    else:
        expected = _("Mean"), _("Mean volume of the samples.")
    both = _("50 % and 90 % prediction intervals for the volume of one further sample.")
    ninety = _("90 % prediction interval for the volume of one further sample: a measure of spread, not of accuracy.")
    spread = (_("50 %\n90 %\n(ml)"), both) if details else (_("90 %\n(ml)"), ninety)
    if volumes.isRange(shown):
        spread = _("Folds\n(ml)"), _("Smallest and largest mask of the folds: not an interval for the true volume.")
    return [
        (_("Structure"), _("Structures of the model.")),
        (f"{expected[0]}\n(ml)", expected[1]),
        (_("Mask\n(ml)"), _("Volume of the segmentation, in which each voxel has its most probable structure.")),
        spread,
        (_("Samples"), _("Dots: volume of each sample. Line: 90 % interval.")),
    ]


def _tooltip(volume: Volume) -> str:
    text, samples = _("{name}: {shown} ml, mask {mask} ml"), volume["samples_ml"]
    values = {"shown": volumes.shownMl(volume), "mask": volume["consensus_ml"]}
    if samples:
        text += _("; samples {low} to {high} ml, mean {mean} ml")
        values |= {"low": min(samples), "high": max(samples), "mean": volume["mean_ml"]}
    return text.format(name=volume["name"], **{key: volumes.mlText(ml) for key, ml in values.items()})
