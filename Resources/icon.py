"""Draws the extension's and the module's icon from DiffusionSegmentation.svg: `.venv/bin/python Resources/icon.py`."""

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtSvg import QSvgRenderer

HERE = Path(__file__).resolve().parent
PIXELS = 128
ICONS = (
    HERE.parent / "DiffusionSegmentation.png",
    HERE.parent / "DiffusionSegmentation/Resources/Icons/DiffusionSegmentation.png",
)


def main() -> None:
    image = QImage(PIXELS, PIXELS, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    QSvgRenderer(str(HERE / "DiffusionSegmentation.svg")).render(painter)
    painter.end()
    for path in ICONS:
        image.save(str(path))


if __name__ == "__main__":
    main()
