"""Choices and result of one case, kept in the scene by the module's parameter node."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from ..review.ranking import SMALLEST_MM3
from ..runs.job import Choices


@parameterNodeWrapper
class DiffusionSegmentationParameterNode:
    """Choices of a run and the displayed result. `samples` 0 and `steps` 1 select the model's default.

    `regionMm` is the region spacing in mm, `smallestRegion` the minimum region size in mm³.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    model: str = Choices.model
    samples: Annotated[int, WithinRange(0, 64)] = 0
    steps: Annotated[int, WithinRange(1, 100)] = 1
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    regionMm: Annotated[int, WithinRange(5, 100)] = 15
    smallestRegion: Annotated[int, WithinRange(1, 10000)] = SMALLEST_MM3
