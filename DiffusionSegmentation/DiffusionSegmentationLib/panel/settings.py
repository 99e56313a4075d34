"""Application settings, kept by Slicer under `DiffusionSegmentation/`, independent of the scene."""

from urllib.parse import quote

import qt
import slicer.util

PREFIX = "DiffusionSegmentation/"


def _setting(name: str, default: str = "") -> property:
    """Text that is stored as the application setting `name`."""
    return property(lambda self: self.value(name, default), lambda self, text: self.setValue(name, text))


class Settings:
    """Settings of this computer.

    `device`: compute device, "auto" or an id from the worker's hello message. `workerPython`: interpreter of the
    worker, empty for Slicer's Python. `modelsFolder`: folder of additional models, empty for none.
    """

    device = _setting("device", "auto")
    workerPython = _setting("workerPython")
    modelsFolder = _setting("modelsFolder")

    def value(self, name: str, default: str = "") -> str:
        return slicer.util.settingsValue(PREFIX + name, default, converter=str)

    def setValue(self, name: str, value: str) -> None:
        qt.QSettings().setValue(PREFIX + name, value)


def timingKey(model: str, device: str) -> str:
    """Return the setting that stores the timing of the last run of `model` on `device` (`RunMeasurement.asText`)."""
    return f"measured/{quote(model, safe='')}/{device}"
