"""Application settings, kept by Slicer under `DiffusionSegmentation/`, independent of the scene."""

from urllib.parse import quote

import qt
import slicer.util

PREFIX = "DiffusionSegmentation/"


class _Setting:
    """Text attribute that is stored as an application setting of the same name."""

    def __init__(self, default: str = "") -> None:
        self._default = default

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, settings: "Settings", _owner: type) -> str:
        return settings.value(self._name, self._default)

    def __set__(self, settings: "Settings", value: str) -> None:
        settings.setValue(self._name, value)


class Settings:
    """Settings of this computer.

    `device`: compute device, "auto" or an id from the worker's hello message. `workerPython`: interpreter of the
    worker, empty for Slicer's Python. `modelsFolder`: folder of additional models, empty for none.
    """

    device = _Setting("auto")
    workerPython = _Setting()
    modelsFolder = _Setting()

    def value(self, name: str, default: str = "") -> str:
        return slicer.util.settingsValue(PREFIX + name, default, converter=str)

    def setValue(self, name: str, value: str) -> None:
        qt.QSettings().setValue(PREFIX + name, value)


def timingKey(model: str, device: str) -> str:
    """Return the setting that stores the timing of the last run of `model` on `device` (`RunMeasurement.asText`)."""
    return f"measured/{quote(model, safe='')}/{device}"
