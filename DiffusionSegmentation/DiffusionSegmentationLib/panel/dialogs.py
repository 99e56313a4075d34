"""What a person is asked: where files go, and what becomes of work of theirs."""

from typing import Any

import qt
import slicer
import slicer.util

from ..i18n import tr as _

KEEP, REPLACE, CANCEL = "keep", "replace", "cancel"


def keepReplaceOrCancel(name: str, voxels: int) -> str:
    """Whether the segmentation `name`, `voxels` of which were changed by hand, stays beside that of another run."""
    if slicer.app.testingEnabled():
        return KEEP
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.icon = qt.QMessageBox.Question
    box.windowTitle = _("Segment again")
    box.text = _("{count} voxels of '{name}' were changed by hand.").format(name=name, count=voxels)
    box.informativeText = _("Keep it beside the new result, or remove it when the new result is there?")
    keep = box.addButton(_("Keep both"), qt.QMessageBox.AcceptRole)
    replace = box.addButton(_("Replace"), qt.QMessageBox.DestructiveRole)
    box.addButton(qt.QMessageBox.Cancel)
    box.setDefaultButton(keep)
    box.exec_()
    clicked = box.clickedButton()
    if clicked is keep or clicked == keep:
        return KEEP
    return REPLACE if clicked is replace or clicked == replace else CANCEL


def mayRemove(name: str, voxels: int) -> bool:
    """Whether the result `name`, `voxels` of which were changed by hand, may go."""
    text = _("Remove '{name}' and all that belongs to it?").format(name=name)
    if voxels:
        text += " " + _("{count} voxels were changed by hand.").format(count=voxels)
    return slicer.util.confirmYesNoDisplay(text, windowTitle=_("Remove result"))


def fileToSave(parent: Any, title: str, name: str, kinds: str) -> str:
    """Where to save a file that would be called `name`; empty if the person gives up."""
    return qt.QFileDialog.getSaveFileName(parent, title, name, kinds)


def folder(parent: Any, title: str) -> str:
    """A folder; empty if the person gives up."""
    return qt.QFileDialog.getExistingDirectory(parent, title)
