"""Preview of an active run in the views: outlines and entropy of the samples drawn so far. Independent of Qt."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import slicer.util

from ..i18n import tr as _
from . import display, nrrd_files, result_nodes
from .display import VOLUME_ROLE, Overlay


class Preview:
    """Shows the previews of one run; its nodes are neither saved with the scene nor kept after the run.

    Slow work is split into steps, one for each call of `poll`.
    """

    def __init__(self) -> None:
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._hidden: list[tuple[slicer.vtkMRMLNode, Callable[[], None]]] = []
        """Nodes of earlier results, each with a function that shows it again."""
        self._overlay: Overlay | None = None
        self._requested: tuple[str, int] | None = None
        self._steps: Iterator[None] | None = None
        self._removals: list[Iterator[None]] = []
        self._total = 0.0
        self.change: float | None = None
        """Relative change of the summed entropy since the previous preview; None for the first."""

    def show(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, job: str, files: tuple[Path, Path], count: int) -> None:
        """Show the segmentation and entropy in `files`, computed from `count` samples, in the next calls of `poll`.

        Has no effect if this preview was requested before. The previous preview stays if a file is missing or broken or
        if the volume was removed.
        """
        if self._requested != (job, count):
            self._requested = job, count
            self._steps = self._showSteps(volumeNode, files, count)

    @property
    def busy(self) -> bool:
        return self._steps is not None or bool(self._removals)

    def poll(self) -> bool:
        """Do the next step of removing or showing; True if a new preview is shown completely."""
        if self._removals:
            if next(self._removals[0], self) is self:
                del self._removals[0]
            return False
        if self._steps is None:
            return False
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            return True
        except nrrd_files.ResultFileError:
            self._steps = None
        return False

    def _showSteps(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, files: tuple[Path, Path], count: int
    ) -> Iterator[None]:
        segmentation = result_nodes.readSegmentation(files[0])
        yield
        entropy = result_nodes.readVolume(slicer.vtkMRMLScalarVolumeNode(), files[1])
        yield
        if volumeNode.GetScene() is None:
            return
        total = float(slicer.util.arrayFromVolume(entropy).sum(dtype=np.float64))
        self.change = abs(total - self._total) / max(total, 1e-9) if self._total and count > 1 else None
        self._total = total
        # Without an overlay a newer preview ended the steps that add the nodes.
        if self._overlay is not None and all(node.GetScene() is not None for node in self._nodes):
            segmentationNode, entropyNode = self._nodes
            for node in self._nodes:
                node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
            segmentationNode.SetAndObserveSegmentation(segmentation)
            yield
            entropyNode.SetAndObserveImageData(entropy.GetImageData())
        else:
            self._discardNodes()
            yield from self._addSteps(volumeNode, segmentation, entropy)

    def _addSteps(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentation: slicer.vtkSegmentation,
        entropy: slicer.vtkMRMLScalarVolumeNode,
    ) -> Iterator[None]:
        """Hide earlier results of the volume and add the nodes of the preview."""
        name = volumeNode.GetName()
        for earlier in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if earlier.GetNodeReference(VOLUME_ROLE) is volumeNode and Overlay(earlier).visible:
                self._hidden.append((earlier, Overlay(earlier).show))
        for earlier in result_nodes.resultsOf(volumeNode):
            if earlier.GetDisplayVisibility():
                earlier.SetDisplayVisibility(False)
                self._hidden.append((earlier, functools.partial(earlier.SetDisplayVisibility, True)))
        segmentationNode = slicer.vtkMRMLSegmentationNode()
        segmentationNode.SetName(_("{name} preview").format(name=name))
        self._addNode(segmentationNode, volumeNode)
        segmentationNode.CreateDefaultDisplayNodes()
        display.styleSegmentation(segmentationNode)
        segmentationNode.SetAndObserveSegmentation(segmentation)
        yield
        entropy.SetName(_("{name} preview entropy").format(name=name))
        self._addNode(entropy, volumeNode)
        entropy.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        display.styleEntropy(entropy, math.log2(segmentation.GetNumberOfSegments() + 1), _("Entropy (bits)"))
        yield
        self._overlay = Overlay(entropy)
        self._overlay.show()

    def _addNode(self, node: slicer.vtkMRMLTransformableNode, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        node.SetSaveWithScene(False)  # before observers are told of the node: they list only nodes that are saved
        volumeNode.GetScene().AddNode(node)
        self._nodes.append(node)
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())

    def end(self, restore: bool = True) -> None:
        """Hide the preview, whose nodes `poll` removes; `restore` shows earlier overlays and results again."""
        self._discardNodes(restore)
        self._requested = self._steps = self.change = None
        self._total = 0.0

    def close(self) -> None:
        """End the preview and remove its nodes at once."""
        self.end()
        while self._removals:
            self.poll()

    def _discardNodes(self, restore: bool = True) -> None:
        if self._overlay is not None:
            self._overlay.hide()
        self._removals += map(display.removeSteps, self._nodes)
        for earlier, show in self._hidden if restore else ():
            if earlier.GetScene() is not None:
                show()
        self._nodes, self._hidden, self._overlay = [], [], None
