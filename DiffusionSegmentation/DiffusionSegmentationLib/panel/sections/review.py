"""Section "Review": the table of uncertain regions, and the buttons and keys to go through them."""

from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...review.ranking import Ranker, RegionCriteria
from ...review.review import DONE, FLAGGED, OPEN, SKIPPED, Region, Review
from ...runs import status_texts
from ...scene.units import Unit, sizeText
from ...signals import Signal
from ..widgets import Section, enable, fitColumns, fitRows, missingResult, setCell, signalsBlocked

LISTED_CLASSES = 2
CLASSES_COLUMN, ERROR_COLUMN = 1, 2
MARKS = {OPEN: "", DONE: "✓", FLAGGED: "⚑", SKIPPED: "–"}


class ReviewSection(Section):
    """Shows the review of a result. The keys work while the section is visible."""

    TIMER_MILLISECONDS = 30

    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._review: Review | None = None
        self._rows: list | None = None
        self._ranker: Ranker | None = None
        self._bits = RegionCriteria().bits
        self.regionChanged = Signal()
        """Emitted when another region, or none, has become the current one."""
        self.marked = Signal()
        """Emitted when the state of a region was changed."""
        table = ui.regionTable
        fitColumns(table, CLASSES_COLUMN)
        table.cellClicked.connect(lambda row, _column: self._goTo(self._review.regions[row]))
        ui.minimumSizeSpinBox.valueChanged.connect(lambda _value: self.setThreshold(self._bits))
        self._shortcuts = []
        for button, key, action in (
            (ui.nextButton, "N", lambda: self._goTo(self._review.next())),
            (ui.doneButton, "D", lambda: self._onMark(DONE)),
            (ui.flagButton, "F", lambda: self._onMark(FLAGGED)),
            (ui.skipButton, "S", lambda: self._onMark(SKIPPED)),
            (ui.leaveButton, "L", self._onLeave),
        ):
            button.clicked.connect(lambda *_arguments, action=action: action())
            shortcut = qt.QShortcut(qt.QKeySequence(key), table)
            shortcut.activated.connect(button.click)
            self._shortcuts.append(shortcut)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        previous = self._review
        self._review = Review(segmentation) if segmentation else None
        if previous is None or previous.segmentationNode is not segmentation:
            self._ranker = None
            if previous is not None:
                previous.hideOutline()  # its outline must not stay over another result
            if self._review is not None:
                self._bits = self._review.criteria.bits
                self._review.showOutline()
        ui, review = self._ui, self._review
        problem = missingResult(segmentation)
        if not problem and not review.regions:
            problem = _("This result has no uncertain regions; segment the volume again to compute them.")
        current = review.current if review else None
        count, share = review.remaining() if review else (0, 0.0)
        finished = problem or (None if count else _("All regions have been reviewed."))
        noCurrent = problem or (None if current else _("Go to a region first."))
        enable(finished, ui.nextButton)
        enable(noCurrent, ui.doneButton, ui.flagButton, ui.skipButton, ui.leaveButton)
        enable(problem, ui.regionTable)
        unit = review.unit if review else Unit()
        ui.regionTable.horizontalHeaderItem(ERROR_COLUMN).setText(_("Expected\nerror ({unit})").format(unit=unit.text))
        # Regions of pictures have a minimum in pixels that cannot be chosen.
        ui.minimumSizeLabel.visible = ui.minimumSizeSpinBox.visible = not unit.isArea
        ui.reviewLabel.text = problem or _progressText(review, count, share)
        self._fillTable(review.regions if review else [], current)

    def setThreshold(self, bits: float) -> None:
        """Rank the regions for the entropy threshold `bits` and the minimum region size, on a thread."""
        self._bits = bits
        if self._review is None:
            return
        try:
            self._ranker = self._ranker or Ranker(self._review.segmentationNode)
        except LookupError as error:
            self._ui.reviewLabel.text = str(error)
            return
        self._ranker.ask(RegionCriteria(round(bits, 3), self._ui.minimumSizeSpinBox.value))
        self._timer.start()

    def _onTimer(self) -> None:
        ranked = self._ranker.poll() if self._ranker else None
        if self._ranker is None or not self._ranker.busy:
            self._timer.stop()
        if ranked is not None and self._review.segmentationNode.GetScene() is not None:
            self._review = self._review.replaceRegions(*ranked)
            self._update()

    def _fillTable(self, regions: list[Region], current: Region | None) -> None:
        table = self._ui.regionTable
        rows = [(region, self._review.state(region)) for region in regions]
        if rows != self._rows:
            table.rowCount = len(rows)
            shown = dict(enumerate(self._rows or []))
            for row, (region, state) in enumerate(rows):
                if shown.get(row) == (region, state):
                    continue
                peak, tooltip = f"{region['peak_entropy_bits']:.1f}", _tooltip(region, self._review.unit)
                texts = str(region["rank"]), _classesText(region), _errorText(region), peak
                for column, text in enumerate((*texts, MARKS[state])):
                    setCell(table, row, column, text, tooltip, centred=column != CLASSES_COLUMN)
            self._rows = rows
            fitRows(table)
        with signalsBlocked(table):
            if current is None:
                table.clearSelection()
            else:
                table.selectRow(current["rank"] - 1)

    def _onMark(self, state: str) -> None:
        self._review.mark(self._review.current, state)
        region = self._review.next()
        if region is None:
            self._onLeave()
        else:
            self._goTo(region)
        self.marked.emit()

    def _onLeave(self) -> None:
        self._review.leave()
        self._update()

    def _goTo(self, region: Region) -> None:
        self._review.goTo(region)
        self._update()

    def _update(self) -> None:
        self.refresh(self._review.segmentationNode)
        self.regionChanged.emit()


