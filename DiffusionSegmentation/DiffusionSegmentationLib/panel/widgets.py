"""Base of the sections that show a result, and helpers for the widgets and states that they share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..scene.result_nodes import ENTROPY_ROLE


class Section:
    """Shows one of the module's segmentation nodes, called the result, and has a timer for deferred work."""

    TIMER_MILLISECONDS = 0

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._timer = makeTimer(self.TIMER_MILLISECONDS, self._onTimer)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show `segmentation`, or disable the section for None."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop deferred work; the widgets may be deleted afterwards."""
        self._timer.stop()

    def _onTimer(self) -> None:
        """Do the deferred work; by default nothing."""


def missingResult(segmentation: slicer.vtkMRMLSegmentationNode | None) -> str | None:
    """Reason for which the controls of a result are disabled; None if there is a result."""
    return None if segmentation else _("There is no result yet; segment a volume first.")


def missingEntropy(segmentation: slicer.vtkMRMLSegmentationNode | None) -> str | None:
    """Reason for which the controls that need the entropy are disabled; None if there is a result with entropy."""
    if segmentation and not segmentation.GetNodeReference(ENTROPY_ROLE):
        return _("The entropy volume of this result was removed.")
    return missingResult(segmentation)


def enable(reason: str | None, *widgets: Any) -> None:
    """Enable `widgets`, or disable them and show the `reason` in place of their tooltips from the .ui file."""
    for widget in widgets:
        if widget.property("enabledToolTip") is None:
            widget.setProperty("enabledToolTip", widget.toolTip)
        widget.enabled = reason is None
        widget.toolTip = reason or widget.property("enabledToolTip")


def setButton(button: Any, text: str, tooltip: str, reason: str | None = None) -> None:
    """Set text and tooltip of a button whose function changes; disable it if there is a `reason`."""
    button.text = text
    button.enabled = reason is None
    button.toolTip = reason or tooltip


@contextmanager
def signalsBlocked(widget: Any) -> Iterator[None]:
    """Block the signals of `widget`, so that a change by code is not taken for user input."""
    blocked = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(blocked)


def setQuietly(widget: Any, name: str, value: Any) -> None:
    with signalsBlocked(widget):
        setattr(widget, name, value)


def fillComboBox(comboBox: Any, texts: Mapping[str, str], current: str | None) -> None:
    """List `texts` (item data: item text) without signals, and select `current`, or the first item if it is absent."""
    with signalsBlocked(comboBox):
        if {comboBox.itemData(n): comboBox.itemText(n) for n in range(comboBox.count)} != texts:
            comboBox.clear()
            for data, text in texts.items():
                comboBox.addItem(text, data)
        comboBox.currentIndex = max(comboBox.findData(current), 0) if texts else -1


def chosen(comboBox: Any) -> Any:
    """The data of the selected item, or None. `currentData` is a property in PythonQt, but a call in PySide6."""
    return comboBox.itemData(comboBox.currentIndex)


def makeTimer(milliseconds: int, slot: Callable[[], None]) -> Any:
    """Return a stopped QTimer that calls `slot` at this interval."""
    timer = qt.QTimer()
    timer.interval = milliseconds
    timer.timeout.connect(slot)
    return timer


def fitColumns(table: Any, stretched: int) -> None:
    """Fit the columns of `table` to their contents; column `stretched` takes the remaining width."""
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(stretched, qt.QHeaderView.Stretch)


def setCell(table: Any, row: int, column: int, text: str, tooltip: str, centred: bool) -> None:
    item = qt.QTableWidgetItem(text)
    item.setToolTip(tooltip)
    if centred:
        item.setTextAlignment(qt.Qt.AlignCenter)
    table.setItem(row, column, item)


def fitRows(table: Any) -> None:
    """Fit the row heights of `table` to the text and its height to the rows.

    At most as many rows are visible as its property `visibleRows` in the .ui file says; all without it.
    """
    visibleRows = table.property("visibleRows") or table.rowCount
    table.resizeRowsToContents()
    height = sum(table.rowHeight(row) for row in range(min(visibleRows, table.rowCount)))
    table.setFixedHeight(height + table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth)
