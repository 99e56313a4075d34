"""Section "Correct": Segment Editor limited to uncertain voxels, samples in place of the result, manual edits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer.util

from ...coalescing_thread import CoalescingThread
from ...i18n import tr as _
from ...review import corrections
from ...review.review import Review
from ...scene.display import Overlay
from ...scene.label_map import Labels
from ...scene.result_nodes import ENTROPY_ROLE, VOLUME_ROLE
from ...scene.sample_browser import Browser
from ...signals import Signal
from ..widgets import Section, enable, fillComboBox, missingEntropy, missingResult, setQuietly

CURRENT_REGION = "region"
SEGMENT_PREFIX = "segment:"


class CorrectionsSection(Section):
    """Changes a result. Each change is one undo step of Segment Editor."""

    TIMER_MILLISECONDS = 50

    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._maskedEditorNode: slicer.vtkMRMLSegmentEditorNode | None = None
        self._countedStamp: tuple | None = None
        """Identifies the state of the segments for which edited voxels were or are being counted."""
        self._edited: int | None = None
        """Number of edited voxels in that state, None until it is counted."""
        self._countText = ""
        self._problem = ""
        self._thread = CoalescingThread()
        self.editorOpening = Signal()
        """Emitted before Segment Editor is opened."""
        ui.editButton.clicked.connect(self._onEdit)
        ui.uncertainOnlyCheckBox.toggled.connect(self._onUncertainOnly)
        ui.reviewSegmentButton.clicked.connect(self._onReviewSegment)
        ui.useSampleButton.clicked.connect(self._onUseSample)
        ui.areaComboBox.currentIndexChanged.connect(lambda _index: self.refresh(self._segmentation))

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        if segmentation is not self._segmentation:
            self._unmaskEditor()
            self._segmentation, self._problem, self._countedStamp = segmentation, "", None
        ui = self._ui
        missing = missingResult(segmentation)
        setQuietly(ui.uncertainOnlyCheckBox, "checked", bool(segmentation and self._uncertainOnly()))
        ui.maskLabel.visible = ui.uncertainOnlyCheckBox.checked
        fillComboBox(ui.areaComboBox, self._areas(), self._area())
        enable(missing, ui.editButton, ui.areaComboBox)
        enable(missingEntropy(segmentation), ui.uncertainOnlyCheckBox, ui.reviewSegmentButton)
        enable(missing or self._noSample(), ui.useSampleButton)
        if segmentation is None:
            ui.editedLabel.text = missing
        else:
            self._count()
            ui.editedLabel.text = self._problem or self._countText

    def setThreshold(self, bits: float) -> None:
        """Set the lower limit of Segment Editor's mask to the overlay's threshold `bits`."""
        editorNode = self._editorNode()
        if self._segmentation and self._uncertainOnly() and editorNode:
            editorNode.SetSourceVolumeIntensityMaskRange(bits, self._maskMaximum())

    def countEdited(self, segmentation: slicer.vtkMRMLSegmentationNode) -> int:
        """Return the number of voxels that now differ from the model's result; 0 if they cannot be compared.

        Voxels are counted, which blocks the windows, only if the segments have changed since the last count.
        """
        try:
            labels = Labels(segmentation)
            counted = self._edited if _stamp(segmentation, labels) == self._countedStamp else None
            return labels.edited() if counted is None else counted
        except LookupError:
            return 0

    # Area in which a sample replaces the result

    def _areas(self) -> dict[str, str]:
        """Return key and title of the current region, the ROI nodes, and the segments added by the user."""
        if self._segmentation is None:
            return {}
        areas = {CURRENT_REGION: _("current region")}
        for roiNode in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
            areas[roiNode.GetID()] = _("ROI {name}").format(name=roiNode.GetName())
        segmentation = self._segmentation.GetSegmentation()
        modelIDs = {volume["id"] for volume in Browser(self._segmentation).report["volumes"]}
        for segmentID in segmentation.GetSegmentIDs():
            if segmentID not in modelIDs:
                name = segmentation.GetSegment(segmentID).GetName()
                areas[SEGMENT_PREFIX + segmentID] = _("segment {name}").format(name=name)
        return areas

    def _area(self) -> str | None:
        return self._ui.areaComboBox.itemData(self._ui.areaComboBox.currentIndex)

    def _noSample(self) -> str | None:
        if Browser(self._segmentation).shown is None:
            return _("Show a sample first.")
        if self._area() == CURRENT_REGION and Review(self._segmentation).current is None:
            return _("Go to a region first.")
        return None

    def _areaMask(self) -> np.ndarray:
        """Return the selected area as a mask on the grid of the result. Raises LookupError with one sentence."""
        area = self._area()
        if area == CURRENT_REGION:
            return corrections.regionMask(self._segmentation, Review(self._segmentation).current["basin"])
        if area.startswith(SEGMENT_PREFIX):
            return corrections.segmentMask(self._segmentation, area.removeprefix(SEGMENT_PREFIX))
        roiNode = self._segmentation.GetScene().GetNodeByID(area)
        if roiNode is None:
            raise LookupError(_("The ROI is no longer in the scene."))
        return corrections.roiMask(self._segmentation, roiNode)

    def _onUseSample(self, *_arguments: Any) -> None:
        area, problem = self._area(), self._noSample()
        try:
            if problem:
                raise LookupError(problem)
            mask = self._areaMask()
        except LookupError as error:
            self._setProblem(str(error))
            return
        segmentID = area.removeprefix(SEGMENT_PREFIX) if area.startswith(SEGMENT_PREFIX) else None
        self.useSample(Browser(self._segmentation).shown, mask, segmentID)

    def useSample(self, index: int, mask: np.ndarray, segmentID: str | None = None) -> str:
        """Replace the result by sample `index` (from 0) where `mask` [k, j, i]; returns why not, one sentence, or "".

        `segmentID` is that of the segment from which the mask was made, if it was.
        """

        def use() -> None:
            if segmentID is not None:
                # In the labelmap that the model's segments share, its voxels could not be changed.
                self._segmentation.GetSegmentation().SeparateSegmentLabelmap(segmentID)
            if not corrections.useSample(self._segmentation, index, mask):
                raise LookupError(_("The sample is identical to the result in this area; nothing was changed."))

        self._change(use)
        return self._problem

    def _onReviewSegment(self, *_arguments: Any) -> None:
        bits = Overlay(self._entropyNode()).threshold
        self._change(lambda: corrections.makeReviewSegment(self._segmentation, bits))

    def _change(self, change: Callable[[], object]) -> None:
        """Call `change` as one undo step of Segment Editor; show the message of a LookupError."""
        editor = _segmentEditor()
        editor.setSegmentationNode(self._segmentation)
        self._maskEditor()
        editor.saveStateForUndo()
        try:
            change()
        except LookupError as error:
            self._setProblem(str(error))
        else:
            self._setProblem("")

    def _setProblem(self, problem: str) -> None:
        self._problem = problem
        self.refresh(self._segmentation)

    # Number of edited voxels

    def _count(self) -> None:
        """Count the edited voxels on a thread, unless the segments have not changed since the last count."""
        try:
            labels = Labels(self._segmentation)
            stamp = _stamp(self._segmentation, labels)
            if stamp == self._countedStamp:
                return
            # Copied here: the editor may reallocate the segments' memory while the thread reads.
            current = labels.copied()
        except LookupError as error:
            self._countedStamp, self._edited, self._countText = None, None, str(error)
        else:
            self._countedStamp, self._edited = stamp, None
            self._countText = _("Counting edited voxels ...")
            self._thread.submit(lambda: (stamp, labels, labels.edited(current())))
            self._timer.start()

    def _onTimer(self) -> None:
        result = self._thread.poll()
        if not self._thread.busy:
            self._timer.stop()
        if result is not None and result[0] == self._countedStamp and self._segmentation is not None:
            labels, self._edited = result[1:]
            self._countText = _countText(labels, self._edited)
            self._ui.editedLabel.text = self._problem or self._countText

    # Segment Editor

    def _entropyNode(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        return self._segmentation.GetNodeReference(ENTROPY_ROLE)

    def _uncertainOnly(self) -> bool:
        return self._segmentation.GetAttribute(corrections.UNCERTAIN_ONLY_ATTRIBUTE) == "1"

    def _maskMaximum(self) -> float:
        return float(Browser(self._segmentation).report["max_entropy_bits"]) + 1.0

    def _editorNode(self) -> slicer.vtkMRMLSegmentEditorNode | None:
        """Return Segment Editor's parameter node if it edits this segmentation."""
        node = _segmentEditor().mrmlSegmentEditorNode() if self._segmentation else None
        return node if node and node.GetSegmentationNode() is self._segmentation else None

    def _onEdit(self, *_arguments: Any) -> None:
        self.editorOpening.emit()
        slicer.util.selectModule("SegmentEditor")
        _segmentEditor().setSegmentationNode(self._segmentation)
        if self._editorNode():
            self._maskEditor()

    def _onUncertainOnly(self, on: bool) -> None:
        self._segmentation.SetAttribute(corrections.UNCERTAIN_ONLY_ATTRIBUTE, "1" if on else "0")
        if not on:
            self._unmaskEditor()
        if self._editorNode():
            self._maskEditor()
        self.refresh(self._segmentation)

    def _maskEditor(self) -> None:
        """Set or clear Segment Editor's intensity mask; it must already edit this segmentation."""
        editor = _segmentEditor()
        editorNode, entropyNode = self._editorNode(), self._entropyNode()
        if self._uncertainOnly() and entropyNode is not None:
            editor.setSourceVolumeNode(entropyNode)
            editorNode.SetSourceVolumeIntensityMaskRange(Overlay(entropyNode).threshold, self._maskMaximum())
            editorNode.SourceVolumeIntensityMaskOn()
            self._maskedEditorNode = editorNode
        else:
            self._unmaskEditor()
            editor.setSourceVolumeNode(self._segmentation.GetNodeReference(VOLUME_ROLE))

    def _unmaskEditor(self) -> None:
        """Clear the mask set by this section, whatever is edited now: its range, in bits, is wrong for other volumes.

        Effects such as Threshold and Level tracing then use the image again.
        """
        node = self._maskedEditorNode or self._editorNode()  # a mask in a loaded scene was set by an earlier panel
        source = node.GetSourceVolumeNode() if node else None
        image = source.GetNodeReference(VOLUME_ROLE) if source else None
        if self._maskedEditorNode is not None or image is not None:
            node.SourceVolumeIntensityMaskOff()
        if image is not None:
            node.SetAndObserveSourceVolumeNode(image)
        self._maskedEditorNode = None


def _stamp(segmentation: slicer.vtkMRMLSegmentationNode, labels: Labels) -> tuple:
    """Identifies the state of the segments of a result."""
    return segmentation.GetID(), *labels.stamp()


def _segmentEditor() -> Any:
    """Return Segment Editor's widget, with the parameter node that it otherwise gets when it is first opened."""
    moduleWidget = slicer.util.getModuleWidget("SegmentEditor")
    if moduleWidget.editor.mrmlSegmentEditorNode() is None:
        moduleWidget.selectParameterNode()
    return moduleWidget.editor


def _countText(labels: Labels, count: int) -> str:
    if not count:
        return _("No voxel has been edited.")
    return _("{voxels} have been edited.").format(voxels=labels.countText(count))
