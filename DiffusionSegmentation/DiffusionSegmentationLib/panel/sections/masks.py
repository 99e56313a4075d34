"""Section "Import masks": the masks of the scene and of files, and the import of those that are checked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...runs.mask_nodes import maskNodes
from .. import dialogs
from ..widgets import enable, setButton, signalsBlocked

FILTERS = "Masks (*.nrrd *.nhdr *.nii *.nii.gz *.mha *.mhd *.npz)"


class MasksSection:
    """Lists masks with a check box each; `start` imports the checked nodes and files, nodes first."""

    def __init__(self, ui: Any, start: Callable[[Sequence[slicer.vtkMRMLNode | str]], None]) -> None:
        self._ui = ui
        self._start = start
        self._problem: str | None = None
        self._files: list[str] = []
        self._checked: set[str] = set()
        """IDs of the nodes and names of the files that are checked."""
        ui.maskList.itemChanged.connect(self._onItemChanged)
        ui.masksCollapsibleButton.contentsCollapsed.connect(lambda collapsed: collapsed or self._fillList())
        ui.addMasksButton.clicked.connect(self._onAddFiles)
        ui.clearMasksButton.clicked.connect(self._onClear)
        ui.importButton.clicked.connect(lambda *_arguments: self._start([mask for mask, _key in self._chosen()]))

    def refresh(self, problem: str | None) -> None:
        """Show the masks; `problem`: why nothing can be imported now."""
        self._problem = problem
        self._fillList()

    def _masks(self) -> list[tuple[slicer.vtkMRMLNode | str, str]]:
        """The masks in the order of the list, each with its key in `_checked`."""
        return [(node, node.GetID()) for node in maskNodes()] + [(path, path) for path in self._files]

    def _chosen(self) -> list[tuple[slicer.vtkMRMLNode | str, str]]:
        return [(mask, key) for mask, key in self._masks() if key in self._checked]

    def _fillList(self) -> None:
        """Update the rows in place, so that the scroll position stays."""
        listWidget, masks = self._ui.maskList, self._masks()
        with signalsBlocked(listWidget):
            while listWidget.count > len(masks):
                listWidget.takeItem(listWidget.count - 1)
            for row, (mask, key) in enumerate(masks):
                if row == listWidget.count:
                    listWidget.addItem("")
                item = listWidget.item(row)
                item.setText(Path(mask).name if isinstance(mask, str) else mask.GetName())
                item.setToolTip(mask if isinstance(mask, str) else _("A node of the scene."))
                item.setCheckState(qt.Qt.Checked if key in self._checked else qt.Qt.Unchecked)
        self._refreshButtons()

    def _refreshButtons(self) -> None:
        chosen = self._chosen()
        # One file can have class probabilities, which the worker finds out.
        tooFew = len(chosen) < 2 and not any(isinstance(mask, str) for mask, _key in chosen)
        problem = self._problem or (_("Check two masks or more, or a file of probabilities.") if tooFew else None)
        tip = _("Make a result of the checked masks.")
        setButton(self._ui.importButton, _("Import"), tip, problem)
        enable(None if self._files else _("No file was added."), self._ui.clearMasksButton)

    def _onItemChanged(self, *_arguments: Any) -> None:
        for row, (_mask, key) in enumerate(self._masks()[: self._ui.maskList.count]):
            checked = self._ui.maskList.item(row).checkState() == qt.Qt.Checked
            (self._checked.add if checked else self._checked.discard)(key)
        self._refreshButtons()

    def _onAddFiles(self, *_arguments: Any) -> None:
        paths = dialogs.selectFiles(self._ui.addMasksButton, _("Select masks"), FILTERS)
        self._files += [path for path in paths if path not in self._files]
        self._checked |= set(paths)
        self._fillList()

    def _onClear(self, *_arguments: Any) -> None:
        self._checked -= set(self._files)
        self._files = []
        self._fillList()
