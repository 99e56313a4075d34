"""Checks for, and installs with the user's consent, the packages that Slicer's Python needs to run the worker.

The check imports nothing: torch in Slicer's process would lock its files and break a later upgrade. torch is installed
by the PyTorch extension only, which imports it once after the installation; then a restart is offered.
"""

import importlib
import importlib.metadata
import logging
import subprocess
from pathlib import Path

import slicer.util
from packaging.requirements import Requirement

from ..i18n import tr as _

TORCH = Requirement("torch>=2.4,<3")

REQUESTER = "DiffusionSegmentation"


class DependencyError(Exception):
    """A package is missing and was not installed; the text is one plain sentence."""


def readRequirements(path: Path) -> list[Requirement]:
    """The requirements in a requirements.txt without options."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def isInstalled(requirement: Requirement) -> bool:
    """Whether this Python has a matching version, according to package metadata."""
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def missing(requirementsPath: Path) -> list[Requirement]:
    """The missing packages; torch first, because other packages would install a wrong build of it."""
    return [need for need in [TORCH, *readRequirements(requirementsPath)] if not isInstalled(need)]


def ensure(requirementsPath: Path) -> None:
    """Install what is missing, after asking the user.

    Blocks, with Slicer's progress dialog, while it installs. Installs nothing in Slicer's testing mode. Raises
    DependencyError if the installation was declined, impossible or failed, or if the user has chosen to restart Slicer.
    """
    needs = missing(requirementsPath)
    if not needs:
        return
    if slicer.app.testingEnabled():
        names = ", ".join(need.name for need in needs)
        raise DependencyError(_("These Python packages are missing: {names}.").format(names=names))
    others = [str(need) for need in needs if need != TORCH]
    if TORCH in needs:
        _installTorch()
    if others:
        _installOthers(others)
    restart = _("PyTorch was installed. Restarting Slicer is recommended. Restart now?")
    if TORCH in needs and slicer.util.confirmYesNoDisplay(restart):
        slicer.util.restart()  # returns; Slicer restarts when its event loop has ended
        raise DependencyError(_("Slicer is restarting; click Segment again afterwards."))


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError:
        sentence = _("Install the extension 'PyTorch' with the Extensions Manager, or select a Python under Advanced.")
        raise DependencyError(sentence) from None
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=str(TORCH.specifier)
        )
    except Exception as error:  # from pip, from the extension's patch of pip, or from the import of torch
        logging.exception("PyTorch could not be installed.")
        sentence = _("PyTorch could not be installed ({reason}); the Python console shows why.")
        raise DependencyError(sentence.format(reason=error)) from error
    if torch is None:
        raise DependencyError(_("The segmentation needs PyTorch, which was not installed."))


def _installOthers(requirements: list[str]) -> None:
    """Ask, and install with slicer.packaging, or with slicer.util in Slicer 5.10, which has no slicer.packaging."""
    declined = DependencyError(_("The segmentation needs Python packages, which were not installed."))
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:
        packaging = None
    try:
        if packaging is None:
            question = _("These Python packages will be installed into Slicer: {names}. Continue?")
            if not slicer.util.confirmOkCancelDisplay(question.format(names=", ".join(requirements))):
                raise declined
            slicer.util.pip_install(requirements)
        else:
            packaging.pip_ensure(requirements, requester=REQUESTER)
    except subprocess.CalledProcessError as error:
        sentence = _("Python packages could not be installed (exit code {code} of pip); the Python console shows why.")
        raise DependencyError(sentence.format(code=error.returncode)) from error
    except RuntimeError as error:
        if packaging is None:
            raise
        raise declined from error  # pip_ensure raises RuntimeError if the user declines
