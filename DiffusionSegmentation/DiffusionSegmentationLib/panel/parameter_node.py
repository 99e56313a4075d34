"""Choices and result of one case, kept in the scene by the module's parameter node."""

from typing import Annotated, Any

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from diffusion_segmentation.images.input_names import name_key

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


def furtherInput(parameterNode: DiffusionSegmentationParameterNode, name: str) -> vtkMRMLScalarVolumeNode | None:
    """The volume of a further input of a model by its name, so that models of equal inputs share the choice."""
    return parameterNode.parameterNode.GetNodeReference(_role(name))


def setFurtherInput(
    parameterNode: DiffusionSegmentationParameterNode, name: str, node: vtkMRMLScalarVolumeNode | None
) -> None:
    if furtherInput(parameterNode, name) is not node:
        parameterNode.parameterNode.SetNodeReferenceID(_role(name), node.GetID() if node is not None else None)


def _role(name: str) -> str:
    """Role of the reference to the volume of an input: letters and digits, because scene files separate by others."""
    return f"inputVolume-{name_key(name)}"


def connectWidgets(parameterNode: DiffusionSegmentationParameterNode, ui: Any) -> int:
    """Bind the widgets with the property SlicerParameterName; returns the tag for `disconnectGui`.

    `connectGui` does the same but returns no tag (Slicer issue 7547): the widgets would stay bound to every node.
    """
    widgets = {widget.property("SlicerParameterName"): widget for widget in vars(ui).values()}
    return parameterNode.connectParametersToGui({name: widget for name, widget in widgets.items() if name})
