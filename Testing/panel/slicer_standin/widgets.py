"""The qMRML and ctk widgets that the panel uses, with the interface that it uses and the look of plain Qt."""

import os

import slicer
from PySide6.QtCore import Property, QEvent, QRect, QSize, Qt, Signal
from PySide6.QtGui import QPalette
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionToolButton,
    QStylePainter,
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
    """Lists nodes of given classes in a scene by name, with "None" first if enabled."""

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
        if self.signalsBlocked():  # the next change is announced, also back to the node that was announced last
            self._shown = self.currentData()

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


class ctkCollapsibleButton(QAbstractButton):
    """A header that hides and shows the widgets below it.

    As in CTK, a child that is shown or hidden while the button is collapsed changes when the button is opened.
    """

    contentsCollapsed = Signal(bool)

    HEADER_HEIGHT = 24
    COLLAPSED_HEIGHT = 10

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._forcing = False
        self._openHeight = self.maximumHeight()
        self.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self.HEADER_HEIGHT, 0, 0)
        self.clicked.connect(lambda: self._setCollapsed(not self._collapsed))

    def sizeHint(self):
        if self._collapsed:
            return QSize(100, self.HEADER_HEIGHT + self.COLLAPSED_HEIGHT)
        return QWidget.sizeHint(self).expandedTo(QSize(100, self.HEADER_HEIGHT + self.COLLAPSED_HEIGHT))

    def minimumSizeHint(self):
        return self.sizeHint() if self._collapsed else QWidget.minimumSizeHint(self)

    def hitButton(self, position):
        return position.y() < self.HEADER_HEIGHT

    def paintEvent(self, _event):
        painter = QStylePainter(self)
        option = QStyleOptionToolButton()
        option.initFrom(self)
        option.rect = QRect(0, 0, self.width(), self.HEADER_HEIGHT)
        option.features = QStyleOptionToolButton.ToolButtonFeature.Arrow
        option.arrowType = Qt.ArrowType.RightArrow if self._collapsed else Qt.ArrowType.DownArrow
        option.toolButtonStyle = Qt.ToolButtonStyle.ToolButtonTextBesideIcon
        option.iconSize = QSize(16, 16)
        option.text = self.text()
        option.state |= QStyle.StateFlag.State_AutoRaise
        painter.drawControl(QStyle.ControlElement.CE_ToolButtonLabel, option)
        painter.setPen(self.palette().color(QPalette.ColorRole.Mid))
        painter.drawLine(0, self.HEADER_HEIGHT - 2, self.width(), self.HEADER_HEIGHT - 2)
        painter.end()

    def childEvent(self, event):
        if event.type() == QEvent.Type.ChildAdded and event.child().isWidgetType():
            event.child().installEventFilter(self)
        super().childEvent(event)

    def showEvent(self, event):
        super().showEvent(event)
        self._forceAll()  # the children of the .ui are there now

    def setVisible(self, visible):
        self._forcing = True
        super().setVisible(visible)
        self._forcing = False

    def eventFilter(self, child, event):
        if not self._forcing and event.type() == QEvent.Type.ShowToParent:
            child.setProperty("visibilityToParent", True)
            self._force(child)
        elif not self._forcing and event.type() == QEvent.Type.HideToParent:
            child.setProperty("visibilityToParent", False)
        return False

    def _force(self, child):
        self._forcing = True
        visible = child.property("visibilityToParent") is not False
        child.setVisible(not self._collapsed and visible)
        if visible:
            child.setAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._forcing = False

    def _forceAll(self):
        for child in self.children():
            if child.isWidgetType():
                self._force(child)

    def _setCollapsed(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            self._openHeight = self.maximumHeight()
            self.setMaximumHeight(self.sizeHint().height())
        else:
            self.setMaximumHeight(self._openHeight)
        self._forceAll()
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

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
        # CTK's validator takes an empty path, and one that does not exist, for unfinished and emits no signal.
        self._edit.textChanged.connect(
            lambda path: self.currentPathChanged.emit(path) if os.path.isfile(path) else None
        )

    currentPath = Property(str, lambda self: self._edit.text(), lambda self, path: self._edit.setText(path))
    filters = Property(int, lambda self: self._filters, lambda self, filters: setattr(self, "_filters", filters))


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The container of a scripted module's panel; `self` returns the Python object."""

    def __init__(self):
        super().__init__()
        self.setLayout(QVBoxLayout())
        self.isEntered = False
        self.python = None

    def self(self):
        return self.python


class qSlicerModulePanel(QScrollArea):
    """The scroll area of the open module. A module that is left loses its parent and is hidden."""

    def __init__(self):
        super().__init__()
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(QWidget())
        QVBoxLayout(self.widget()).addStretch()
        self._module = None

    def setModule(self, module):
        """Show the widget `module`, or none."""
        if self._module is not None:
            self.widget().layout().removeWidget(self._module)
            self._module.setVisible(False)
            self._module.setParent(None)
        self._module = module
        if module is not None:
            module.layout().setContentsMargins(0, 0, 0, 0)
            module.setSizePolicy(QSizePolicy.Policy.Ignored, module.sizePolicy().verticalPolicy())
            self.widget().layout().insertWidget(0, module, 1)
            module.setVisible(True)


CUSTOM = {
    widget.__name__: widget
    for widget in (qMRMLWidget, qMRMLNodeComboBox, ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit)
}


def publish() -> None:
    """Add the qMRML widgets to the module `slicer`."""
    slicer.qMRMLWidget = qMRMLWidget
    slicer.qMRMLNodeComboBox = qMRMLNodeComboBox
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
