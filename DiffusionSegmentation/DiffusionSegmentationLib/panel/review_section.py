"""The panel's section for the review: the table of uncertain regions, and the buttons and keys that go through it."""

from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..review.ranking import Ranker, RegionCriteria
from ..review.review import DONE, FLAGGED, OPEN, SKIPPED, Region, Review
from ..runs import status_texts
from ..scene.volumes import mlText
from ..signals import Signal
from .widgets import enable, fitRows

POLL_MILLISECONDS = 30
SHOWN_REGIONS = 5
"""Rows in sight; the others are to be scrolled."""
SHOWN_CLASSES = 2
WRONG = 2
"""Column of what the regions are ranked by."""
MARKS = {OPEN: "", DONE: "✓", FLAGGED: "⚑", SKIPPED: "–"}


class ReviewSection:
    """Shows the review of one segmentation node of ours. Keys work while the section is in sight."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._review: Review | None = None
        self._shown: list | None = None
        self._ranker: Ranker | None = None
        self._bits = RegionCriteria().bits
        self.moved = Signal()
        """Called when another region is under review, or none."""
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MILLISECONDS
        self._timer.timeout.connect(self._poll)
        table = ui.regionTable
        table.setHorizontalHeaderLabels(["", _("In dispute"), _("Wrong\n(ml)"), _("Peak\n(bits)"), ""])
        header = table.horizontalHeader()
        wrong = _(
            "Volume that is expected to be wrong. Seams along borders, no wider than a voxel of the model to each side,"
            " do not count, because nobody can review them; the volume of a region that is nothing else is in brackets."
        )
        table.horizontalHeaderItem(WRONG).setToolTip(wrong)
        for column in range(5):
            stretch = column == 1
            header.setSectionResizeMode(column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents)
        table.verticalHeader().visible = False
        header.highlightSections = False
        table.cellClicked.connect(self._onClicked)
        actions = (
            (ui.nextButton, "N", self._onNext),
            (ui.doneButton, "D", lambda: self._onMark(DONE)),
            (ui.flagButton, "F", lambda: self._onMark(FLAGGED)),
            (ui.skipButton, "S", lambda: self._onMark(SKIPPED)),
            (ui.leaveButton, "L", self._onLeave),
        )
        ui.smallestSpinBox.valueChanged.connect(lambda _value: self.rank(self._bits))
        self._shortcuts = []
        for button, key, action in actions:
            button.clicked.connect(lambda *_arguments, action=action: action())
            shortcut = qt.QShortcut(qt.QKeySequence(key), ui.regionTable)
            shortcut.activated.connect(button.click)
            self._shortcuts.append(shortcut)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the review of `segmentation`, or that there is none."""
        earlier = self._review
        self._review = Review(segmentation) if segmentation else None
        if earlier is None or earlier.segmentationNode is not segmentation:
            self._ranker = None
            if earlier is not None:
                earlier.hideOutline()  # its outline would lie over another result
            if self._review is not None:
                self._bits = self._review.criteria.bits
                self._review.showOutline()
        ui, review = self._ui, self._review
        reason = _problem(review)
        current = review.current if review else None
        count, share = review.remaining() if review else (0, 0.0)
        allDone = reason or (None if count else _("Every region has been looked at."))
        unchosen = reason or (None if current else _("Go to a region first."))
        enable(ui.nextButton, allDone, _("Go to the worst region that is left (key N)."))
        enable(ui.doneButton, unchosen, _("This region is right, or put right: go on (key D)."))
        enable(ui.flagButton, unchosen, _("Somebody should look at this region again: go on (key F)."))
        enable(ui.skipButton, unchosen, _("Leave this region as it is: go on (key S)."))
        enable(ui.leaveButton, unchosen, _("Show the views as they were before the first region (key L)."))
        enable(ui.regionTable, reason, _("The most uncertain regions, worst first; a click goes there."))
        ui.reviewLabel.text = reason or _leftText(review, count, share)
        self._fill(review.regions if review else [], current)

    def rank(self, bits: float) -> None:
        """Bring the table in line with the threshold `bits` and the smallest size, soon and off the GUI thread."""
        self._bits = bits
        if self._review is None:
            return
        try:
            self._ranker = self._ranker or Ranker(self._review.segmentationNode)
        except LookupError as error:
            self._ui.reviewLabel.text = str(error)
            return
        self._ranker.ask(RegionCriteria(round(bits, 3), self._ui.smallestSpinBox.value))
        self._timer.start()

    def close(self) -> None:
        """Compute nothing more."""
        self._timer.stop()

    def _poll(self) -> None:
        if self._ranker is None:
            self._timer.stop()
            return
        found = self._ranker.poll()
        if not self._ranker.busy:
            self._timer.stop()
        if found is not None and self._review.segmentationNode.GetScene() is not None:
            self.refresh(self._review.replaceRegions(*found).segmentationNode)
            self.moved.emit()

    def _fill(self, regions: list[Region], current: Region | None) -> None:
        table = self._ui.regionTable
        rows = [(region, self._review.state(region)) for region in regions]
        if rows != self._shown:
            table.rowCount = len(rows)
            for row, (region, state) in enumerate(rows):
                texts = (str(region.rank), _disputeText(region), _wrongText(region))
                for column, text in enumerate((*texts, f"{region.peakBits:.1f}", MARKS[state])):
                    item = qt.QTableWidgetItem(text)
                    item.setToolTip(_tip(region))
                    if column != 1:
                        item.setTextAlignment(qt.Qt.AlignCenter)
                    table.setItem(row, column, item)
            self._shown = rows
            fitRows(table, SHOWN_REGIONS)
        blocked = table.blockSignals(True)
        if current is None:
            table.clearSelection()
        else:
            table.selectRow(current.rank - 1)
        table.blockSignals(blocked)

    def _onClicked(self, row: int, _column: int) -> None:
        self._goTo(self._review.regions[row])

    def _onNext(self) -> None:
        self._goTo(self._review.next())

    def _onMark(self, state: str) -> None:
        self._review.mark(self._review.current, state)
        region = self._review.next()
        if region is None:
            self._onLeave()
        else:
            self._goTo(region)

    def _onLeave(self) -> None:
        self._review.leave()
        self.refresh(self._review.segmentationNode)
        self.moved.emit()

    def _goTo(self, region: Region) -> None:
        self._review.goTo(region)
        self.refresh(self._review.segmentationNode)
        self.moved.emit()


