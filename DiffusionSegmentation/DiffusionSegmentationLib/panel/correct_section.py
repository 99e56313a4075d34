"""The panel's section for corrections: the way to Segment Editor, and what the uncertainty makes quicker."""

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
import slicer.util

from ..i18n import tr as _
from ..latest_only import Latest
from ..review import corrections
from ..review.review import Review
from ..scene import display
from ..scene.display import Overlay
from ..scene.label_map import Labels
from ..scene.result_nodes import ENTROPY_ROLE, VOLUME_ROLE
from ..scene.sample_browser import Browser
from ..scene.volumes import mlText
from ..signals import Signal
from .widgets import enable, setQuietly

POLL_MILLISECONDS = 50
REGION = "region"
UNSURE_ATTRIBUTE = "DiffusionSegmentation.UnsureOnly"


class CorrectSection:
    """Acts on one segmentation node of ours. Each change is one step of Segment Editor's undo."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._masked: slicer.vtkMRMLSegmentEditorNode | None = None
        self._stamp: tuple | None = None
        self._countedText = ""
        self._latest = Latest()
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MILLISECONDS
        self._timer.timeout.connect(self._poll)
        self._problem = ""
        self.editing = Signal()
        """Called before Segment Editor is opened."""
        ui.editButton.clicked.connect(self._onEdit)
        ui.unsureOnlyCheckBox.toggled.connect(self._onUnsureOnly)
        ui.reviewSegmentButton.clicked.connect(self._onReviewSegment)
        ui.useSampleButton.clicked.connect(self._onUseSample)
        ui.whereComboBox.currentIndexChanged.connect(lambda _index: self.refresh(self._segmentation))

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Act on `segmentation` from now on, or on nothing."""
        if segmentation is not self._segmentation:
            self._unmaskEditor()
            self._segmentation, self._problem, self._stamp = segmentation, "", None
        ui = self._ui
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        unknown = missing or (None if self._entropy() else _("The entropy volume of this result was removed."))
        enable(ui.editButton, missing, _("Correct the result in Segment Editor."))
        enable(
            ui.unsureOnlyCheckBox,
            unknown,
            _("In Segment Editor every tool changes only voxels whose entropy reaches the threshold of the overlay."),
        )
        setQuietly(ui.unsureOnlyCheckBox, "checked", bool(segmentation and self._unsureOnly()))
        ui.maskLabel.visible = ui.unsureOnlyCheckBox.checked
        enable(
            ui.reviewSegmentButton,
            unknown,
            _("Add a segment of all voxels whose entropy reaches the threshold of the overlay."),
        )
        self._fillPlaces()
        enable(ui.whereComboBox, missing, _("Where the sample takes the place of the result."))
        enable(
            ui.useSampleButton,
            missing or self._noSample(),
            _("Put the sample that is shown in place of the result there; Segment Editor can undo it."),
        )
        if segmentation is None:
            ui.editedLabel.text = missing
        else:
            self._count()
            ui.editedLabel.text = self._problem or self._countedText

    def close(self) -> None:
        """Count nothing more."""
        self._timer.stop()

    def follow(self, bits: float) -> None:
        """Keep Segment Editor's mask in step with the threshold `bits`."""
        editorNode = self._editorNode()
        if self._segmentation and self._unsureOnly() and editorNode:
            editorNode.SetSourceVolumeIntensityMaskRange(bits, self._highest())

    def handEdited(self) -> int:
        """How many voxels a person has changed, counted now; 0 if that cannot be told."""
        try:
            return Labels(self._segmentation).edited()
        except LookupError:
            return 0

    def _fillPlaces(self) -> None:
        """The region under review, the boxes in the scene, and the segments that a person has added."""
        places = {}
        if self._segmentation is not None:
            places[REGION] = _("in the region under review")
            for roiNode in display.nodesOfClass(self._segmentation.GetScene(), "vtkMRMLMarkupsROINode"):
                places[roiNode.GetID()] = _("in the box {name}").format(name=roiNode.GetName())
            segmentation = self._segmentation.GetSegmentation()
            for segmentID in self._added():
                name = segmentation.GetSegment(segmentID).GetName()
                places[f"segment:{segmentID}"] = _("in the segment {name}").format(name=name)
        combo = self._ui.whereComboBox
        if {combo.itemData(n): combo.itemText(n) for n in range(combo.count)} == places:
            return
        chosen = combo.itemData(combo.currentIndex)
        blocked = combo.blockSignals(True)
        combo.clear()
        for key, text in places.items():
            combo.addItem(text, key)
        combo.currentIndex = max(combo.findData(chosen), 0 if places else -1)
        combo.blockSignals(blocked)

    def _added(self) -> list[str]:
        """IDs of the segments that the model does not know."""
        own = {volume["id"] for volume in Browser(self._segmentation).report["volumes"]}
        return [segmentID for segmentID in self._segmentation.GetSegmentation().GetSegmentIDs() if segmentID not in own]

    def _noSample(self) -> str | None:
        if Browser(self._segmentation).shown is None:
            return _("Show a sample first.")
        if self._place() == REGION and Review(self._segmentation).current is None:
            return _("Go to a region first.")
        return None

    def _place(self) -> str:
        return self._ui.whereComboBox.itemData(self._ui.whereComboBox.currentIndex)

    def _mask(self) -> np.ndarray:
        """Where the sample is to be used. Raises LookupError, one sentence."""
        place = self._place()
        if place == REGION:
            region = Review(self._segmentation).current
            if region is None:
                raise LookupError(_("Go to a region first."))
            return corrections.regionMask(self._segmentation, region.basin)
        if place.startswith("segment:"):
            return corrections.segmentMask(self._segmentation, place.removeprefix("segment:"))
        roiNode = self._segmentation.GetScene().GetNodeByID(place)
        if roiNode is None:
            raise LookupError(_("The box is no longer in the scene."))
        return corrections.roiMask(self._segmentation, roiNode)

    def _onUseSample(self, *_arguments: Any) -> None:
        index, place = Browser(self._segmentation).shown, self._place()
        try:
            if index is None:
                raise LookupError(_("Show a sample first."))
            mask = self._mask()
        except LookupError as error:
            self._say(str(error))
            return

        def use() -> None:
            if place.startswith("segment:"):
                corrections.separateLayer(self._segmentation, place.removeprefix("segment:"))
            if not corrections.useSample(self._segmentation, index, mask):
                raise LookupError(_("There the sample is as the result; nothing was changed."))

        self._change(use)

    def _onReviewSegment(self, *_arguments: Any) -> None:
        bits = Overlay(self._entropy()).threshold
        self._change(lambda: corrections.makeReviewSegment(self._segmentation, bits))

    def _change(self, change: Callable[[], object]) -> None:
        """Make one change, as one step of the editor's undo, or say why not."""
        editor = _segmentEditor()
        editor.setSegmentationNode(self._segmentation)
        self._maskEditor()
        editor.saveStateForUndo()
        try:
            change()
        except LookupError as error:
            self._say(str(error))
        else:
            self._say("")

    def _say(self, problem: str) -> None:
        self._problem = problem
        self.refresh(self._segmentation)

    def _count(self) -> None:
        """Count what was changed by hand, off the GUI thread, unless the count is known."""
        try:
            labels = Labels(self._segmentation)
            stamp = (self._segmentation.GetID(), *labels.stamp())
            if stamp == self._stamp:
                return
            # A copy, now: the editor may give the segments other memory while the thread reads.
            current = labels.current()
        except LookupError as error:
            self._stamp, self._countedText = None, str(error)
        else:
            self._stamp = stamp
            self._countedText = _("Comparing with what the model made ...")
            self._latest.ask(lambda: (stamp, _editedText(labels, current)))
            self._timer.start()

    def _poll(self) -> None:
        answer = self._latest.poll()
        if not self._latest.busy:
            self._timer.stop()
        if answer is not None and answer[0] == self._stamp and self._segmentation is not None:
            self._countedText = answer[1]
            self._ui.editedLabel.text = self._problem or self._countedText

    # Segment Editor

    def _entropy(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        return self._segmentation.GetNodeReference(ENTROPY_ROLE) if self._segmentation else None

    def _unsureOnly(self) -> bool:
        return self._segmentation.GetAttribute(UNSURE_ATTRIBUTE) == "1"

    def _highest(self) -> float:
        return float(Browser(self._segmentation).report["max_entropy_bits"]) + 1.0

    def _editorNode(self) -> slicer.vtkMRMLSegmentEditorNode | None:
        """Segment Editor's node while it edits our segmentation."""
        node = _segmentEditor().mrmlSegmentEditorNode() if self._segmentation else None
        return node if node and node.GetSegmentationNode() is self._segmentation else None

    def _onUnsureOnly(self, on: bool) -> None:
        self._segmentation.SetAttribute(UNSURE_ATTRIBUTE, "1" if on else "0")
        if not on:
            self._unmaskEditor()
        if self._editorNode():
            self._maskEditor()
        self.refresh(self._segmentation)

    def _maskEditor(self) -> None:
        """Let Segment Editor, which edits our segmentation, change everything, or only what is unsure."""
        editor = _segmentEditor()
        editorNode, entropyNode = self._editorNode(), self._entropy()
        if self._unsureOnly() and entropyNode is not None:
            editor.setSourceVolumeNode(entropyNode)
            editorNode.SetSourceVolumeIntensityMaskRange(Overlay(entropyNode).threshold, self._highest())
            editorNode.SourceVolumeIntensityMaskOn()
            self._masked = editorNode
        else:
            self._unmaskEditor()
            editor.setSourceVolumeNode(self._segmentation.GetNodeReference(VOLUME_ROLE))

    def _unmaskEditor(self) -> None:
        """Take back a mask of ours, whatever the editor edits by now: its range in bits suits no other volume.

        Threshold, Level tracing and the like work on the image again.
        """
        node = self._masked or self._editorNode()  # a mask may be older than this panel, as after loading a scene
        source = node.GetSourceVolumeNode() if node else None
        image = source.GetNodeReference(VOLUME_ROLE) if source else None
        if self._masked is not None or image is not None:
            node.SourceVolumeIntensityMaskOff()
        if image is not None:
            node.SetAndObserveSourceVolumeNode(image)
        self._masked = None

    def _onEdit(self, *_arguments: Any) -> None:
        self.editing.emit()
        slicer.util.selectModule("SegmentEditor")
        _segmentEditor().setSegmentationNode(self._segmentation)
        if self._editorNode():
            self._maskEditor()


def _segmentEditor() -> Any:
    """Segment Editor's widget, with the parameter node that it otherwise gets when a person first opens it."""
    moduleWidget = slicer.util.getModuleWidget("SegmentEditor")
    if moduleWidget.editor.mrmlSegmentEditorNode() is None:
        moduleWidget.selectParameterNode()
    return moduleWidget.editor


def _editedText(labels: Labels, current: np.ndarray) -> str:
    count = labels.edited(current)
    if not count:
        return _("The result is as the model made it.")
    return _("{count} voxels ({volume} ml) are not as the model made them.").format(
        count=count, volume=mlText(count * labels.voxelMl)
    )
