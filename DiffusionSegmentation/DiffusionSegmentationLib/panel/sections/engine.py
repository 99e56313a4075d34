"""Model (kept in the scene) in section "Inputs"; device (a setting), place and log of the worker in "Advanced"."""

from collections.abc import Callable
from typing import Any

import qt

from ...i18n import tr as _
from ...runs.models import Entry
from ..backend import Backend
from ..parameter_node import DiffusionSegmentationParameterNode
from ..widgets import fillComboBox, setQuietly, signalsBlocked
from .models import ModelsSection
from .run_on import RunOnSection


class EngineSection:
    def __init__(
        self, ui: Any, backend: Backend, modelsChanged: Callable[[], None], placeChanged: Callable[[], None]
    ) -> None:
        """`modelsChanged` is called after a model was added or removed, `placeChanged` after another place to run."""
        self._ui = ui
        self._backend = backend
        self._runner = backend.runner
        self._parameterNode: DiffusionSegmentationParameterNode | None = None
        self._modelsChanged = modelsChanged
        self._models = ModelsSection(ui, backend, self._onModelsChanged)
        self._place = RunOnSection(ui, backend.settings, placeChanged)
        self._entries: dict[str, Entry] = {}
        self._fillModels()
        self._fillDevices()
        ui.modelComboBox.currentIndexChanged.connect(self._onModel)
        ui.deviceComboBox.currentIndexChanged.connect(self._onDevice)
        self._runner.client.logged.connect(self._onLogged)

    def close(self) -> None:
        self._models.close()
        self._runner.client.logged.disconnect(self._onLogged)

    def problem(self) -> str | None:
        if self._ui.modelComboBox.count == 0:
            return _("No model is installed; install the extension again.")
        if self._ui.modelComboBox.currentIndex < 0:
            return _("The model '{name}' is not installed; choose another one.").format(name=self._parameterNode.model)
        return self._place.problem()

    def model(self) -> Entry | None:
        """The selected model, if it is installed."""
        return self._entries.get(self._parameterNode.model) if self._parameterNode else None

    def refresh(self, parameterNode: DiffusionSegmentationParameterNode | None) -> None:
        """Show the model of `parameterNode` and the devices found by the worker."""
        self._parameterNode = parameterNode
        combo = self._ui.modelComboBox
        index = combo.findData(parameterNode.model) if parameterNode else -1
        setQuietly(combo, "currentIndex", index)
        combo.enabled = combo.count > 0
        hint = _("Choose a model.") if combo.count else self.problem()
        combo.toolTip = combo.itemData(index, qt.Qt.ToolTipRole) if index >= 0 else hint
        self._fillDevices()

    def _onModelsChanged(self) -> None:
        self._fillModels()
        self._modelsChanged()

    def _fillModels(self) -> None:
        combo = self._ui.modelComboBox
        self._entries = {entry.key: entry for entry in self._backend.models()}
        with signalsBlocked(combo):  # the choice in the scene stays
            combo.clear()
            for entry in self._entries.values():
                title = entry.title if entry.isSampling else _("{title} (no samples yet)").format(title=entry.title)
                combo.addItem(title, entry.key)
                tooltip = "\n".join(filter(None, [entry.description, ", ".join(entry.structures)]))
                combo.setItemData(combo.count - 1, tooltip, qt.Qt.ToolTipRole)
            combo.currentIndex = -1

    def _fillDevices(self) -> None:
        """List "auto", the devices found by the worker, and the selected one, which may not be found (yet)."""
        selected = self._backend.settings.device
        devices = {"auto": _("Automatic")} | {device["id"]: device["name"] for device in self._runner.devices()}
        devices.setdefault(selected, selected)
        if "cpu" in devices:
            devices["cpu"] = _("CPU")  # the name given by the worker is often only "x86_64"
        fillComboBox(self._ui.deviceComboBox, devices, selected)
        self._ui.deviceComboBox.toolTip = (
            _("Compute device. Automatic uses the first supported GPU, otherwise the CPU.")
            if self._runner.devices()
            else _("Compute device. More devices are listed once the background process has started.")
        )

    def _onModel(self) -> None:
        combo = self._ui.modelComboBox
        if self._parameterNode is not None and combo.currentIndex >= 0:
            self._parameterNode.model = combo.itemData(combo.currentIndex)

    def _onDevice(self) -> None:
        combo = self._ui.deviceComboBox
        self._backend.settings.device = combo.itemData(combo.currentIndex)

    def _onLogged(self, line: str) -> None:
        self._ui.logText.appendPlainText(line)
