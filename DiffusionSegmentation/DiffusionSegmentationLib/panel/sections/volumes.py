"""Table of section "Results": expected volume or area, that of the mask, intervals and samples of each structure."""

from pathlib import Path
from typing import Any

import qt
import slicer.util

from ...i18n import tr as _
from ...runs.temporary_files import writeCompletely
from ...scene.result_nodes import RUN_ATTRIBUTE, reportOf
from ...scene.units import sizeText
from ...scene.volumes import Segment, Sizes, intervalText
from .. import dialogs
from ..plots import dotPlot
from ..widgets import Section, enable, fitColumns, fitRows, missingResult, setCell

PLOT_SIZE = 48, 16
NAME_COLUMN, MASK_COLUMN, PLOT_COLUMN = 0, 2, 4
"""The columns of masks, with the contours, and of plots are shown only with the details."""


class VolumesSection(Section):
    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._sizes = Sizes({})
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
        self._sizes = Sizes(run)
        notes = (self._sizes.note(), self._sizes.coverageText(), self._sizes.checkText()) if report else ()
        self._notes = "\n".join(filter(None, notes))
        self._fillTable()

    def _fillTable(self) -> None:
        ui, table, details, sizes = self._ui, self._ui.volumesTable, self._ui.detailsCheckBox.checked, self._sizes
        always = filter(None, (sizes.fewSamplesWarning(), sizes.checkText()))
        ui.volumesLabel.text = self._notes if details else "\n".join(always)
        ui.volumesLabel.visible = bool(ui.volumesLabel.text)
        ui.copyVolumesButton.visible = ui.saveVolumesButton.visible = details
        for column in (MASK_COLUMN, PLOT_COLUMN):
            table.setColumnHidden(column, not details)
        ui.copyVolumesButton.text = sizes.unit.either(_("Copy volumes"), _("Copy areas"))
        headers = _headers(sizes, details)
        table.setHorizontalHeaderLabels([title for title, _tooltip in headers])
        for column, (_title, tooltip) in enumerate(headers):
            table.horizontalHeaderItem(column).setToolTip(tooltip)
        table.rowCount = len(sizes.segments)
        for row, segment in enumerate(sizes.segments):
            intervals = sizes.bounds(segment, (50, 90) if details else (90,))
            mask = "\n".join([sizeText(sizes.mask(segment)), *sizes.contourTexts(segment)])
            texts = [segment["name"], sizeText(sizes.shown(segment)), mask, "\n".join(map(intervalText, intervals))]
            for column, text in enumerate(texts):
                setCell(table, row, column, text, _tooltip(sizes, segment), centred=column != NAME_COLUMN)
            plot = qt.QLabel()
            plot.alignment = qt.Qt.AlignCenter
            plot.toolTip = _tooltip(sizes, segment)
            color = self._color(segment["id"])
            plot.pixmap = dotPlot(table, *PLOT_SIZE, sizes.samples(segment), sizes.interval(segment, 90), color)
            table.setCellWidget(row, PLOT_COLUMN, plot)
        table.setColumnWidth(PLOT_COLUMN, PLOT_SIZE[0] + 8)
        fitRows(table)

    def _color(self, segmentID: str) -> Any:
        segment = self._segmentation.GetSegmentation().GetSegment(segmentID)
        return qt.QColor(*(round(255 * part) for part in segment.GetColor())) if segment else qt.QColor(128, 128, 128)

    def _onCopy(self) -> None:
        qt.QApplication.clipboard().setText(self._sizes.asTable("\t"))

    def _onSave(self) -> None:
        # Without the volume's name, which may identify a patient.
        name = self._sizes.unit.either(_("segmentation volumes.csv"), _("segmentation areas.csv"))
        filters = _("Comma-separated values (*.csv)")
        path = dialogs.selectFileToSave(self._ui.saveVolumesButton, _("Save the volumes"), name, filters)
        if not path:
            return
        with slicer.util.tryWithErrorDisplay(_("The volumes could not be saved.")):
            # Spreadsheets need the byte order mark to read names with non-ASCII characters.
            writeCompletely(Path(path), self._sizes.asTable(","), encoding="utf-8-sig")


def _headers(sizes: Sizes, details: bool) -> list[tuple[str, str]]:
    """Return title and tooltip of each column; without `details` only for the 90 % intervals."""
    unit = sizes.unit
    if sizes.areExpected:
        volume = _("Expected volume: sum of the class probabilities over all voxels.")
        expected = _("Expected"), unit.either(volume, _("Expected area: sum of the class probabilities of all pixels."))
    else:
        expected = _("Mean"), unit.either(_("Mean volume of the samples."), _("Mean area of the samples."))
    mask = unit.either(
        _("Volume of the segmentation, in which each voxel has its most probable structure."),
        _("Area of the segmentation, in which each pixel has its most probable structure."),
    )
    maskTitle = _("Mask\n({unit})").format(unit=unit.text)
    if sizes.haveContours:
        maskTitle = _("Mask\n({unit})\nGap\n({length})").format(unit=unit.text, length=sizes.lengthUnit)
        mask = f"{mask}\n{sizes.contoursNote()}"
    both = unit.either(
        _("50 % and 90 % prediction intervals for the volume of one further sample."),
        _("50 % and 90 % prediction intervals for the area of one further sample."),
    )
    ninety = unit.either(
        _("90 % prediction interval for the volume of one further sample: a measure of spread, not of accuracy."),
        _("90 % prediction interval for the area of one further sample: a measure of spread, not of accuracy."),
    )
    if sizes.areCalibrated:
        held = _("{levels} interval for the true size: that of the samples, scaled to hold the true size in labelled"
                 " cases.")  # fmt: skip
        both, ninety = held.format(levels=_("50 % and 90 %")), held.format(levels="90 %")
    dots = unit.either(
        _("Dots: volume of each sample. Line: 90 % interval."), _("Dots: area of each sample. Line: 90 % interval.")
    )
    spread = (f"50 %\n90 %\n({unit.text})", both) if details else (f"90 %\n({unit.text})", ninety)
    if sizes.areRanges:
        folds = _("Smallest and largest mask of the folds: not an interval for the true size.")
        spread = _("Folds\n({unit})").format(unit=unit.text), folds
    return [
        (_("Structure"), _("Structures of the model.")),
        (f"{expected[0]}\n({unit.text})", expected[1]),
        (maskTitle, mask),
        spread,
        (_("Samples"), dots),
    ]


def _tooltip(sizes: Sizes, segment: Segment) -> str:
    text, samples = _("{name}: {shown} {unit}, mask {mask} {unit}"), sizes.samples(segment)
    values = {"shown": sizes.shown(segment), "mask": sizes.mask(segment)}
    if samples:
        text += _("; samples {low} to {high} {unit}, mean {mean} {unit}")
        values |= {"low": min(samples), "high": max(samples), "mean": sizes.mean(segment)}
    texts = {key: sizeText(size) for key, size in values.items()}
    return text.format(name=segment["name"], unit=sizes.unit.text, **texts)
