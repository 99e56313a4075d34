"""What a run has so far, in the views while it goes on: outlines and uncertainty, gone again when it ends. No qt."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer
import slicer.util

from ..i18n import tr as _
from . import display
from . import nrrd_files as nrrd
from . import result_nodes as scene
from .display import VOLUME_ROLE, Overlay


class Preview:
    """Shows the previews of one run. Nothing of it is saved with the scene or outlives the run.

    What takes long is done piece by piece, one in each call of `poll`.
    """

    def __init__(self) -> None:
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._hidden: list[slicer.vtkMRMLSegmentationNode] = []
        self._covered: list[slicer.vtkMRMLScalarVolumeNode] = []
        self._overlay: Overlay | None = None
        self._asked: tuple[str, int] | None = None
        self._steps: Iterator[None] | None = None
        self._leaving: list[Iterator[None]] = []
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

    @property
    def busy(self) -> bool:
        """True while `poll` has something to do."""
        return self._steps is not None or bool(self._leaving)

    def poll(self) -> bool:
        """Do the next slow piece of what is to be taken back or shown; True if something new is in sight."""
        if self._leaving:
            if next(self._leaving[0], self) is self:
                del self._leaving[0]
            return False
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
            for node in self._nodes:
                node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
            segmentationNode.SetAndObserveSegmentation(segmentation)
            yield
            entropyNode.SetAndObserveImageData(entropy.GetImageData())
        else:
            self._takeBack()
            yield from self._beginSteps(volumeNode, segmentation, entropy)

    def _beginSteps(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentation: slicer.vtkSegmentation,
        entropy: slicer.vtkMRMLScalarVolumeNode,
    ) -> Iterator[None]:
        mrmlScene, name = volumeNode.GetScene(), volumeNode.GetName()
        for earlier in display.nodesOfClass(mrmlScene, "vtkMRMLScalarVolumeNode"):
            if earlier.GetNodeReference(VOLUME_ROLE) is volumeNode and Overlay(earlier).visible:
                self._covered.append(earlier)
        for earlier in display.nodesOfClass(mrmlScene, "vtkMRMLSegmentationNode"):
            if earlier.GetNodeReference(VOLUME_ROLE) is volumeNode and earlier.GetDisplayVisibility():
                earlier.SetDisplayVisibility(False)
                self._hidden.append(earlier)
        segmentationNode = mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("{name} preview").format(name=name))
        self._nodes.append(segmentationNode)
        segmentationNode.SetSaveWithScene(False)
        segmentationNode.CreateDefaultDisplayNodes()
        display.styleSegmentation(segmentationNode)
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        segmentationNode.SetAndObserveSegmentation(segmentation)
        yield
        entropy.SetName(_("{name} preview entropy").format(name=name))
        entropyNode = mrmlScene.AddNode(entropy)
        self._nodes.append(entropyNode)
        entropyNode.SetSaveWithScene(False)
        entropyNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        entropyNode.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        display.styleEntropy(entropyNode, math.log2(segmentation.GetNumberOfSegments() + 1), _("Entropy (bits)"))
        yield
        self._overlay = Overlay(entropyNode)
        self._overlay.show()

    def end(self, restore: bool = True) -> None:
        """Take everything out of sight; with `restore` layers and earlier results are as they were, else not shown.

        The nodes go in the next calls of `poll`.
        """
        self._takeBack(restore)
        self._asked = self._steps = self.change = None
        self._total = 0.0

    def close(self) -> None:
        """Take everything back, now."""
        self.end()
        while self._leaving:
            self.poll()

    def _takeBack(self, restore: bool = True) -> None:
        if self._overlay is not None:
            self._overlay.hide()
        self._leaving += map(display.removeSteps, self._nodes)
        for earlier in self._hidden if restore else ():
            if earlier.GetScene() is not None:
                earlier.SetDisplayVisibility(True)
        for earlier in self._covered if restore else ():
            if earlier.GetScene() is not None:
                Overlay(earlier).show()
        self._nodes, self._hidden, self._covered, self._overlay = [], [], [], None
