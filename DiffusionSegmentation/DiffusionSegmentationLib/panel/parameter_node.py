"""Choices and result of one case, kept in the scene by the module's parameter node."""

from typing import Annotated, Any

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


def connectWidgets(parameterNode: DiffusionSegmentationParameterNode, ui: Any) -> int:
    """Bind the widgets with the property SlicerParameterName; returns the tag for `disconnectGui`.

    `connectGui` does the same but returns no tag (Slicer issue 7547): the widgets would stay bound to every node.
    """
    widgets = {widget.property("SlicerParameterName"): widget for widget in vars(ui).values()}
    return parameterNode.connectParametersToGui({name: widget for name, widget in widgets.items() if name})
