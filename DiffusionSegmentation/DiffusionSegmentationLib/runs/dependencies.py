"""What Slicer's own Python needs to run the worker, asked for where needed and installed if the person agrees.

Looking never imports: torch in Slicer's process would lock its files and spoil a later upgrade. torch comes from the
PyTorch extension alone, which imports it once after installing it; a restart is offered when all is installed.
"""

import importlib
import importlib.metadata
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import slicer
import slicer.util
from packaging.requirements import Requirement

from ..i18n import tr as _

TORCH = Requirement("torch>=2.4,<3")

REQUESTER = "DiffusionSegmentation"


class DependencyError(Exception):
    """Something is missing and was not installed; the text is one plain sentence."""


def readRequirements(path: Path) -> list[Requirement]:
    """The requirements of a requirements.txt without options."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def isInstalled(requirement: Requirement) -> bool:
    """Whether this Python has a fitting version, by its metadata."""
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def missing(requirementsPath: Path) -> list[Requirement]:
    """What of torch and the requirements this Python lacks; torch first, because others would pull in a wrong one."""
    return [need for need in [TORCH, *readRequirements(requirementsPath)] if not isInstalled(need)]


def ensure(requirementsPath: Path) -> None:
    """Install what is missing, after asking. Raises DependencyError if it was declined, impossible, or failed, and
    also if the person chose to restart Slicer, so that nothing more is begun.

    Blocks with Slicer's progress dialog while it installs; returns at once if nothing is missing. Installs nothing in
    Slicer's testing mode.
    """
    needs = missing(requirementsPath)
    if not needs:
        return
    if slicer.app.testingEnabled():
        names = ", ".join(need.name for need in needs)
        raise DependencyError(_("These Python packages are missing: {names}.").format(names=names))
    others = [need for need in needs if need != TORCH]
    if TORCH in needs:
        _installTorch()
    if others:
        _installOthers(others)
    if TORCH in needs:
        _offerRestart()


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError:
        sentence = _("Install the extension 'PyTorch' with the Extensions Manager, or choose a Python in Advanced.")
        raise DependencyError(sentence) from None
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=str(TORCH.specifier)
        )
    except Exception as error:  # the extension raises whatever pip, its patch of pip, or the import of torch raises
        logging.exception("PyTorch could not be installed.")
        sentence = _("PyTorch could not be installed ({reason}); the Python console shows why.")
        raise DependencyError(sentence.format(reason=error)) from error
    if torch is None:
        raise DependencyError(_("The segmentation needs PyTorch, which was not installed."))


def _installOthers(needs: list[Requirement]) -> None:
    texts = [str(need) for need in needs]
    try:
        _pipInstaller()(texts)
    except subprocess.CalledProcessError as error:
        sentence = _("Python packages could not be installed (exit code {code} of pip); the Python console shows why.")
        raise DependencyError(sentence.format(code=error.returncode)) from error


def _offerRestart() -> None:
    if slicer.util.confirmYesNoDisplay(_("PyTorch was installed. It is best to restart Slicer now. Restart?")):
        slicer.util.restart()  # returns: Slicer restarts once its event loop has ended
        raise DependencyError(_("Slicer restarts; click Segment again then."))


def _pipInstaller() -> Callable[[list[str]], None]:
    """A function that asks and installs: with slicer.packaging, or as Slicer 5.10 can, which has none."""
    declined = _("The segmentation needs Python packages that were not installed.")
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:

        def install(texts: list[str]) -> None:
            question = _("These Python packages will be installed into Slicer: {names}. Continue?")
            if not slicer.util.confirmOkCancelDisplay(question.format(names=", ".join(texts))):
                raise DependencyError(declined)
            slicer.util.pip_install(texts)

    else:

        def install(texts: list[str]) -> None:
            try:
                packaging.pip_ensure(texts, requester=REQUESTER)
            except RuntimeError as error:  # its way to say that the person declined
                raise DependencyError(declined) from error

    return install
