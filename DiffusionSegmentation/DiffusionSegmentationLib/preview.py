"""What a run has so far, in the views while it goes on: outlines and uncertainty, gone again when it ends. No qt."""

import math
from collections.abc import Iterator
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
        self._covered: list[slicer.vtkMRMLScalarVolumeNode] = []
        self._overlay: Overlay | None = None
        self._asked: tuple[str, int] | None = None
        self._steps: Iterator[None] | None = None
        self._total = 0.0
        self.change: float | None = None
        """By which part the sum of the entropy has changed from the preview before to this one; None at the first."""

    def show(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, job: str, files: tuple[Path, Path], count: int) -> None:
        """Show, in the next calls of `poll`, the segmentation and the entropy in `files`, of `count` samples.

        Nothing is done if that was asked before. A file that is missing or broken, or a volume that is gone, is no
        preview: what was shown stays.
        """
        if self._asked != (job, count):
            self._asked = job, count
            self._steps = self._showSteps(volumeNode, files, count)

    def poll(self) -> bool:
        """Do the next slow piece of what is to be shown; True if something new is in sight."""
        if self._steps is None:
            return False
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            return True
        except (scene.SceneError, nrrd.NrrdError):
            self._steps = None
        return False

    def _showSteps(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, files: tuple[Path, Path], count: int
    ) -> Iterator[None]:
        segmentation = scene.readSegmentation(files[0])
        yield
        entropy = scene.readVolume(slicer.vtkMRMLScalarVolumeNode(), files[1])
        yield
        if volumeNode.GetScene() is None:
            return
        total = float(slicer.util.arrayFromVolume(entropy).sum(dtype=np.float64))
        self.change = abs(total - self._total) / max(total, 1e-9) if self._total and count > 1 else None
        self._total = total
        if self._nodes and all(node.GetScene() is not None for node in self._nodes):
            segmentationNode, entropyNode = self._nodes
            segmentationNode.SetAndObserveSegmentation(segmentation)
            entropyNode.SetAndObserveImageData(entropy.GetImageData())
            for node in self._nodes:
                node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        else:
            self._takeBack()
            self._begin(volumeNode, segmentation, entropy)

    def _begin(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentation: slicer.vtkSegmentation,
        entropy: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        mrmlScene, name = volumeNode.GetScene(), volumeNode.GetName()
        for earlier in display.nodesOfClass(mrmlScene, "vtkMRMLScalarVolumeNode"):
            if earlier.GetNodeReference(VOLUME_ROLE) is volumeNode and Overlay(earlier).visible:
                self._covered.append(earlier)
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
        display.styleEntropy(entropyNode, math.log2(segmentation.GetNumberOfSegments() + 1), _("Entropy (bits)"))
        for node in (segmentationNode, entropyNode):
            node.SetSaveWithScene(False)
            node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        entropyNode.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        self._nodes = [segmentationNode, entropyNode]
        self._overlay = Overlay(entropyNode)
        self._overlay.show()

    def end(self, restore: bool = True) -> None:
        """Take everything back; with `restore` layers and earlier results are as they were, else not shown again."""
        self._takeBack(restore)
        self._asked = self._steps = self.change = None
        self._total = 0.0

    def _takeBack(self, restore: bool = True) -> None:
        if self._overlay is not None:
            self._overlay.hide()
        for node in self._nodes:
            display.removeNode(node)
        for earlier in self._hidden if restore else ():
            if earlier.GetScene() is not None:
                earlier.SetDisplayVisibility(True)
        for earlier in self._covered if restore else ():
            if earlier.GetScene() is not None:
                Overlay(earlier).show()
        self._nodes, self._hidden, self._covered, self._overlay = [], [], [], None
