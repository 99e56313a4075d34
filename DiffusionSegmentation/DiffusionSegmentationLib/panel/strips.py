"""Small pictures of numbers for the panel, sharp on every screen and in every colour scheme."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import qt

CROWDED = 16
"""More dots than these are translucent, so that it is seen where they pile up."""


def spread(
    widget: Any, width: int, height: int, samples: Sequence[float], interval: Sequence[float] | None, color: Any
) -> Any:
    """A QPixmap of `samples` as dots in `color` over their `interval` as a line, scaled to fill the width."""
    low, high = min([*samples, *(interval or [])]), max([*samples, *(interval or [])])
    margin = 4

    def x(value: float) -> float:
        return margin + (width - 2 * margin) * ((value - low) / (high - low) if high > low else 0.5)

    def paint(painter: Any) -> None:
        middle = height / 2
        if interval is not None:
            painter.setPen(_pen(_faint(widget), 2.0))
            painter.drawLine(qt.QPointF(x(interval[0]), middle), qt.QPointF(x(interval[1]), middle))
        painter.setPen(_pen(widget.palette.color(qt.QPalette.Text), 0.5))
        painter.setBrush(qt.QBrush(color))
        if len(samples) > CROWDED:
            painter.setOpacity(0.3)
        for value in samples:
            painter.drawEllipse(qt.QPointF(x(value), middle), 3.0, 3.0)

    return _drawn(widget, width, height, paint)


def profile(widget: Any, width: int, height: int, values: Sequence[float], position: float) -> Any:
    """A QPixmap of `values` as a filled curve, the highest filling the height, with a line at `position`, 0 to 1."""
    top = max(values, default=0.0) or 1.0

    def paint(painter: Any) -> None:
        painter.setPen(_pen(None, 0.0))
        painter.setBrush(qt.QBrush(_faint(widget)))
        step = width / max(len(values), 1)
        painter.setRenderHint(qt.QPainter.Antialiasing, False)  # else seams show between the bars
        for index, value in enumerate(values):
            bar = float(height * value / top)
            left = math.floor(index * step)
            painter.drawRect(qt.QRectF(left, height - bar, math.floor((index + 1) * step) - left, bar))
        if 0 <= position <= 1:
            painter.setPen(_pen(widget.palette.color(qt.QPalette.Highlight), 2.0))
            painter.drawLine(qt.QPointF(position * width, 0.0), qt.QPointF(position * width, float(height)))

    return _drawn(widget, width, height, paint)


def _pen(color: Any, width: float) -> Any:
    """A QPen; none at all for no color."""
    pen = qt.QPen()
    if color is None:
        pen.setStyle(qt.Qt.NoPen)
    else:
        pen.setColor(color)
        pen.setWidthF(width)
    return pen


def _faint(widget: Any) -> Any:
    """A colour between text and background, in a light and in a dark scheme."""
    color = qt.QColor(widget.palette.color(qt.QPalette.Text))
    color.setAlphaF(0.4)
    return color


def _drawn(widget: Any, width: int, height: int, paint: Callable[[Any], None]) -> Any:
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
