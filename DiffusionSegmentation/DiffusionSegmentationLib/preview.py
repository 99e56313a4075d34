"""What a run has so far, in the views while it goes on: outlines and uncertainty, gone again when it ends. No qt."""

import math
from pathlib import Path

import numpy as np
import slicer
import slicer.util

from . import display, nrrd, scene
from .display import VOLUME_ROLE, Overlay
from .i18n import tr as _


class Preview:
    """Shows the previews of one run. Nothing of it is saved with the scene or outlives the run."""

    def __init__(self) -> None:
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._hidden: list[slicer.vtkMRMLSegmentationNode] = []
        self._overlay: Overlay | None = None
        self._shown: tuple[str, int] | None = None
        self._total = 0.0
        self.change: float | None = None
        """By which part the sum of the entropy has changed from the preview before to this one; None at the first."""

    def show(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, job: str, files: tuple[Path, Path], samples: int
    ) -> None:
        """Show the segmentation and the entropy in `files`, of so many samples; nothing if that was shown.

        A file that is missing or broken, or a volume that is gone, is no preview: what was shown stays.
        """
        if self._shown == (job, samples) or volumeNode.GetScene() is None:
            return
        self._shown = job, samples
        try:
            segmentation = scene.readSegmentation(files[0])
            entropy = scene.readVolume(slicer.vtkMRMLScalarVolumeNode(), files[1])
        except (scene.SceneError, nrrd.NrrdError):
            return
        total = float(slicer.util.arrayFromVolume(entropy).sum(dtype=np.float64))
        self.change = abs(total - self._total) / max(total, 1e-9) if self._total and samples > 1 else None
        self._total = total
        if self._nodes and self._nodes[0].GetScene() is not None and self._nodes[1].GetScene() is not None:
            segmentationNode, entropyNode = self._nodes
            segmentationNode.GetSegmentation().DeepCopy(segmentation)
            entropyNode.SetAndObserveImageData(entropy.GetImageData())
        else:
            self.end()
            self._shown = job, samples
            self._begin(volumeNode, segmentation, entropy)

    def _begin(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentation: slicer.vtkSegmentation,
        entropy: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        mrmlScene, name = volumeNode.GetScene(), volumeNode.GetName()
        for earlier in display.nodesOfClass(mrmlScene, "vtkMRMLSegmentationNode"):
            if earlier.GetNodeReference(VOLUME_ROLE) is volumeNode and earlier.GetDisplayVisibility():
                earlier.SetDisplayVisibility(False)
                self._hidden.append(earlier)
        segmentationNode = mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("{name} preview").format(name=name))
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetAndObserveSegmentation(segmentation)
        display.styleSegmentation(segmentationNode)
        entropy.SetName(_("{name} preview entropy").format(name=name))
        entropyNode = mrmlScene.AddNode(entropy)
        display.styleEntropy(entropyNode, math.log2(segmentation.GetNumberOfSegments() + 1), "samples")
        for node in (segmentationNode, entropyNode):
            node.SetSaveWithScene(False)
            node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        entropyNode.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        self._nodes = [segmentationNode, entropyNode]
        self._overlay = Overlay(entropyNode)
        self._overlay.show()

    def end(self) -> None:
        """Take everything back: layers and earlier results are as they were."""
        if self._overlay is not None:
            self._overlay.hide()
        for node in self._nodes:
            if node.GetScene() is not None:
                for displayNode in [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]:
                    node.GetScene().RemoveNode(displayNode)
                node.GetScene().RemoveNode(node)
        for earlier in self._hidden:
            if earlier.GetScene() is not None:
                earlier.SetDisplayVisibility(True)
        self._nodes, self._hidden, self._overlay, self._shown = [], [], None, None
        self._total, self.change = 0.0, None
