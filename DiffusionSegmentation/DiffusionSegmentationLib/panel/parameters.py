"""Choices: what belongs to the case lives in the scene's parameter node, what belongs to the machine in settings."""

from typing import Annotated
from urllib.parse import quote

import qt
import slicer.util
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from ..review.ranking import SMALLEST_MM3
from ..runs.job import Choices


@parameterNodeWrapper
class DiffusionSegmentationParameterNode:
    """Choices for one case, and the last result; `samples` 0 and `steps` 1 are the model's own numbers.

    `smallestRegion` is in mm3."""

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    model: str = Choices.model
    samples: Annotated[int, WithinRange(0, 64)] = 0
    steps: Annotated[int, WithinRange(1, 100)] = 1
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    regionMm: Annotated[int, WithinRange(5, 100)] = 15
    smallestRegion: Annotated[int, WithinRange(1, 10000)] = SMALLEST_MM3


def choices(parameterNode: DiffusionSegmentationParameterNode, device: str) -> Choices:
    """The choices of a run: those of the case, on the machine's `device`."""
    return Choices(
        model=parameterNode.model,
        samples=parameterNode.samples or None,
        steps=parameterNode.steps if parameterNode.steps > 1 else None,
        seed=parameterNode.seed,
        regionMm=parameterNode.regionMm,
        device=device or "auto",
    )


class Settings:
    """Settings of the machine, kept by the application under `DiffusionSegmentation/`."""

    _PREFIX = "DiffusionSegmentation/"

    @property
    def device(self) -> str:
        """Device of the worker: "auto", or an id of its hello."""
        return self._read("device", "auto")

    @device.setter
    def device(self, device: str) -> None:
        self._write("device", device)

    @property
    def workerPython(self) -> str:
        """Path of the interpreter that runs the worker; empty for Slicer's own."""
        return self._read("workerPython", "")

    @workerPython.setter
    def workerPython(self, path: str) -> None:
        self._write("workerPython", path)

    def measured(self, model: str, device: str) -> str:
        """What estimate.RunMeasurement wrote of the last run of `model` on `device`; empty before the first."""
        return self._read(f"measured/{quote(model, safe='')}/{device}", "")

    def setMeasured(self, model: str, device: str, text: str) -> None:
        """Keep `text` for `measured`."""
        self._write(f"measured/{quote(model, safe='')}/{device}", text)

    @property
    def modelsFolder(self) -> str:
        """A folder of further models; empty for none."""
        return self._read("modelsFolder", "")

    def _read(self, name: str, default: str) -> str:
        return slicer.util.settingsValue(self._PREFIX + name, default, converter=str)

    def _write(self, name: str, value: str) -> None:
        qt.QSettings().setValue(self._PREFIX + name, value)
