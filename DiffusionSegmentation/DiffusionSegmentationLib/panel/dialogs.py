"""Modal dialogs of the panel."""

from typing import Any

import qt
import slicer.util

from ..i18n import tr as _

KEEP, REPLACE, CANCEL = "keep", "replace", "cancel"


def keepReplaceOrCancel(name: str, voxels: int) -> str:
    """Ask, before its volume is run again, what to do with the segmentation `name`, of which `voxels` were edited.

    Returns KEEP, REPLACE or CANCEL; KEEP without a dialog while Slicer runs tests.
    """
    if slicer.app.testingEnabled():
        return KEEP
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.icon = qt.QMessageBox.Question
    box.windowTitle = _("Edited result")
    box.text = _("{count} voxels of '{name}' were edited manually.").format(name=name, count=voxels)
    box.informativeText = _("Keep it in addition to the new result, or replace it?")
    keep = box.addButton(_("Keep both"), qt.QMessageBox.AcceptRole)
    replace = box.addButton(_("Replace"), qt.QMessageBox.DestructiveRole)
    box.addButton(qt.QMessageBox.Cancel)
    box.setDefaultButton(keep)
    box.exec_()
    clicked = box.clickedButton()
    return KEEP if clicked == keep else REPLACE if clicked == replace else CANCEL


def confirmRemoval(name: str, voxels: int) -> bool:
    """Ask whether to remove the result `name`, in which `voxels` voxels were edited."""
    text = _("Remove '{name}' and all its nodes?").format(name=name)
    if voxels:
        text += " " + _("{count} voxels were edited manually.").format(count=voxels)
    return slicer.util.confirmYesNoDisplay(text, windowTitle=_("Remove result"))


def confirmUndo(name: str) -> bool:
    """Ask whether to remove the updated result `name`, which was edited after the update."""
    text = _("'{name}' was edited after the update. Remove it with these edits, and show the result before the update?")
    return slicer.util.confirmYesNoDisplay(text.format(name=name), windowTitle=_("Undo update"))


def confirmSending(host: str) -> bool:
    """Ask, before the first run on the computer `host`, whether volumes may be sent there."""
    text = _(
        "The volume, and masks, results and the model where a run needs them, will be sent to the computer '{host}' "
        "through ssh. They are removed there when the connection ends; only the model stays. Send them?"
    )
    return slicer.util.confirmOkCancelDisplay(text.format(host=host), windowTitle=_("Run on another computer"))


def confirmNextCase(name: str) -> bool:
    """Ask whether to go on to another case and remove the result `name`, whose corrections or review are not saved."""
    text = _("'{name}' was corrected or reviewed. Go on without saving it? Its nodes leave the scene.")
    return slicer.util.confirmYesNoDisplay(text.format(name=name), windowTitle=_("Another case"))


def confirmModelRemoval(title: str, dependents: list[str]) -> bool:
    """Ask whether to delete an added model, without which the models with the titles `dependents` cannot run."""
    text = _("Delete the model '{title}' from this computer?").format(title=title)
    if dependents:
        text += " " + _("These models cannot run without it: {titles}.").format(titles=", ".join(dependents))
    return slicer.util.confirmYesNoDisplay(text, windowTitle=_("Remove model"))


def selectFileToSave(parent: Any, title: str, name: str, filters: str) -> str:
    """Ask for the path of a new file, `name` by default; empty if cancelled."""
    return qt.QFileDialog.getSaveFileName(parent, title, name, filters)


def selectFiles(parent: Any, title: str, filters: str) -> list[str]:
    """Ask for existing files; empty if cancelled."""
    return list(qt.QFileDialog.getOpenFileNames(parent, title, "", filters))


def selectFolder(parent: Any, title: str, start: str = "") -> str:
    """Ask for an existing folder, beginning in the folder `start`; empty if cancelled."""
    return qt.QFileDialog.getExistingDirectory(parent, title, start)
