"""Application settings, kept by Slicer under `DiffusionSegmentation/`, independent of the scene."""

from urllib.parse import quote

import qt
import slicer.util

PREFIX = "DiffusionSegmentation/"
THIS, PYTHON, HOST = "this", "python", "ssh"
"""Where the worker runs: in Slicer's Python, in another Python of this computer, on another computer."""


def _setting(name: str, default: str = "") -> property:
    """Text that is stored as the application setting `name`."""
    return property(lambda self: self.value(name, default), lambda self, text: self.setValue(name, text))


class Settings:
    """Settings of this computer.

    `device`: compute device, "auto" or an id from the worker's hello message. `workerPython`: interpreter of the
    worker, empty for Slicer's Python. `modelsFolder`: folder of additional models, empty for none. `workerHost`: the
    computer that ssh reaches, and `workerHostPython` the interpreter there. `runOn`: which of these is used.
    """

    device = _setting("device", "auto")
    workerPython = _setting("workerPython")
    modelsFolder = _setting("modelsFolder")
    workerHost = _setting("workerHost")
    workerHostPython = _setting("workerHostPython")

    @property
    def runOn(self) -> str:
        """THIS, PYTHON or HOST; before a choice PYTHON if there is an interpreter, as in version 0.5 and older."""
        return self.value("runOn") or (PYTHON if self.workerPython else THIS)

    @runOn.setter
    def runOn(self, place: str) -> None:
        self.setValue("runOn", place)

    @property
    def otherPython(self) -> str:
        """The interpreter of the worker on this computer, empty for Slicer's Python."""
        return self.workerPython if self.runOn == PYTHON else ""

    def isConfirmed(self, host: str) -> bool:
        """Whether the user has agreed to send volumes to `host`."""
        return self.value(f"confirmed/{quote(host, safe='')}") != ""

    def confirm(self, host: str) -> None:
        self.setValue(f"confirmed/{quote(host, safe='')}", "yes")

    def value(self, name: str, default: str = "") -> str:
        return slicer.util.settingsValue(PREFIX + name, default, converter=str)

    def setValue(self, name: str, value: str) -> None:
        qt.QSettings().setValue(PREFIX + name, value)


def timingKey(model: str, device: str) -> str:
    """Return the setting that stores the timing of the last run of `model` on `device` (`RunMeasurement.asText`)."""
    return f"measured/{quote(model, safe='')}/{device}"
