"""The panel's choices of what computes: model, device and Python, and what the background process says."""

from typing import Any

import ctk
import qt

from ..i18n import tr as _
from .backend import Backend
from .parameters import DiffusionSegmentationParameterNode
from .widgets import enable, setQuietly


class EngineSection:
    """Shows and changes model (kept in the scene), device and Python (settings of the machine), and shows the log."""

    def __init__(self, ui: Any, backend: Backend) -> None:
        self._ui = ui
        self._backend = backend
        self._runner = backend.runner
        self._parameterNode: DiffusionSegmentationParameterNode | None = None
        self._fillModels()
        self._fillDevices()
        ui.pythonPathLineEdit.filters = ctk.ctkPathLineEdit.Files
        ui.pythonPathLineEdit.currentPath = backend.settings.workerPython
        ui.modelComboBox.currentIndexChanged.connect(self._onModelChosen)
        ui.deviceComboBox.currentIndexChanged.connect(self._onDeviceChosen)
        ui.pythonPathLineEdit.currentPathChanged.connect(self._onPythonChosen)
        # That signal, which waits for a whole path, is not sent when the path is emptied.
        ui.pythonPathLineEdit.findChild(qt.QLineEdit).textChanged.connect(self._onPythonText)
        self._runner.client.logged.connect(self._onLogged)

    def close(self) -> None:
        """Let go of the worker's log."""
        self._runner.client.logged.disconnect(self._onLogged)

    def problem(self) -> str | None:
        """One sentence why there is no model to run, or None."""
        if self._ui.modelComboBox.count == 0:
            return _("No model is installed; install the extension again.")
        if self._ui.modelComboBox.currentIndex < 0:
            return _("The model '{name}' is not here; choose another one.").format(name=self._parameterNode.model)
        return None

    def refresh(self, parameterNode: DiffusionSegmentationParameterNode | None) -> None:
        """Show the model that `parameterNode` names, and the devices that the worker has found."""
        self._parameterNode = parameterNode
        combo = self._ui.modelComboBox
        index = combo.findData(parameterNode.model) if parameterNode else -1
        setQuietly(combo, "currentIndex", index)
        tooltip = combo.itemData(index, qt.Qt.ToolTipRole) if index >= 0 else _("Choose a model.")
        enable(combo, self.problem() if combo.count == 0 else None, tooltip)
        self._fillDevices()

    def _fillModels(self) -> None:
        combo = self._ui.modelComboBox
        combo.clear()
        for entry in self._backend.models():
            combo.addItem(entry.title, entry.key)
            tooltip = "\n".join(filter(None, [entry.description, ", ".join(entry.structures)]))
            combo.setItemData(combo.count - 1, tooltip, qt.Qt.ToolTipRole)
        combo.currentIndex = -1

    def _fillDevices(self) -> None:
        """Offer "auto", what the worker has found, and what was chosen before even if it is not (yet) found."""
        chosen = self._backend.settings.device
        devices = {"auto": _("Automatic")} | {device["id"]: device["name"] for device in self._runner.devices()}
        devices.setdefault(chosen, chosen)
        if "cpu" in devices:
            devices["cpu"] = _("CPU")  # its name is often no more than "x86_64"
        combo = self._ui.deviceComboBox
        if [combo.itemData(index) for index in range(combo.count)] != list(devices):
            blocked = combo.blockSignals(True)
            combo.clear()
            for identifier, name in devices.items():
                combo.addItem(name, identifier)
            combo.blockSignals(blocked)
        setQuietly(combo, "currentIndex", combo.findData(chosen))
        combo.toolTip = (
            _("What computes. Automatic takes the first graphics card that can be used, otherwise the processor.")
            if self._runner.devices()
            else _("What computes. More devices appear when the background process has looked for them.")
        )

    def _onModelChosen(self) -> None:
        combo = self._ui.modelComboBox
        if self._parameterNode is not None and combo.currentIndex >= 0:
            self._parameterNode.model = combo.itemData(combo.currentIndex)

    def _onDeviceChosen(self) -> None:
        combo = self._ui.deviceComboBox
        self._backend.settings.device = combo.itemData(combo.currentIndex)

    def _onPythonText(self, text: str) -> None:
        if not text:
            self._onPythonChosen()

    def _onPythonChosen(self, *_path: str) -> None:
        self._backend.settings.workerPython = self._ui.pythonPathLineEdit.currentPath

    def _onLogged(self, line: str) -> None:
        self._ui.logText.appendPlainText(line)
