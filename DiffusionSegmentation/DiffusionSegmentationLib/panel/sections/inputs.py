"""Selectors of the volumes in section "Inputs": one for each input of the model, such as T1 and FLAIR."""

from typing import Any

import qt
import slicer.util

from ...i18n import tr as _
from ...runs import handover, input_volumes
from ...runs.models import Entry
from ...scene.display import VOLUME_ROLE
from ..parameter_node import DiffusionSegmentationParameterNode, furtherInput, setFurtherInput
from ..widgets import makeTimer, signalsBlocked


class InputsSection:
    """The first input has the selector of the .ui file; those of further ones are created when a model needs them.

    The choices are kept in the parameter node. Empty selectors are filled by name when the model, the scene or the
    list of volumes has changed.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._timer = makeTimer(0, self._onVolumesChanged)
        self._texts = ui.inputLabel.text, ui.inputSelector.toolTip
        self._further: list[tuple[Any, Any]] = []
        """Labels and selectors, which are hidden when they are not needed."""
        self._parameterNode: DiffusionSegmentationParameterNode | None = None
        self._model: Entry | None = None
        self._filledFor: tuple | None = None
        """What the selectors were last filled for: parameter node, inputs and volumes."""

    def close(self) -> None:
        self._timer.stop()
        for _label, selector in self._further:
            with signalsBlocked(selector):
                selector.setMRMLScene(None)

    def refresh(self, parameterNode: DiffusionSegmentationParameterNode | None, model: Entry | None) -> None:
        """Show the volumes in `parameterNode` for the inputs of `model`."""
        self._parameterNode, self._model = parameterNode, model
        inputs = model.inputs if model is not None else ()
        ui, (label, toolTip) = self._ui, self._texts
        if len(inputs) > 1:
            label = _("{name}:").format(name=inputs[0].name)
            toolTip = _("Volume of the input {name}. The result lies on its grid. It is not changed.")
            toolTip = toolTip.format(name=inputs[0].name)
        ui.inputLabel.text, ui.inputSelector.toolTip = label, toolTip
        while len(self._further) < len(inputs) - 1:
            self._addSelector()
        self._fillByName()
        for number, (label, selector) in enumerate(self._further, 1):
            label.visible = selector.visible = number < len(inputs)
            if number < len(inputs):
                label.text = _("{name}:").format(name=inputs[number].name)
                toolTip = _("Volume of the input {name}. It is not changed.")
                selector.toolTip = toolTip.format(name=inputs[number].name)
            with signalsBlocked(selector):
                selector.enabled = parameterNode is not None
                selector.setCurrentNode(self._nodeOf(number))

    def problem(self) -> str | None:
        """Why the selected volumes cannot be segmented, one sentence, or None."""
        return input_volumes.problemOf(self._model, self._selected()) if self._model else self.volumeProblem()

    def volumeProblem(self) -> str | None:
        """Why there is no volume that masks, or the first input of any model, could be for."""
        if self._parameterNode is None:
            return _("The scene is being closed.")
        return handover.problemOf(self._parameterNode.inputVolume)

    def volumesChanged(self) -> None:
        """Fill the empty selectors once the names and selectors of new volumes are up to date."""
        self._timer.start()

    def _onVolumesChanged(self) -> None:
        self._timer.stop()
        if not slicer.mrmlScene.IsImporting():
            self.refresh(self._parameterNode, self._model)

    def volumes(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode]:
        """The selected volumes by the names of the model's inputs; empty for a model of one input."""
        return self._selected() if self._model is not None and len(self._model.inputs) > 1 else {}

    def _selected(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode | None]:
        names = [one.name for one in self._model.inputs]
        return {name: self._nodeOf(number) for number, name in enumerate(names)}

    def _nodeOf(self, number: int) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The volume of the input with this number."""
        if self._parameterNode is None or self._model is None or number >= len(self._model.inputs):
            return None
        if number == 0:
            return self._parameterNode.inputVolume
        return furtherInput(self._parameterNode, self._model.inputs[number].name)

    def _addSelector(self) -> None:
        """Add a hidden row below the last selector."""
        label, selector = qt.QLabel(), slicer.qMRMLNodeComboBox()
        number = len(self._further) + 1
        label.visible = selector.visible = False
        selector.objectName = f"inputSelector{number + 1}"
        selector.nodeTypes = self._ui.inputSelector.nodeTypes
        selector.hideChildNodeTypes = self._ui.inputSelector.hideChildNodeTypes
        selector.noneEnabled = True
        selector.addEnabled = selector.removeEnabled = False
        self._ui.inputsCollapsibleButton.layout().insertRow(number, label, selector)
        selector.setMRMLScene(slicer.mrmlScene)
        # The signal has two overloads, with the node and with whether there is one.
        selector.currentNodeChanged.connect(lambda *_arguments: self._onSelected(number, selector.currentNode()))
        self._further.append((label, selector))

    def _onSelected(self, number: int, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        if self._parameterNode is not None and self._model is not None and number < len(self._model.inputs):
            setFurtherInput(self._parameterNode, self._model.inputs[number].name, node)

    def _fillByName(self) -> None:
        inputs = self._model.inputs if self._model is not None else ()
        if self._parameterNode is None or len(inputs) < 2:
            self._filledFor = None
            return
        nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if _isInput(node)]
        state = self._parameterNode.parameterNode.GetID(), inputs, tuple(node.GetID() for node in nodes)
        if state == self._filledFor:
            return
        self._filledFor = state
        first, *others = input_volumes.matched(inputs, self._selected(), nodes).items()
        for name, node in others:
            setFurtherInput(self._parameterNode, name, node)
        if first[1] is not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = first[1]


def _isInput(node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether a volume is no label map and no part of a result."""
    isHidden = node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetHideFromEditors()
    return not isHidden and node.GetNodeReference(VOLUME_ROLE) is None