def _progressText(review: Review, count: int, share: float) -> str:
    """Say how many regions are left (`count`), and their `share` (0 to 1) of the error that can be reviewed."""
    if not count:
        return _("All {total} regions have been reviewed.").format(total=len(review.regions))
    values = {"count": count, "total": len(review.regions), "share": round(100 * share)}
    if review.reviewable is None:
        return _("{count} of {total} regions left, with {share} % of the expected error.").format(**values)
    text = _("{count} of {total} regions left.")
    if review.reviewable:
        text = _("{count} of {total} regions left, with {share} % of the {reviewable} of reviewable expected error.")
    text += " " + _("A further {rest} lie in thin boundary layers or below the threshold.")
    rest = review.unit.textOf(review.expectedError - review.reviewable)
    return text.format(**values, reviewable=review.unit.textOf(review.reviewable), rest=rest)


def _errorText(region: Region) -> str:
    """Return the reviewable expected error; if there is none, the whole expected error in brackets."""
    return sizeText(region["reviewable"]) if region["reviewable"] else f"({sizeText(region['expected_error'])})"


def _classesText(region: Region) -> str:
    # A line may break after the name, but not between number and unit.
    parts = region["classes"][:LISTED_CLASSES]
    return "\n".join(f"{part['name']} {100 * part['share']:.0f}\N{NO-BREAK SPACE}%" for part in parts)


def _tooltip(region: Region, unit: Unit) -> str:
    lines = [f"{part['name']}: {100 * part['share']:.0f} %" for part in region["classes"]]
    text = unit.either(
        _("Volume {size}, expected error {error}, of which {reviewable} can be reviewed"),
        _("Area {size}, expected error {error}, of which {reviewable} can be reviewed"),
    )
    size, error, reviewable = (unit.textOf(region[key]) for key in ("volume", "expected_error", "reviewable"))
    lines.append(text.format(size=size, error=error, reviewable=reviewable))
    text = _("Entropy: mean {mean:.2f} bits, maximum {peak:.2f} bits")
    lines.append(text.format(mean=region["mean_entropy_bits"], peak=region["peak_entropy_bits"]))
    if region["unlike"]:
        lines.append(status_texts.unlikeText(*region["unlike"]))
    return "\n".join(lines)
