"""Two things that every widget of the panel needs."""

from typing import Any


def enable(widget: Any, reason: str | None, tooltip: str) -> None:
    """Enable `widget`, or disable it with the reason for a tooltip."""
    widget.enabled = reason is None
    widget.toolTip = reason or tooltip


def setQuietly(widget: Any, name: str, value: Any) -> None:
    """Set a property without the widget's telling us that a person has set it."""
    blocked = widget.blockSignals(True)
    setattr(widget, name, value)
    widget.blockSignals(blocked)


def usePolicy(widget: Any, policy: Any) -> None:
    """Give a widget its QSizePolicy: as a property where PythonQt takes such a value for one, else by the method."""
    try:
        widget.sizePolicy = policy
    except (AttributeError, TypeError, ValueError):
        widget.setSizePolicy(policy)


def fitRows(table: Any, most: int) -> None:
    """Make each row of `table` as high as its text, and the table as high as its rows, at most the first `most`."""
    table.resizeRowsToContents()
    height = sum(table.rowHeight(row) for row in range(min(most, table.rowCount)))
    table.setFixedHeight(height + table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth)
