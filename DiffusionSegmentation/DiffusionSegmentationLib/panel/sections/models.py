"""List of the installed models in section "Advanced", with buttons to add and to remove models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...i18n import tr as _
from ...runs.dependencies import DependencyError
from ...runs.engine_command import EngineCommand
from ...runs.models import Entry, dependents
from .. import dialogs
from ..backend import Backend
from ..widgets import enable, fitColumns, fitRows, makeTimer, setCell

POLL_MILLISECONDS = 200
NAME_COLUMN = 0
ARCHIVES = "(*.zip *.tar *.tar.gz *.tgz *.tar.xz *.tar.bz2)"


class ModelsSection:
    """Shows the models; `changed` is called after one was added or removed."""

    def __init__(self, ui: Any, backend: Backend, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._backend = backend
        self._changed = changed
        self._entries: list[Entry] = []
        self._command: EngineCommand | None = None
        self._timer = makeTimer(POLL_MILLISECONDS, self._poll)
        ui.modelsTable.columnCount = 3
        ui.modelsTable.setHorizontalHeaderLabels([_("Model"), _("Size"), _("Source")])
        fitColumns(ui.modelsTable, NAME_COLUMN)
        ui.modelsTable.itemSelectionChanged.connect(self._refreshButtons)
        ui.addModelFolderButton.clicked.connect(self._onAddFolder)
        ui.addModelArchiveButton.clicked.connect(self._onAddArchive)
        ui.removeModelButton.clicked.connect(self._onRemove)
        self._fill()

    def close(self) -> None:
        self._timer.stop()

    def _fill(self) -> None:
        ui, self._entries = self._ui, self._backend.models()
        ui.modelsTable.rowCount = len(self._entries)
        for row, entry in enumerate(self._entries):
            size = _("{size:.1f} MB").format(size=entry.bytes / 1e6)
            source = Path(entry.source).name if entry.source else _("included")
            tip = "\n".join(filter(None, [entry.title, str(entry.folder), entry.source]))
            for column, text in enumerate((entry.title, size, source)):
                setCell(ui.modelsTable, row, column, text, tip, centred=column == 1)
        fitRows(ui.modelsTable)
        self._refreshButtons()

    def _selected(self) -> Entry | None:
        row = self._ui.modelsTable.currentRow()
        return self._entries[row] if 0 <= row < len(self._entries) else None

    def _refreshButtons(self) -> None:
        busy = _("Wait until the models have changed.") if self._command else None
        enable(busy, self._ui.addModelFolderButton, self._ui.addModelArchiveButton)
        entry = self._selected()
        fixed = None if entry and entry.isAdded else _("Only models that were added can be removed; select one.")
        enable(busy or fixed, self._ui.removeModelButton)

    def _onAddFolder(self, *_arguments: Any) -> None:
        self._add(dialogs.selectFolder(self._ui.addModelFolderButton, _("Select a model folder")))

    def _onAddArchive(self, *_arguments: Any) -> None:
        filters = _("Archives of models") + f" {ARCHIVES}"
        for path in dialogs.selectFiles(self._ui.addModelArchiveButton, _("Select an archive of a model"), filters)[:1]:
            self._add(path)

    def _add(self, path: str) -> None:
        if path:
            self._start(["add", path], _("Checking the model"))

    def _onRemove(self, *_arguments: Any) -> None:
        entry = self._selected()
        if entry is None:
            return
        if dialogs.confirmModelRemoval(entry.title, [one.title for one in dependents(entry, self._entries)]):
            self._start(["remove", entry.folder.name], _("Removing the model"))

    def _start(self, arguments: list[str], message: str) -> None:
        try:
            self._command = self._backend.command(["models", *arguments])
        except DependencyError as error:
            message = str(error)
        else:
            self._timer.start()
        self._ui.modelsLabel.text = message
        self._refreshButtons()

    def _poll(self) -> None:
        if self._command is None or self._command.running:
            return
        self._timer.stop()
        command, self._command = self._command, None
        self._ui.modelsLabel.text = command.message
        self._fill()
        if command.succeeded:
            self._changed()
