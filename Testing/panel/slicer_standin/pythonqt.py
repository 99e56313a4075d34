"""The modules `qt` and `ctk`, and Qt properties as Python attributes."""

import types

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

TRUE_PROPERTY = 0x02


def likePythonQt(moduleName: str) -> None:
    """Let the module `moduleName` use Qt properties as attributes: `widget.enabled = False`, never `setEnabled`.

    PySide6 removes the getters and setters for such a module, so that what works here is written the one way that
    works in PythonQt, too.
    """
    from shibokensupport import feature  # PySide6 puts it on the path

    feature.set_selection(TRUE_PROPERTY, moduleName)


def qtModule() -> types.ModuleType:
    """`qt` as in Slicer: the classes of several Qt modules in one."""
    module = types.ModuleType("qt")

    def find(name):
        for source in (QtCore, QtGui, QtWidgets, QtUiTools):
            if name.startswith("Q") and hasattr(source, name):
                return getattr(source, name)
        raise AttributeError(f"module 'qt' has no attribute '{name}'")

    module.__getattr__ = find
    return module


def ctkModule() -> types.ModuleType:
    """`ctk`, with the widgets of widgets.py."""
    from . import widgets

    module = types.ModuleType("ctk")
    for name in ("ctkCollapsibleButton", "ctkPathLineEdit", "ctkSliderWidget"):
        setattr(module, name, getattr(widgets, name))
    return module
