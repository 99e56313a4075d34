"""Where the worker runs (settings), in section "Advanced": this computer, another Python, another computer by ssh."""

from collections.abc import Callable
from typing import Any

import ctk
import qt

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.remote import hosts

from ...i18n import tr as _
from ..settings import HOST, PYTHON, THIS, Settings
from ..widgets import chosen, fillComboBox


class RunOnSection:
    """Edits the settings of the place; `changed` is called when another place is chosen or becomes usable."""

    def __init__(self, ui: Any, settings: Settings, changed: Callable[[], None]) -> None:
        self._ui, self._settings, self._changed = ui, settings, changed
        places = {THIS: _("This computer"), PYTHON: _("Another Python"), HOST: _("Another computer, by ssh")}
        fillComboBox(ui.runOnComboBox, places, settings.runOn)
        ui.pythonPathLineEdit.filters = ctk.ctkPathLineEdit.Files
        ui.pythonPathLineEdit.currentPath = settings.workerPython
        ui.hostLineEdit.text = settings.workerHost
        ui.hostPythonLineEdit.text = settings.workerHostPython
        ui.runOnComboBox.currentIndexChanged.connect(self._onPlace)
        ui.pythonPathLineEdit.currentPathChanged.connect(self._onPython)
        # currentPathChanged is not emitted when the path is cleared.
        ui.pythonPathLineEdit.findChild(qt.QLineEdit).textChanged.connect(lambda text: text or self._onPython())
        ui.hostLineEdit.textChanged.connect(self._onHost)
        ui.hostPythonLineEdit.textChanged.connect(self._onHost)
        self._show()

    def problem(self) -> str | None:
        """Why nothing can run at the chosen place, one sentence, or None."""
        if self._settings.runOn != HOST:
            return None
        if not self._settings.workerHost:
            return _("Enter the computer to run on under Advanced.")
        try:
            hosts.ssh_command(self._settings.workerHost, self._settings.workerHostPython or hosts.DEFAULT_PYTHON)
        except InputError as error:
            return str(error)
        return None

    def _show(self) -> None:
        """Show the fields of the chosen place."""
        ui, place = self._ui, self._settings.runOn
        for widget in (ui.pythonLabel, ui.pythonPathLineEdit):
            widget.visible = place == PYTHON
        for widget in (ui.hostLabel, ui.hostLineEdit, ui.hostPythonLabel, ui.hostPythonLineEdit):
            widget.visible = place == HOST

    def _onPlace(self, *_index: int) -> None:
        self._settings.runOn = chosen(self._ui.runOnComboBox)
        self._show()
        self._changed()

    def _onPython(self, *_path: str) -> None:
        self._settings.workerPython = self._ui.pythonPathLineEdit.currentPath

    def _onHost(self, *_text: str) -> None:
        before = self.problem()
        self._settings.workerHost = self._ui.hostLineEdit.text.strip()
        self._settings.workerHostPython = self._ui.hostPythonLineEdit.text.strip()
        if self.problem() != before:
            self._changed()
