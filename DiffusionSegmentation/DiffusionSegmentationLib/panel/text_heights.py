"""Heights of labels and tables whose text wraps.

Qt passes height-for-width through every layout above a label, and layouts that change while hidden keep a stale value:
in Slicer the last lines overlapped the next widget until the panel was resized. Height-for-width is therefore off, and
the heights are set again each time the enclosing section is laid out.
"""

from typing import Any

import ctk
import qt

from .widgets import fitRows


class TextHeights(qt.QObject):
    """Keeps labels and tables as high as their text. Works as long as this object is referenced."""

    def __init__(self, ui: Any) -> None:
        """Fit the word-wrapped labels and the tables of `ui`."""
        super().__init__()
        widgets = vars(ui).values()
        self._labels = [widget for widget in widgets if isinstance(widget, qt.QLabel) and widget.wordWrap]
        self._tables = [widget for widget in widgets if isinstance(widget, qt.QTableWidget)]
        sections = [widget for widget in widgets if isinstance(widget, ctk.ctkCollapsibleButton)]
        self._containers = [*sections, sections[0].parentWidget()]
        self._fitted: dict[int, tuple] = {}
        """Width, content and font height for which each widget was last fitted, by the id of the widget."""
        for container in self._containers:
            container.installEventFilter(self)
        self.fit()

    def close(self) -> None:
        """Stop following the widgets, which may be deleted afterwards."""
        for container in self._containers:
            container.removeEventFilter(self)

    def eventFilter(self, _container: Any, event: Any) -> bool:
        """Fit after the container was laid out, resized or shown (Qt callback)."""
        if event.type() in (qt.QEvent.LayoutRequest, qt.QEvent.Resize, qt.QEvent.Show):
            self.fit()
        return False

    def fit(self) -> None:
        """Set the height of every widget whose width, text or font changed since the last call."""
        for label in self._labels:
            if self._changed(label, label.width, label.text):
                policy = label.sizePolicy
                policy.setHeightForWidth(False)  # QLabel switches it on with each text
                policy.setHorizontalPolicy(qt.QSizePolicy.Ignored)  # a long text must not widen the panel
                try:
                    label.sizePolicy = policy
                except (AttributeError, TypeError, ValueError):  # PythonQt that does not accept a QSizePolicy
                    label.setSizePolicy(policy)
                label.minimumHeight = 0  # heightForWidth returns at least this
                label.setFixedHeight(max(label.heightForWidth(label.width), 0))  # -1 without a text
        for table in self._tables:
            if self._changed(table, table.viewport().width, table.rowCount):
                fitRows(table)

    def _changed(self, widget: Any, *state: Any) -> bool:
        state = (*state, widget.fontMetrics().height())
        before, self._fitted[id(widget)] = self._fitted.get(id(widget)), state
        return before != state
