"""Small plots for the panel, drawn at the screen's resolution and in the colours of the current scheme."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import qt

TRANSLUCENT_FROM = 17
"""With this number of dots or more, dots are translucent, so that overlaps are visible."""


def dotPlot(
    widget: Any,
    width: int,
    height: int,
    samples: Sequence[float],
    interval: Sequence[float] | None,
    color: Any,
    mark: float | None = None,
) -> Any:
    """Return a QPixmap with `samples` as dots in `color` over their `interval` as a line, scaled to the width.

    `mark` is a value that gets an upright line.
    """
    marks = [] if mark is None else [mark]
    shown = [*samples, *(interval or []), *marks]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    margin = 4

    def x(value: float) -> float:
        return margin + (width - 2 * margin) * ((value - low) / (high - low) if high > low else 0.5)

    def paint(painter: Any) -> None:
        middle = height / 2
        if interval is not None:
            painter.setPen(_pen(_faintText(widget), 2.0))
            painter.drawLine(qt.QPointF(x(interval[0]), middle), qt.QPointF(x(interval[1]), middle))
        painter.setPen(_pen(widget.palette.color(qt.QPalette.Highlight), 2.0))
        for value in marks:
            painter.drawLine(qt.QPointF(x(value), 0.0), qt.QPointF(x(value), float(height)))
        painter.setPen(_pen(widget.palette.color(qt.QPalette.Text), 0.5))
        painter.setBrush(qt.QBrush(color))
        if len(samples) >= TRANSLUCENT_FROM:
            painter.setOpacity(0.3)
        for value in samples:
            painter.drawEllipse(qt.QPointF(x(value), middle), 3.0, 3.0)

    return _pixmap(widget, width, height, paint)


def profilePlot(widget: Any, width: int, height: int, values: Sequence[float], position: float) -> Any:
    """Return a QPixmap with `values` as bars scaled to the height, and a line at `position` (0 to 1)."""
    top = max(values, default=0.0) or 1.0

    def paint(painter: Any) -> None:
        pen = qt.QPen()
        pen.setStyle(qt.Qt.NoPen)
        painter.setPen(pen)
        painter.setBrush(qt.QBrush(_faintText(widget)))
        step = width / max(len(values), 1)
        painter.setRenderHint(qt.QPainter.Antialiasing, False)  # it leaves seams between the bars
        for index, value in enumerate(values):
            bar = float(height * value / top)
            left = math.floor(index * step)
            painter.drawRect(qt.QRectF(left, height - bar, math.floor((index + 1) * step) - left, bar))
        if 0 <= position <= 1:
            painter.setPen(_pen(widget.palette.color(qt.QPalette.Highlight), 2.0))
            painter.drawLine(qt.QPointF(position * width, 0.0), qt.QPointF(position * width, float(height)))

    return _pixmap(widget, width, height, paint)


def _pen(color: Any, width: float) -> Any:
    pen = qt.QPen()
    pen.setColor(color)
    pen.setWidthF(width)
    return pen


def _faintText(widget: Any) -> Any:
    """Return the text colour at 40 % opacity, which suits light and dark schemes."""
    color = qt.QColor(widget.palette.color(qt.QPalette.Text))
    color.setAlphaF(0.4)
    return color


def _pixmap(widget: Any, width: int, height: int, paint: Callable[[Any], None]) -> Any:
    ratio = widget.devicePixelRatioF()
    pixmap = qt.QPixmap(round(width * ratio), round(height * ratio))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter()
    painter.begin(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    paint(painter)
    painter.end()
    return pixmap