def _problem(review: Review | None) -> str | None:
    if review is None:
        return _("There is no result yet; segment a volume first.")
    if not review.regions:
        return _("This result names no uncertain regions; segment the volume again for them.")
    return None


def _leftText(review: Review, count: int, share: float) -> str:
    if not count:
        return _("All {total} regions have been looked at.").format(total=len(review.regions))
    values = {"count": count, "total": len(review.regions), "share": round(100 * share)}
    if review.reviewableMl is None:
        return _("{count} of {total} regions left; they hold {share} % of the expected error.").format(**values)
    text = _("{count} of {total} regions left.")
    if review.reviewableMl:
        text = _("{count} of {total} regions left; they hold {share} % of the {reviewable} ml to review.")
    text += " " + _("Another {rest} ml are expected to be wrong in seams along borders, or below the threshold.")
    rest = review.expectedErrorMl - review.reviewableMl
    return text.format(**values, reviewable=mlText(review.reviewableMl), rest=mlText(rest))


def _wrongText(region: Region) -> str:
    """What the regions are ranked by; in brackets for a region that is nothing but a seam."""
    return f"{region.reviewableMl:.2f}" if region.reviewableMl else f"({region.expectedErrorMl:.2f})"


def _disputeText(region: Region) -> str:
    return "\n".join(f"{name} {100 * share:.0f} %" for name, share in region.classes[:SHOWN_CLASSES])


def _tip(region: Region) -> str:
    classes = "\n".join(f"{name}: {100 * share:.0f} %" for name, share in region.classes)
    unlike = "\n" + status_texts.unlikeText(*region.unlike) if region.unlike else ""
    return (
        _(
            "{classes}\n{volume:.1f} ml; {wrong:.2f} ml are expected to be wrong, {reviewable:.2f} ml to review\n"
            "Entropy: mean {mean:.2f}, highest {peak:.2f} bits"
        ).format(
            classes=classes,
            volume=region.volumeMl,
            wrong=region.expectedErrorMl,
            reviewable=region.reviewableMl,
            mean=region.meanBits,
            peak=region.peakBits,
        )
        + unlike
    )
