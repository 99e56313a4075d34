"""The qMRML and ctk widgets that the panel uses, each with what the panel uses of it, in the looks of plain Qt."""

import slicer
from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)


class qMRMLWidget(QWidget):
    """A widget with a scene."""

    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene):
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QComboBox):
    """Nodes of some classes in a scene, by name; "None" first where that is enabled."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._tags = []
        self._nodeTypes = []
        self._hidden = []
        self._noneEnabled = False
        self._shown = None
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.currentIndexChanged.connect(lambda _index: self._announce())

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent") if scene else ()
        self._tags = [scene.AddObserver(getattr(scene, event), lambda *_: self._fill()) for event in events]
        if scene:
            self._fill()

    def currentNode(self):
        return self._scene.GetNodeByID(self.currentData()) if self._scene and self.currentData() else None

    def setCurrentNode(self, node):
        self.setCurrentIndex(self.findData(node.GetID() if node is not None else ""))

    def _fill(self):
        current = self.currentData()
        nodes = [
            node
            for index in range(self._scene.GetNumberOfNodes())
            if any(map((node := self._scene.GetNthNode(index)).IsA, self._nodeTypes))
            and not any(map(node.IsA, self._hidden))
            and not node.GetHideFromEditors()
        ]
        self.blockSignals(True)
        self.clear()
        if self._noneEnabled:
            self.addItem("None", "")
        for node in nodes:
            self.addItem(node.GetName(), node.GetID())
        self.setCurrentIndex(max(0, self.findData(current)))
        self.blockSignals(False)
        self._announce()

    def _announce(self):
        if self.currentData() != self._shown:
            self._shown = self.currentData()
            self.currentNodeChanged.emit(self.currentNode())

    def _property(kind, name):
        return Property(kind, lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))

    nodeTypes = _property("QStringList", "_nodeTypes")
    hideChildNodeTypes = _property("QStringList", "_hidden")
    noneEnabled = _property(bool, "_noneEnabled")
    addEnabled = _property(bool, "_ignored")
    removeEnabled = _property(bool, "_ignored")


class ctkCollapsibleButton(QWidget):
    """A header that hides and shows what is laid out beneath it."""

    HEADER_HEIGHT = 24

    def __init__(self, parent=None):
        super().__init__(parent)
        self._header = QToolButton(self)
        self._header.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._header.setAutoRaise(True)
        self._header.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._header.clicked.connect(lambda: self._setCollapsed(not self._collapsed))
        self._frame = QFrame(self)
        self._frame.setFrameShape(QFrame.Shape.HLine)
        self._frame.setFrameShadow(QFrame.Shadow.Sunken)
        self._collapsed = False
        self.setContentsMargins(0, self.HEADER_HEIGHT, 0, 0)
        self._setCollapsed(False)

    def resizeEvent(self, event):
        super().resizeEvent(event)
        self._header.setGeometry(0, 0, self.width(), self.HEADER_HEIGHT)
        self._frame.setGeometry(0, self.HEADER_HEIGHT - 2, self.width(), 2)

    def showEvent(self, event):
        super().showEvent(event)
        self._setCollapsed(self._collapsed)  # the children of the .ui are there now

    def _setCollapsed(self, collapsed):
        self._collapsed = collapsed
        self._header.setArrowType(Qt.ArrowType.RightArrow if collapsed else Qt.ArrowType.DownArrow)
        for child in self.children():
            if isinstance(child, QWidget) and child not in (self._header, self._frame):
                child.setVisible(not collapsed)
        self.setMaximumHeight(self.HEADER_HEIGHT if collapsed else 16777215)

    text = Property(str, lambda self: self._header.text(), lambda self, text: self._header.setText(text))
    collapsed = Property(bool, lambda self: self._collapsed, _setCollapsed)


class ctkSliderWidget(QWidget):
    """A slider and a spin box for one real number."""

    valueChanged = Signal(float)
    TICKS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, self.TICKS)
        self._box = QDoubleSpinBox()
        self._box.setMinimumWidth(92)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._onBoxChanged)
        self._slider.valueChanged.connect(self._onSliderChanged)

    def _onBoxChanged(self, value):
        self._slider.blockSignals(True)
        self._slider.setValue(round(self.TICKS * (value - self._box.minimum()) / (self._span() or 1.0)))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _onSliderChanged(self, ticks):
        self._box.setValue(self._box.minimum() + self._span() * ticks / self.TICKS)

    def _span(self):
        return self._box.maximum() - self._box.minimum()

    def _setMaximum(self, maximum):
        self._box.setMaximum(maximum)
        self._slider.blockSignals(True)
        self._slider.setValue(round(self.TICKS * (self._box.value() - self._box.minimum()) / (self._span() or 1.0)))
        self._slider.blockSignals(False)

    value = Property(float, lambda self: self._box.value(), lambda self, value: self._box.setValue(value))
    maximum = Property(float, lambda self: self._box.maximum(), _setMaximum)
    singleStep = Property(float, lambda self: self._box.singleStep(), lambda self, step: self._box.setSingleStep(step))
    pageStep = Property(float, lambda self: 0.1, lambda self, step: None)
    suffix = Property(str, lambda self: self._box.suffix(), lambda self, suffix: self._box.setSuffix(suffix))


class ctkPathLineEdit(QWidget):
    """A path and a button to browse for it."""

    currentPathChanged = Signal(str)
    Files = 2

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit = QLineEdit()
        self._button = QToolButton()
        self._button.setText("...")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit, 1)
        layout.addWidget(self._button)
        self._edit.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda self: self._edit.text(), lambda self, path: self._edit.setText(path))
    filters = Property(int, lambda self: self._filters, lambda self, filters: setattr(self, "_filters", filters))


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The widget in which Slicer keeps a scripted module's panel; `self` returns the Python object."""

    def __init__(self):
        super().__init__()
        self.setLayout(QVBoxLayout())
        self.isEntered = False
        self.python = None

    def self(self):
        return self.python


CUSTOM = {
    widget.__name__: widget
    for widget in (qMRMLWidget, qMRMLNodeComboBox, ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit)
}


def publish() -> None:
    """Put the qMRML widgets where Slicer has them."""
    slicer.qMRMLWidget = qMRMLWidget
    slicer.qMRMLNodeComboBox = qMRMLNodeComboBox
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
