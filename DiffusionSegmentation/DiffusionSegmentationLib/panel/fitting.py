"""Heights that follow the text: of labels that wrap, and of tables whose rows wrap.

Qt's own way, the height for a width, goes through every layout above a label, and layouts that change while they are
hidden keep an old one: in Slicer the last lines lay over the next widget until the panel's width changed. Here no label
has a height for a width. Its height is set, anew whenever the section that it stands in was laid out.
"""

from collections.abc import Sequence
from typing import Any

import qt

from .widgets import fitRows, usePolicy


class Fitting(qt.QObject):
    """Keeps the labels and tables of one panel as high as their text; stays valid as long as it is referred to."""

    def __init__(self, parts: Sequence[Any], labels: Sequence[Any], tables: Sequence[tuple[Any, int]]) -> None:
        """`parts` are the widgets with layouts; each of the `labels` and `tables` stands in one of them.

        A table is as high as all its rows, or as the number of rows that it comes with, whichever is less.
        """
        super().__init__()
        self._parts, self._labels, self._tables = parts, labels, tables
        self._fittedLabels: list[tuple | None] = [None] * len(labels)
        self._fittedTables: list[tuple | None] = [None] * len(tables)
        for part in parts:
            part.installEventFilter(self)
        self.fit()

    def close(self) -> None:
        """Let go of the widgets, which may be deleted afterwards."""
        for part in self._parts:
            part.removeEventFilter(self)

    def eventFilter(self, _part: Any, event: Any) -> bool:
        """Qt tells of what happens to a part, after the part's layout has answered to it."""
        if event.type() in (qt.QEvent.LayoutRequest, qt.QEvent.Resize, qt.QEvent.Show):
            self.fit()
        return False

    def fit(self) -> None:
        """Set the heights of what has another width, text or font since the last time."""
        for index, label in enumerate(self._labels):
            if self._isNew(self._fittedLabels, index, (label.width, label.text, label.fontMetrics().height())):
                policy = label.sizePolicy
                policy.setHeightForWidth(False)  # QLabel sets it with each text
                policy.setHorizontalPolicy(qt.QSizePolicy.Ignored)  # a long text asks for no wider panel
                usePolicy(label, policy)
                label.minimumHeight = 0  # else it is the least that the label answers
                label.setFixedHeight(max(label.heightForWidth(label.width), 0))  # -1 without a text
        for index, (table, most) in enumerate(self._tables):
            if self._isNew(
                self._fittedTables, index, (table.viewport().width, table.rowCount, table.fontMetrics().height())
            ):
                fitRows(table, most)

    @staticmethod
    def _isNew(fitted: list[tuple | None], index: int, state: tuple) -> bool:
        before, fitted[index] = fitted[index], state
        return before != state
