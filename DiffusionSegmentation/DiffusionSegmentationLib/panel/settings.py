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

    def __get__(self, _settings: object, _owner: type | None = None) -> str:
        return _read(self._name, self._default)

    def __set__(self, _settings: object, value: str) -> None:
        _write(self._name, value)


class Settings:
    """Settings of this computer.

    `device`: compute device, "auto" or an id from the worker's hello message. `workerPython`: interpreter of the
    worker, empty for Slicer's Python. `modelsFolder`: folder of additional models, empty for none.
    """

    device = _Setting("auto")
    workerPython = _Setting()
    modelsFolder = _Setting()

    def measured(self, model: str, device: str) -> str:
        """Return the stored timing (`Measured.asText`) of the last run of `model` on `device`; empty if none."""
        return _read(f"measured/{quote(model, safe='')}/{device}", "")

    def setMeasured(self, model: str, device: str, text: str) -> None:
        """Store the timing that `measured` returns."""
        _write(f"measured/{quote(model, safe='')}/{device}", text)


def _read(name: str, default: str) -> str:
    return slicer.util.settingsValue(PREFIX + name, default, converter=str)


def _write(name: str, value: str) -> None:
    qt.QSettings().setValue(PREFIX + name, value)
