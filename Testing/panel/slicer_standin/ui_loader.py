"""Loads Slicer's .ui files with QUiLoader; connections of the stand-in's widgets are made here from the same file."""

import types
from xml.etree import ElementTree

from PySide6.QtCore import QBuffer, QByteArray
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QWidget

from .widgets import CUSTOM


def loadUI(path):
    """`slicer.util.loadUI`. Raises RuntimeError for a file that is no widget."""
    tree = ElementTree.parse(path)
    connections = tree.getroot().find("connections")
    expected = [{child.tag: child.text for child in connection} for connection in connections]
    connections.clear()  # QUiLoader connects by C++ signatures, which Python widgets do not have
    loader = QUiLoader()
    for widgetClass in CUSTOM.values():
        loader.registerCustomWidget(widgetClass)
    buffer = QBuffer()
    buffer.setData(QByteArray(ElementTree.tostring(tree.getroot())))
    widget = loader.load(buffer)
    if widget is None:
        raise RuntimeError(loader.errorString())
    children = vars(childWidgetVariables(widget)) | {widget.objectName(): widget}
    for connection in expected:
        signal = getattr(children[connection["sender"]], connection["signal"].split("(")[0])
        signal.connect(getattr(children[connection["receiver"]], connection["slot"].split("(")[0]))
    return widget


def childWidgetVariables(widget):
    """`slicer.util.childWidgetVariables`: the named widgets beneath `widget` as attributes."""
    named = {child.objectName(): child for child in widget.findChildren(QWidget) if child.objectName()}
    return types.SimpleNamespace(**{name: child for name, child in named.items() if not name.startswith("qt_")})
