"""Section "Import masks": lists the masks in the scene and in added files, and imports the checked ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...runs.mask_nodes import maskNodes
from .. import dialogs
from ..widgets import enable, setButton, signalsBlocked

PATTERNS = "(*.nrrd *.nhdr *.nii *.nii.gz *.mha *.mhd *.npz)"


class MasksSection:
    """Lists masks with a check box each; `start` imports the checked nodes and files, nodes first.

    The key of a mask is the ID of its node or the path of its file.
    """

    def __init__(self, ui: Any, start: Callable[[Sequence[slicer.vtkMRMLNode | str]], None]) -> None:
        self._ui = ui
        self._start = start
        self._problem: str | None = None
        self._files: list[str] = []
        self._listed: list[str] = []
        """Keys of the masks in the list, by row. The scene may have changed since."""
        self._checked: set[str] = set()
        """Keys of the checked masks."""
        ui.maskList.itemChanged.connect(self._onItemChanged)
        ui.masksCollapsibleButton.contentsCollapsed.connect(lambda collapsed: collapsed or self.updateList())
        ui.addMasksButton.clicked.connect(self._onAddFiles)
        ui.clearMasksButton.clicked.connect(self._onRemoveFiles)
        ui.importButton.clicked.connect(self._onImport)

    def refresh(self, problem: str | None) -> None:
        """Show the masks. `problem`: why nothing can be imported now."""
        self._problem = problem
        self.updateList()

    def clear(self) -> None:
        """Uncheck all masks and forget the files, because the scene is being closed: the next one reuses node IDs."""
        self._files = []
        self._checked.clear()
        self.updateList()

    def updateList(self) -> None:
        """Show the nodes of the scene and the files. Rows are updated in place, so that the scroll position stays."""
        listWidget, masks = self._ui.maskList, self._masks()
        self._listed = list(masks)
        self._checked &= masks.keys()
        with signalsBlocked(listWidget):
            while listWidget.count > len(masks):
                listWidget.takeItem(listWidget.count - 1)
            for row, (key, mask) in enumerate(masks.items()):
                if row == listWidget.count:
                    listWidget.addItem("")
                item = listWidget.item(row)
                item.setText(Path(mask).name if isinstance(mask, str) else mask.GetName())
                item.setToolTip(mask if isinstance(mask, str) else _("In the scene"))
                item.setCheckState(qt.Qt.Checked if key in self._checked else qt.Qt.Unchecked)
        self._refreshButtons()

    def _masks(self) -> dict[str, slicer.vtkMRMLNode | str]:
        """Return the available masks by key, in the order of the list."""
        return {node.GetID(): node for node in maskNodes()} | {path: path for path in self._files}

    def _refreshButtons(self) -> None:
        tip = _("Create a result from the checked masks.")
        setButton(self._ui.importButton, _("Import"), tip, self._problem or self._selectionProblem())
        enable(None if self._files else _("No files have been added."), self._ui.clearMasksButton)

    def _selectionProblem(self) -> str | None:
        """Return why the checked masks cannot be imported together, or None.

        The worker finds out whether a file has class probabilities, of which one is enough.
        """
        isFile = [isinstance(mask, str) for key, mask in self._masks().items() if key in self._checked]
        if len(isFile) < 2 and True not in isFile:
            return _("Check at least two masks, or a file of class probabilities.")
        return None

    def _onItemChanged(self, *_arguments: Any) -> None:
        for row, key in enumerate(self._listed):
            checked = self._ui.maskList.item(row).checkState() == qt.Qt.Checked
            (self._checked.add if checked else self._checked.discard)(key)
        self._refreshButtons()

    def _onImport(self, *_arguments: Any) -> None:
        self._start([mask for key, mask in self._masks().items() if key in self._checked])

    def _onAddFiles(self, *_arguments: Any) -> None:
        filters = _("Masks") + " " + PATTERNS
        paths = dialogs.selectFiles(self._ui.addMasksButton, _("Select masks"), filters)
        self._files += [path for path in paths if path not in self._files]
        self._checked.update(paths)
        self.updateList()

    def _onRemoveFiles(self, *_arguments: Any) -> None:
        self._files = []
        self.updateList()
