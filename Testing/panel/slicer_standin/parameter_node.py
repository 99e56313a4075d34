"""`slicer.parameterNodeWrapper` for the types that the module uses: text, numbers and nodes, in a real node."""

import types
import typing

import slicer
from PySide6.QtWidgets import QSpinBox

from .widgets import qMRMLNodeComboBox


class WithinRange:
    """Annotation: smallest and largest value allowed."""

    def __init__(self, minimum, maximum):
        self.minimum = minimum
        self.maximum = maximum

    def check(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} to {self.maximum}")


class _Field:
    """One typed attribute of the wrapper, stored as text or as a node reference."""

    def __init__(self, name, hint, default):
        self.name = name
        self.type = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        self.ranges = [entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, WithinRange)]
        self.isNode = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        self.default = default

    def __get__(self, wrapper, _owner=None):
        node = wrapper.parameterNode
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return self.type(text) if text or self.type is str else self.default

    def __set__(self, wrapper, value):
        node = wrapper.parameterNode
        if self.isNode:
            if value is not None and not isinstance(value, self.type):
                raise TypeError(f"{self.name} is no {self.type.__name__}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            for allowed in self.ranges:
                allowed.check(value)
            node.SetParameter(self.name, str(value))


def parameterNodeWrapper(cls):
    """Turn the annotated attributes of `cls` into values of a parameter node."""
    fields = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        fields[name] = _Field(name, hint, getattr(cls, name, None))
        setattr(cls, name, fields[name])

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        for name, field in fields.items():
            if not field.isNode and not parameterNode.GetParameter(name):
                setattr(self, name, field.default)

    cls.__init__ = __init__
    cls.AddObserver = lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(
        event, callback, priority
    )
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    # Without connectGui, whose connections Slicer cannot end (issue 7547).
    cls.connectParametersToGui = lambda self, widgets: _Connection(self, widgets, fields)
    cls.disconnectGui = lambda self, tag: tag.disconnect()
    return cls


class _Connection:
    """Widgets by the name of the field that each is bound to, both ways."""

    def __init__(self, wrapper, widgets, fields):
        self._wrapper = wrapper
        self._slots = []
        self._widgets = widgets
        for name, widget in self._widgets.items():
            if isinstance(widget, QSpinBox):
                for allowed in fields[name].ranges:
                    widget.setRange(allowed.minimum, allowed.maximum)
            self._write(name, widget)
        for name, widget in self._widgets.items():
            slot = lambda value, name=name: setattr(wrapper, name, value)  # noqa: E731
            signal = _signal(widget)
            signal.connect(slot)
            self._slots.append((signal, slot))
        self._tag = wrapper.AddObserver("ModifiedEvent", lambda _caller, _event: self._refresh())

    def disconnect(self):
        self._wrapper.RemoveObserver(self._tag)
        for signal, slot in self._slots:
            signal.disconnect(slot)

    def _refresh(self):
        for name, widget in self._widgets.items():
            self._write(name, widget)

    def _write(self, name, widget):
        value = getattr(self._wrapper, name)
        if isinstance(widget, qMRMLNodeComboBox):
            widget.setCurrentNode(value)
        else:
            widget.setValue(value)


def _signal(widget):
    return widget.currentNodeChanged if isinstance(widget, qMRMLNodeComboBox) else widget.valueChanged


def module() -> types.ModuleType:
    result = types.ModuleType("slicer.parameterNodeWrapper")
    result.parameterNodeWrapper = parameterNodeWrapper
    result.WithinRange = WithinRange
    return result
