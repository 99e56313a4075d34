"""Slicer's application object, module manager and scripted module classes: the parts that the module uses."""

import importlib
import sys
import types
import unittest
from pathlib import Path

import slicer
import slicer.util
from PySide6.QtCore import QProcessEnvironment, QSettings
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QMainWindow

from . import parameter_node, pythonqt, ui_loader, widgets

_DARK = {
    "Window": "#323232",
    "WindowText": "#ffffff",
    "Base": "#191919",
    "AlternateBase": "#323232",
    "Text": "#ffffff",
    "PlaceholderText": "#9f9f9f",
    "Button": "#323232",
    "ButtonText": "#ffffff",
    "Highlight": "#2a82da",
    "HighlightedText": "#000000",
    "Light": "#4b4b4b",
    "Mid": "#282828",
    "Dark": "#191919",
}


class Application:
    """`slicer.app`."""

    applicationName = "Slicer stand-in"

    def __init__(self, temporaryPath):
        self.qt = QApplication.instance() or QApplication(["stand-in"])
        self.qt.setStyle("Fusion")  # as Slicer's own styles, which derive from it
        self.temporaryPath = str(temporaryPath)
        self.testing = True
        self.startupSlots = []
        self.modules = {}
        self._retired = []
        self.mainWindow = _MainWindow(self)
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, self.temporaryPath)
        self.qt.setOrganizationName("stand-in")
        self.qt.setApplicationName("stand-in")

    def connect(self, signal, slot):
        assert signal == "startupCompleted()"
        self.startupSlots.append(slot)

    def testingEnabled(self):
        return self.testing

    def processEvents(self):
        self.qt.processEvents()

    def style(self):
        return self.qt.style()

    def startupEnvironment(self):
        environment = QProcessEnvironment.systemEnvironment()
        return types.SimpleNamespace(keys=environment.keys, value=environment.value)

    def translate(self, _context, text):
        return text

    def topLevelWidgets(self):
        return [self.mainWindow]

    def moduleManager(self):
        return types.SimpleNamespace(module=self.modules.get, connect=_ignore, disconnect=_ignore)

    def loadModule(self, path):
        """Discover the scripted module at `path` as Slicer does when it starts, and return it."""
        path = Path(path)
        if path.stem in self.modules:
            self._retire(self.modules[path.stem])
        module = _Module(path)
        self.modules[path.stem] = module
        setattr(slicer.modules, path.stem.lower(), module)
        module.python = getattr(importlib.import_module(path.stem), path.stem)(module)
        return module

    def _retire(self, module):
        """Keep the widgets of an earlier start: the garbage collector may delete them on a thread, which crashes Qt."""
        for selector in module.widgetRepresentation().findChildren(widgets.qMRMLNodeComboBox):
            selector.setMRMLScene(None)
        module.widgetRepresentation().hide()
        self._retired.append(module)

    def setColorScheme(self, scheme):
        """Set colours like those of Slicer's "light" or "dark" style; the off-screen platform has no schemes."""
        palette = self.qt.style().standardPalette()
        if scheme == "dark":
            for role, color in _DARK.items():
                palette.setColor(getattr(QPalette.ColorRole, role), QColor(color))
                if "Text" in role:
                    palette.setColor(QPalette.ColorGroup.Disabled, getattr(QPalette.ColorRole, role), QColor("#7f7f7f"))
        self.qt.setPalette(palette)

    def addSegmentEditor(self):
        """Add a Segment Editor that stores the nodes it is given."""
        self.modules["SegmentEditor"] = _SegmentEditor()


class _SegmentEditor:
    """The part of Segment Editor that the module calls."""

    def __init__(self):
        self.editor = self
        self.segmentationNode = None
        self.undoStates = 0
        self._history = slicer.vtkSegmentationHistory()
        self._node = None

    def widgetRepresentation(self):
        return self

    def mrmlSegmentEditorNode(self):
        return self._node

    def selectParameterNode(self):
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag("SegmentEditor")
        self._node = slicer.mrmlScene.AddNode(node)

    def saveStateForUndo(self):
        assert self._node is not None
        self._history.SetSegmentation(self.segmentationNode.GetSegmentation())
        self._history.SaveState()
        self.undoStates += 1

    def undo(self):
        self._history.RestorePreviousState()

    def setSegmentationNode(self, node):
        self.segmentationNode = node
        self._node.SetAndObserveSegmentationNode(node)

    def setSourceVolumeNode(self, node):
        self._node.SetAndObserveSourceVolumeNode(node)

    @property
    def sourceVolumeNode(self):
        return self._node.GetSourceVolumeNode() if self._node else None


class _MainWindow(QMainWindow):
    """The part of the main window that `slicer.util.selectModule` needs."""

    def __init__(self, application):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.selectedModule = None
        self._application = application

    def moduleSelector(self):
        return self

    def selectModule(self, name):
        self.selectedModule = name


class _Module:
    """A scripted module: description, and a widget that is created on first use."""

    def __init__(self, path):
        self.name = path.stem
        self.path = str(path)
        self._representation = None

    def widgetRepresentation(self):
        if self._representation is None:
            representation = self._representation = widgets.qSlicerScriptedLoadableModuleWidget()
            representation.reload = lambda: self._create(representation)
            self._create(representation)
        return self._representation

    def _create(self, representation):
        widgetClass = getattr(sys.modules[self.name], self.name + "Widget")
        representation.python = widgetClass(representation)
        setattr(slicer.modules, self.name + "Widget", representation.python)
        representation.python.setup()


class ScriptedLoadableModule:
    """Base of a module's description."""

    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """Base of a module's panel."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def setup(self):
        pass

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Base of a module's logic, with the singleton parameter node."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of a module's test."""

    def delayDisplay(self, _message):
        slicer.app.processEvents()


def _ignore(*_arguments):
    pass


def install(temporaryPath) -> Application:
    """Provide `slicer`, `qt` and `ctk` as the module expects them in Slicer, for the rest of this process."""
    application = slicer.app = Application(temporaryPath)
    widgets.publish()
    slicer.util.loadUI = ui_loader.loadUI
    slicer.util.childWidgetVariables = ui_loader.childWidgetVariables
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    for base in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(scripted, base.__name__, base)
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    translation.translate = application.translate
    sys.modules["slicer.ScriptedLoadableModule"] = scripted
    sys.modules["slicer.parameterNodeWrapper"] = parameter_node.module()
    sys.modules["slicer.i18n"] = translation
    sys.modules["qt"] = pythonqt.qtModule()
    sys.modules["ctk"] = pythonqt.ctkModule()
    slicer.ScriptedLoadableModule, slicer.i18n = scripted, translation
    pythonqt.likePythonQt("slicer.util")
    return application
